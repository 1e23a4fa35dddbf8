"""Every Python block of the guide, which specifies the public API, runs as written.

The guide is not part of the project; these tests run where it lies beside the checkout. Dispatches land in a
FakeQueue, and what needs no network is then executed, too. Those on ORMs run in test_guide_orms, on real databases.
"""

import ast
import asyncio
import inspect
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

import asynctasq
from asynctasq.core import setup
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue
from asynctasq.utils.loop import run as uv_run

GUIDE = Path(__file__).parents[3] / "shared" / "seed" / "class-based-tasks.md"
BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
NOT_INSTALLED = ("numpy", "aiofiles")
NEEDS_NETWORK = ("httpx", "requests")
NEEDS_DATABASE = ("from sqlalchemy", "from django", "from tortoise")


def blocks() -> list[str]:
    if not GUIDE.is_file():
        return []
    return [textwrap.dedent(text) for text in BLOCK.findall(GUIDE.read_text(encoding="utf-8"))]


BLOCKS = blocks()
PLAIN = [(number, text) for number, text in enumerate(BLOCKS) if not any(word in text for word in NEEDS_DATABASE)]


def block_with(words: str) -> str:
    return next(text for text in BLOCKS if words in text)


class TaskClass(AsyncTask[None]):
    """What the guide's syntax pattern calls a task."""

    def __init__(self, param: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.param = param

    async def execute(self) -> None: ...


class SendEmail(AsyncTask[bool]):
    """What one fragment dispatches without defining it."""

    def __init__(self, to: str, subject: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    async def execute(self) -> bool:
        return True


def namespace(name: str) -> dict[str, Any]:
    """Return the globals of a block: the names that fragments of the guide use without importing them."""
    return {
        "__name__": name,
        "AsyncProcessTask": AsyncProcessTask,
        "AsyncTask": AsyncTask,
        "SendEmail": SendEmail,
        "SyncProcessTask": SyncProcessTask,
        "SyncTask": SyncTask,
        "TaskClass": TaskClass,
        "asyncio": asyncio,
        "driver": MemoryDriver(),
        "uv_run": uv_run,
        "value": 1,
    }


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in NOT_INSTALLED:
        monkeypatch.setitem(sys.modules, missing, types.ModuleType(missing))
    monkeypatch.setattr("time.sleep", lambda seconds: None)


async def execute(code: str, name: str) -> dict[str, Any]:
    """Run a block's statements, awaiting at top level where it does."""
    names = namespace(name)
    module = types.ModuleType(name)
    names.setdefault("__builtins__", __builtins__)
    module.__dict__.update(names)
    sys.modules[name] = module
    compiled = compile(code, f"<guide {name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(compiled, module.__dict__)
    if inspect.isawaitable(result):
        running = asyncio.ensure_future(result)
        await asyncio.sleep(0)
        worker = module.__dict__.get("worker")
        if isinstance(worker, Worker):
            while not running.done():
                worker.stop(immediate=True)
                await asyncio.sleep(0)
        await running
    return module.__dict__


@pytest.mark.parametrize(("number", "text"), PLAIN, ids=[f"block{number}" for number, _ in PLAIN])
async def test_block_runs(number: int, text: str) -> None:
    async with FakeQueue() as queue:
        names = await execute(text, f"guide_block_{number}")
        main = names.get("main")
        if main is not None:
            await main()
            assert queue.dispatched()
        if not any(word in text for word in NEEDS_NETWORK):
            result = await queue.run_until_idle()
            assert result.errors == ()
            assert result.succeeded == len(queue.dispatched())


def test_the_guide_has_as_many_blocks_as_we_know() -> None:
    if GUIDE.is_file():
        assert len(BLOCKS) == 54


def test_init_with_a_bare_driver_name_opens_nothing() -> None:
    asynctasq.init({"driver": "redis"})

    assert str(setup.current_setup().queue.driver)
