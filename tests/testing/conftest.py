"""What tests of FakeQueue share."""

from collections.abc import Iterator

import pytest

import asynctasq
from asynctasq.core import setup
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.testing import FakeQueue


@pytest.fixture
def queue(fake_queue: FakeQueue) -> FakeQueue:
    return fake_queue


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryDriver]:
    """The queue that is configured: what is not faked goes there."""
    monkeypatch.setattr(setup, "_current", None)
    asynctasq.init(driver="memory")
    driver = setup.current_setup().queue.driver
    assert isinstance(driver, MemoryDriver)
    yield driver
    setup._replaced.clear()
