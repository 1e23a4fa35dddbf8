"""The SQLite driver while it waits: wake-ups across instances, loops and processes, and cancelled calls."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver, statements
from asynctasq.drivers.sqlite_driver.thread import Operation
from asynctasq.kernel.messages import Complete
from tests.drivers.sqlite_driver.support import FAR_S, connection_of, message, reserve, write_lock
from tests.patience import SOON_S, until

# -- waiting -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look that makes up for lost wake-ups is an hour away, so that what comes in time was woken."""
    monkeypatch.setattr("asynctasq.drivers.sqlite_driver.driver.RECHECK_S", FAR_S)


async def test_another_instance_in_this_process_wakes_at_once(path: Path) -> None:
    waiting, storing = SQLiteDriver(path, poll_s=FAR_S), SQLiteDriver(path, poll_s=FAR_S)
    task = asyncio.create_task(reserve(waiting, wait_s=FAR_S))
    await wait_is_registered(waiting)

    await storing.enqueue([message(1)])

    async with asyncio.timeout(SOON_S):
        assert [lease.message_id for lease in await task] == ["m1"]
    await waiting.close()
    await storing.close()


async def wait_is_registered(driver: SQLiteDriver) -> None:
    """Return when a call of this driver waits."""

    def waits() -> bool:
        session = driver._sessions.get_if_open()
        return session is not None and any(waiter._event._waiters for waiter in session.waiters)

    await until(waits, "a call waits")


async def test_another_loop_in_this_process_wakes_at_once(path: Path) -> None:
    waiting = SQLiteDriver(path, poll_s=FAR_S)
    task = asyncio.create_task(reserve(waiting, wait_s=FAR_S))
    await wait_is_registered(waiting)

    def store() -> None:
        async def main() -> None:
            await waiting.enqueue([message(1)])
            await waiting.close()

        asyncio.run(main())

    await asyncio.to_thread(store)

    async with asyncio.timeout(SOON_S):
        assert [lease.message_id for lease in await task] == ["m1"]
    await waiting.close()


async def test_a_commit_of_another_process_wakes(driver: SQLiteDriver, path: Path) -> None:
    task = asyncio.create_task(reserve(driver, wait_s=FAR_S))
    await wait_is_registered(driver)
    program = (
        "import asyncio\nfrom asynctasq.drivers.sqlite_driver import SQLiteDriver as D\n"
        "from asynctasq.kernel.messages import Message\n"
        f"asyncio.run(D({str(path)!r}).enqueue([Message(id='m1', queue='mail', body=b'')]))"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await child.wait() == 0

    async with asyncio.timeout(SOON_S):
        assert [lease.message_id for lease in await task] == ["m1"]


async def test_waiting_ends_when_the_next_message_is_due(path: Path) -> None:
    driver = SQLiteDriver(path, poll_s=FAR_S)
    await driver.enqueue([message(1, delay_s=0.2), message(2, delay_s=FAR_S)])

    async with asyncio.timeout(SOON_S):
        leases = await reserve(driver, wait_s=FAR_S)

    assert [lease.message_id for lease in leases] == ["m1"]
    await driver.close()


async def test_other_calls_go_on_while_one_waits(driver: SQLiteDriver) -> None:
    task = asyncio.create_task(driver.wait_visible(["mail"], wait_s=FAR_S))
    await wait_is_registered(driver)

    async with asyncio.timeout(SOON_S):
        assert await driver.turn([], ["other"], limit=1, lease_s=30) == (frozenset(), [])

    await driver.close()
    assert await task is False


async def test_the_file_is_not_polled_while_nothing_waits(driver: SQLiteDriver) -> None:
    await driver.wait_visible(["mail"], wait_s=0.05)
    statements_seen: list[str] = []
    connection_of(driver).set_trace_callback(statements_seen.append)

    await asyncio.sleep(0.1)  # ten looks, if there were any

    assert statements_seen == []


# -- cancelling ----------------------------------------------------------------------------------


async def test_a_reserve_cancelled_before_it_began_takes_nothing(driver: SQLiteDriver, path: Path) -> None:
    await driver.enqueue([message(1)])
    with write_lock(path):
        first = asyncio.create_task(driver.enqueue([message(2)]))  # keeps the thread busy until the lock is free
        await asyncio.sleep(0)
        task = asyncio.create_task(reserve(driver))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await first

    assert [(lease.message_id, lease.crashes) for lease in await reserve(driver)] == [("m1", 0), ("m2", 0)]


@pytest.mark.parametrize("together", [False, True])
async def test_a_reserve_cancelled_too_late_gives_back_what_it_took(
    driver: SQLiteDriver, path: Path, together: bool
) -> None:
    await driver.enqueue([message(1), message(2)])
    task = asyncio.create_task(reserve(driver, 1))
    await asyncio.sleep(0)
    with closing(sqlite3.connect(path)) as other:
        # The loop stands still meanwhile, so the result can't be received.
        while other.execute("SELECT sum(leased) FROM asynctasq_message").fetchone() == (0,):
            pass
    loop = asyncio.get_running_loop()
    while not loop._ready:  # type: ignore[attr-defined]  # until the thread has handed the result to the loop
        pass
    if together:
        loop.call_soon(task.cancel)  # after the result, before the task sees it
    else:
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    leases = await reserve(driver)
    assert [(lease.message_id, lease.attempt, lease.crashes) for lease in leases] == [("m1", 1, 0), ("m2", 1, 0)]


async def test_a_given_back_message_keeps_its_place_and_fences_the_lost_lease(driver: SQLiteDriver) -> None:
    await driver.enqueue([message(1), message(2)])
    session = await driver._sessions.get()
    taken = await session.submit(
        Operation(steps=lambda now: statements.reserve(("mail!h", "mail", "mail!l"), 1, 30, now), now_us=driver._now_us)
    )
    hand_back = driver._hand_back(taken)
    assert hand_back is not None

    await session.submit(hand_back)

    leases = await reserve(driver)
    assert [lease.message_id for lease in leases] == ["m1", "m2"]
    assert await driver.settle([(taken.leases[0], Complete())]) == {"m1"}
