"""What the conformance suite can't see of the memory driver: what depends on the very microsecond."""

import asyncio
from dataclasses import replace

import pytest

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import Complete, Message, Release
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.loop import SimulationLoop


def _message(name: str, queue: str) -> Message:
    return Message(id=name, queue=queue, body=b"")


async def test_an_id_used_again_in_another_queue_has_left_the_first() -> None:
    driver = MemoryDriver(clock=VirtualClock())
    await driver.enqueue([_message("m", "a")])
    [lease] = await driver.reserve(["a"], limit=1, lease_s=30)

    await driver.settle([(lease, Complete(follow_ups=(_message("m", "b"),)))])

    assert await driver.reserve(["a"], limit=1, lease_s=30) == []
    assert [lease.queue for lease in await driver.reserve(["b"], limit=1, lease_s=30)] == ["b"]


async def test_an_id_used_again_goes_to_the_end_of_the_queue() -> None:
    driver = MemoryDriver(clock=VirtualClock())
    await driver.enqueue([_message("first", "a"), _message("second", "a")])
    await driver.cancel(["first"])

    await driver.enqueue([_message("first", "a")])

    leases = await driver.reserve(["a"], limit=2, lease_s=30)
    assert [lease.message_id for lease in leases] == ["second", "first"]


@pytest.mark.parametrize("start_us", [1_000_002, 1_000_008, 7 * 86_400 * 1_000_000 + 3])
@pytest.mark.parametrize("call", ["reserve", "wait_visible"])
def test_a_wait_in_virtual_time_ends_at_its_microsecond(call: str, start_us: int) -> None:
    loop = SimulationLoop()
    driver = MemoryDriver(clock=loop.clock)
    loop.clock.move_to_us(start_us)  # 1.000008 + 1 is a little more than 2.000008

    if call == "reserve":
        assert loop.run(driver.reserve(["a"], limit=1, lease_s=30, wait_s=1)) == []
    else:
        assert loop.run(driver.wait_visible(["a"], wait_s=1)) is False

    assert loop.clock.elapsed_us - start_us == 1_000_000


def test_a_lease_that_is_shortened_ends_a_wait_sooner() -> None:
    loop = SimulationLoop()
    driver = MemoryDriver(clock=loop.clock)

    async def seconds_waited() -> float:
        await driver.enqueue([_message("m", "a")])
        [lease] = await driver.reserve(["a"], limit=1, lease_s=600)
        waiting = loop.create_task(driver.wait_visible(["a"], wait_s=3600))
        await asyncio.sleep(1)
        await driver.extend([lease], lease_s=5)
        assert await waiting
        return loop.time()

    assert loop.run(seconds_waited()) == 6


@pytest.mark.parametrize("later", [0, 50])
def test_a_wait_is_not_disturbed_by_what_becomes_visible_later(later: int) -> None:
    loop = SimulationLoop()
    driver = MemoryDriver(clock=loop.clock)

    async def steps_of_the_wait() -> int:
        await driver.enqueue([replace(_message("m", "a"), delay_s=60)])
        waiting = loop.create_task(driver.wait_visible(["a"], wait_s=3600))
        await asyncio.sleep(1)
        await driver.enqueue([replace(_message(f"m{n}", "a"), delay_s=60 + n) for n in range(later)])
        before = loop.steps
        assert await waiting
        assert loop.time() == 60
        return loop.steps - before

    assert loop.run(steps_of_the_wait()) == 2  # the timer, and the wait itself


def test_a_wait_goes_on_when_its_message_is_delayed_again() -> None:
    loop = SimulationLoop()
    driver = MemoryDriver(clock=loop.clock)

    async def waited() -> tuple[int, float]:
        await driver.enqueue([_message("m", "a")])
        [lease] = await driver.reserve(["a"], limit=1, lease_s=30)
        waiting = loop.create_task(driver.wait_visible(["a"], wait_s=7200))
        await asyncio.sleep(1)
        await driver.settle([(lease, Release(delay_s=3600, counted=True))])
        before = loop.steps
        assert await waiting
        return loop.steps - before, loop.time()

    assert loop.run(waited()) == (2, 3601)
