"""FaultyDriver around real drivers: the contract while nothing goes wrong, and each fault when it does."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Inspectable, KeepsResults, Migratable, Notifies, Transactional
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import ConfigError, DriverUnavailable
from asynctasq.kernel.messages import Complete, Message, Release
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from asynctasq.testing import Crash, Delay, FailAfter, FailBefore, Faults, FaultyDriver, LoseReply, VirtualClock
from asynctasq.testing.conformance.suite import *  # noqa: F403 - over a driver that is wrapped
from asynctasq.testing.faults import DirectedFault, FaultChoice, Latency, SkewClock
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.servers import Servers
from tests.patience import patient_s

CONFORMANCE_DRIVERS = ("tests.testing.faults.faulty_harness:make_harness",)
CONFORMANCE_PINNED = True


class Work(AsyncTask[None]):
    max_attempts = 1
    max_crashes = 1_000  # on a busy machine a short lease may run out often

    async def execute(self) -> None:
        await asyncio.sleep(0)


def message(number: int = 1) -> Message:
    return Message(id=f"m{number}", queue="q", body=b"body")


def simulated(program: Callable[[FaultyDriver, MemoryDriver], Awaitable[object]], faults: FaultChoice) -> FaultyDriver:
    clock = VirtualClock()
    inner = MemoryDriver(clock=clock)
    driver = FaultyDriver(inner, faults)

    async def main() -> None:
        await program(driver, inner)

    SimulationLoop(clock=clock).run(main())
    return driver


@pytest.mark.parametrize(
    ("fault", "stored"),
    [(FailBefore(at="enqueue"), 0), (FailAfter(at="enqueue"), 1), (LoseReply(at="enqueue"), 1)],
    ids=["before", "after", "lost"],
)
def test_a_failed_call_has_the_effect_its_fault_says(fault: DirectedFault, stored: int) -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        with pytest.raises(DriverUnavailable, match="simulated fault"):
            await driver.enqueue([message()])
        assert (await inner.depth("q")).ready == stored

    assert simulated(program, fault).faults.fired == {fault.kind: 1}


def test_a_lost_reply_is_noticed_only_later() -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        with pytest.raises(DriverUnavailable):
            await driver.enqueue([message()])
        assert asyncio.get_running_loop().time() == 7.0

    simulated(program, [LoseReply(at="enqueue"), Faults(reply_timeout_s=7.0)])


def test_a_turn_is_a_settle_and_a_reserve_too() -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        await driver.enqueue([message()])
        with pytest.raises(DriverUnavailable):
            await driver.turn([], ["q"], limit=1, lease_s=30)
        _, [lease] = await driver.turn([], ["q"], limit=1, lease_s=30)
        with pytest.raises(DriverUnavailable):
            await driver.turn([(lease, Complete())], ["q"], limit=0, lease_s=30)
        assert await driver.turn([(lease, Complete())], ["q"], limit=0, lease_s=30) == ({"m1"}, [])

    simulated(program, [FailBefore(at="reserve"), FailAfter(at="settle")])


def test_a_delay_is_before_or_after_the_effect() -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        call = asyncio.get_running_loop().create_task(driver.enqueue([message()]))
        await asyncio.sleep(2)
        assert (await inner.depth("q")).ready == 0
        await asyncio.sleep(2)
        assert (await inner.depth("q")).ready == 1
        assert not call.done()
        await call
        assert asyncio.get_running_loop().time() == 6.0

    simulated(program, [Delay(at="enqueue:before", seconds=3), Delay(at="enqueue:after", seconds=3)])


def test_a_cancelled_reserve_keeps_no_lease() -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        await driver.enqueue([message()])
        call = asyncio.get_running_loop().create_task(driver.reserve(["q"], limit=1, lease_s=30))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await inner.depth("q")).ready == 1

    simulated(program, Delay(at="reserve:after", seconds=5))


def test_faults_end_when_asked() -> None:
    async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
        with pytest.raises(DriverUnavailable):
            await driver.enqueue([message(1)])
        driver.faults.add(FailBefore(at="enqueue"))
        driver.faults.stop()
        await driver.enqueue([message(2)])

    simulated(program, FailBefore(at="enqueue"))


def test_a_crash_is_what_the_caller_says_it_is() -> None:
    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    async def main() -> None:
        driver = FaultyDriver(MemoryDriver(), Crash(at="settle:before"), on_crash=die)
        await driver.enqueue([message()])
        [lease] = await driver.reserve(["q"], limit=1, lease_s=30)
        with pytest.raises(Died):
            await driver.settle([(lease, Release(counted=False))])

    asyncio.run(main())


@pytest.mark.parametrize(
    "faults",
    [
        Faults(crash=0.1),
        Crash(at="settle:before"),
        Faults(duplicate=0.1),
        Faults(stop=0.1),
        Faults(lease_expiry=0.1),
        Faults(clock_skew=3),
        SkewClock(worker="driver", seconds=9),
    ],
)
def test_what_can_not_be_done_to_a_real_driver_is_refused(faults: FaultChoice) -> None:
    with pytest.raises(ConfigError, match=r"FakeQueue or @simulate|on_crash="):
        FaultyDriver(MemoryDriver(), faults)


@pytest.mark.parametrize("at", ["before_settle", "mid_attempt", "in_failed_hook", "during_shutdown"])
def test_a_crash_where_no_call_of_a_driver_is_is_refused(at: str) -> None:
    with pytest.raises(ConfigError, match=f"{at}.*FakeQueue or @simulate"):
        FaultyDriver(MemoryDriver(), Crash(at=at), on_crash=lambda: None)


NEVER = FailBefore(at="reserve")


async def test_a_fault_that_never_fired_fails_when_the_driver_is_closed() -> None:
    driver = FaultyDriver(MemoryDriver(), NEVER)
    await driver.enqueue([message()])

    with pytest.raises(AssertionError, match=r"FailBefore\(at='reserve'\) \(had 0 occasions\)"):
        await driver.close()


async def test_a_fault_that_fired_or_need_not_is_no_failure() -> None:
    driver = FaultyDriver(MemoryDriver(), [FailBefore(at="enqueue"), FailBefore(at="reserve", must_fire=False)])
    with pytest.raises(DriverUnavailable):
        await driver.enqueue([message()])

    await driver.close()


async def test_closing_in_a_finally_hides_no_other_error() -> None:
    driver = FaultyDriver(MemoryDriver(), NEVER)

    with pytest.raises(ZeroDivisionError) as caught:
        try:
            _ = 1 / 0
        finally:
            await driver.close()

    assert caught.value.__context__ is None


async def test_a_driver_in_a_with_statement_is_opened_and_called_to_account() -> None:
    with pytest.raises(AssertionError, match="never fires"):
        async with FaultyDriver(MemoryDriver(), NEVER) as driver:
            await driver.enqueue([message()])

    with pytest.raises(ZeroDivisionError):
        async with FaultyDriver(MemoryDriver(), NEVER):
            _ = 1 / 0


async def test_the_inner_driver_is_closed_whatever_the_account_says() -> None:
    closed: list[bool] = []

    class Inner(MemoryDriver):
        async def close(self) -> None:
            closed.append(True)

    with pytest.raises(AssertionError):
        await FaultyDriver(Inner(), NEVER).close()

    assert closed == [True]


async def test_another_thread_that_closes_its_part_is_not_called_to_account() -> None:
    driver = FaultyDriver(MemoryDriver(), NEVER)

    await asyncio.to_thread(asyncio.run, driver.close())


def test_what_the_inner_driver_can_do_is_not_lost() -> None:
    inner = MemoryDriver()
    driver = FaultyDriver(inner, Faults(fail_before=0.1))
    driver.clock_offset = 5.0

    assert inner.clock_offset == 5.0 == driver.clock_offset
    assert driver.capabilities == inner.capabilities
    assert str(driver) == str(inner)
    for protocol in (Inspectable, KeepsResults, Migratable, Notifies, Transactional):
        assert isinstance(driver, protocol)


def test_the_same_seed_strikes_the_same_calls() -> None:
    def failures(seed: int) -> list[int]:
        failed: list[int] = []

        async def program(driver: FaultyDriver, inner: MemoryDriver) -> None:
            for number in range(50):
                try:
                    await driver.enqueue([message(number)])
                except DriverUnavailable:
                    failed.append(number)

        simulated(program, Faults(seed=seed, fail_before=0.1, fail_after=0.1))
        return failed

    assert failures(3) == failures(3) != failures(4)


# -- on an ordinary event loop, with the real worker -----------------------------------------------

TROUBLE = Faults(
    seed=5,
    fail_before=0.1,
    fail_after=0.1,
    lost_reply=0.1,
    latency=Latency(typical_s=0.002, often=0.3, rarely=0.0),
    reply_timeout_s=0.01,
)


async def work_through(inner: Driver, count: int) -> FaultyDriver:
    """Let a real worker run `count` tasks on this driver while calls go wrong."""
    driver = FaultyDriver(inner, TROUBLE)
    factory = MessageFactory()
    await inner.open()
    await inner.enqueue([factory.message(Work()) for _ in range(count)])
    settings = WorkerSettings(application=Application(), lease_s=1, handle_signals=False)
    worker = Worker(driver, concurrency=5, settings=settings, runtime=ProductionRuntime(wait_s=0.2))
    running = asyncio.get_running_loop().create_task(worker.start())
    async with asyncio.timeout(patient_s(60)):
        while True:
            depth = await inner.depth("default")
            if not (depth.ready or depth.scheduled or depth.reserved):
                break
            await asyncio.wait([running], timeout=0.02)
    driver.faults.stop()
    worker.stop()
    await running
    assert (await inner.depth("default")).dead == 0
    await inner.close()
    return driver


async def test_a_real_worker_on_sqlite_survives_calls_that_go_wrong(tmp_path: Path) -> None:
    driver = await work_through(SQLiteDriver(tmp_path / "queue.db"), 60)

    assert {"fail_before", "fail_after", "lost_reply", "slow"} <= driver.faults.fired.keys()


async def test_a_real_worker_on_redis_survives_calls_that_go_wrong(conformance_servers: Servers) -> None:
    driver = await work_through(RedisDriver.from_url(conformance_servers.redis().url), 60)

    assert {"fail_before", "fail_after", "lost_reply", "slow"} <= driver.faults.fired.keys()
