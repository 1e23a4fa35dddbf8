"""Runs the asynchronous tests of modules that say `BOTH_LOOPS = True` on asyncio's loop and on uvloop's."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.testing.fake_queue.shared_loop import code, seen


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if getattr(getattr(item, "module", None), "BOTH_LOOPS", False):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task, a task factory or a patched loop behind."""
    seen.clear()
    code.clear()
    yield
    gc.collect()  # a future nobody asked would warn now
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert loop.get_task_factory() is None
    assert "call_later" not in vars(loop)
