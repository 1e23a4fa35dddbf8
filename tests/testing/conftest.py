"""What tests of FakeQueue share."""

import pytest

import asynctasq
from asynctasq.core import setup
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.testing import FakeQueue


@pytest.fixture
def queue(fake_queue: FakeQueue) -> FakeQueue:
    return fake_queue


@pytest.fixture
def outside() -> MemoryDriver:
    """The queue that is configured: what is not faked goes there."""
    asynctasq.init(driver="memory")
    driver = setup.current_setup().queue.driver
    assert isinstance(driver, MemoryDriver)
    return driver
