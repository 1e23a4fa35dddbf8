"""The MySQL/MariaDB driver among others and in trouble: contention, cuts, restarts, cancellation, waiting."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.driver import POLL_S_MAX
from asynctasq.drivers.mysql_driver.pool import SESSION_SETTINGS, Connection, connect
from asynctasq.drivers.mysql_driver.statements import Statements, server_now
from asynctasq.drivers.sql.waiting import PollBackoff
from asynctasq.errors import DriverError, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Depth, Lease, Message, Release, Settlement
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.servers import Servers
from tests.drivers.mysql_driver.support import ids, messages
from tests.patience import SOON_S, until

SQL = Statements("asynctasq")
FAR_S = 3600.0


async def status(store: MySQLHarness, name: str) -> int:
    async with store.admin() as admin:
        return int((await admin.run(f"SHOW GLOBAL STATUS LIKE '{name}'"))[0].rows[0][1])


# -- among others --------------------------------------------------------------------------------


async def test_eight_reservers_take_each_message_once(store: MySQLHarness) -> None:
    drivers = [store.create() for _ in range(8)]
    total = 10_000
    await drivers[0].enqueue([Message(id=f"m{number}", queue="abc"[number % 3], body=b"x") for number in range(total)])
    taken: Counter[str] = Counter()

    async def work(driver: MySQLDriver, seed: int) -> None:
        rng = random.Random(seed)
        settlements: list[tuple[Lease, Settlement]] = []
        while taken.total() < total or settlements:
            queues = rng.sample("abc", 3)
            lost, leases = await driver.turn(settlements, queues, limit=rng.choice([1, 10, 100]), lease_s=600)
            assert lost == set()
            taken.update(lease.message_id for lease in leases)
            settlements = [(lease, Complete()) for lease in leases]

    await asyncio.gather(*(work(driver, seed) for seed, driver in enumerate(drivers)))

    assert len(taken) == total
    assert taken.total() == total
    assert await drivers[0].queues() == []


async def test_no_deadlock_reaches_whoever_works_on_the_same_messages(store: MySQLHarness) -> None:
    drivers = [store.create() for _ in range(8)]
    await drivers[0].enqueue(messages(*(f"m{number}" for number in range(20))))
    deadlocks = await status(store, "Innodb_deadlocks")
    end = 0.0

    async def act(driver: MySQLDriver, seed: int) -> None:
        rng, held = random.Random(seed), list[Lease]()
        while asyncio.get_running_loop().time() < end:
            held = await _do_something(driver, rng, held)

    async def had_a_deadlock() -> bool:
        nonlocal end
        end = asyncio.get_running_loop().time() + 2.5
        await asyncio.gather(*(act(driver, seed) for seed, driver in enumerate(drivers)))
        return await status(store, "Innodb_deadlocks") > deadlocks

    # Without deadlocks on the server this would show nothing.
    await until(had_a_deadlock, "the server had a deadlock")


async def _do_something(driver: MySQLDriver, rng: random.Random, held: list[Lease]) -> list[Lease]:
    names = [f"m{rng.randrange(40)}" for _ in range(rng.choice([1, 20]))]
    match rng.choice("eettttxcdpz"):
        case "e":
            await driver.enqueue(messages(*names, queue=rng.choice("qr")))
        case "t":
            rng.shuffle(held)
            ends: list[Settlement] = [
                Complete(result=b"r", result_ttl_s=0.01),
                Release(counted=True),
                Bury(reason=DeadReason.FAILED),
                Complete(follow_ups=tuple(messages(names[0]))),
            ]
            settlements = [(lease, rng.choice(ends)) for lease in held[:20]]
            _, leases = await driver.turn(settlements, rng.sample("qr", 2), limit=20, lease_s=rng.choice([0.001, 0.05]))
            return held[20:40] + leases
        case "x":
            await driver.extend(held, lease_s=0.05)
        case "c":
            await driver.cancel(names)
        case "d":
            await driver.discard(names)
        case "p":
            await driver.purge("q")
        case _:
            await driver.redrive("q", limit=20)
    return held


async def test_rows_that_another_transaction_holds_do_not_delay_a_reserve(
    store: MySQLHarness, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = (*SESSION_SETTINGS, f"SET SESSION innodb_lock_wait_timeout = {FAR_S:.0f}")
    monkeypatch.setattr("asynctasq.drivers.mysql_driver.pool.SESSION_SETTINGS", patient)
    driver = store.create()
    await driver.enqueue(messages("a"))
    await connection.run("START TRANSACTION", "SELECT id FROM asynctasq_messages FOR UPDATE")

    async with asyncio.timeout(SOON_S):
        assert await driver.reserve(["q"], limit=1, lease_s=9) == []
        assert await driver.reserve(["r", "s", "q"], limit=1, lease_s=9) == []
        assert await driver.reserve(["q"], limit=1, lease_s=9, wait_s=0.2) == []


async def test_a_claim_of_a_backlog_goes_on_where_the_last_one_ended(store: MySQLHarness) -> None:
    driver = store.create()
    late = await store.begin()
    await driver.enqueue_in(late.connection, messages("late"))
    await driver.enqueue(messages(*"abcdefgh"))
    first = await driver.reserve(["q"], limit=3, lease_s=600)
    second = await driver.reserve(["q"], limit=3, lease_s=600)
    await late.commit()

    # It asks for more than there is behind the last position, so it looks from the front as well.
    third = await driver.reserve(["q"], limit=3, lease_s=600)

    assert [ids(leases) for leases in (first, second, third)] == [["a", "b", "c"], ["d", "e", "f"], ["late", "g", "h"]]


# -- trouble -------------------------------------------------------------------------------------


async def test_after_a_cut_the_next_call_works_or_says_so(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("a"))
    for _ in range(3):
        await store.break_connections()
        with contextlib.suppress(DriverUnavailable):
            await driver.depth("q")

        assert (await driver.depth("q")).ready == 1


async def test_a_killed_server_loses_nothing_and_is_found_again(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("a", "b"))
    (lease,) = await driver.reserve(["q"], limit=1, lease_s=600)

    store.server.stop(kill=True)
    with pytest.raises(DriverUnavailable, match=r"mysql://127\.0\.0\.1"):
        await driver.depth("q")
    with pytest.raises(DriverUnavailable):
        await driver.reserve(["q"], limit=1, lease_s=9, wait_s=5)
    await asyncio.to_thread(store.server.start)

    assert await driver.settle([(lease, Complete())]) == set()
    assert ids(await driver.reserve(["q"], limit=9, lease_s=9)) == ["b"]


async def test_a_connection_cut_in_a_large_enqueue_stores_all_or_nothing(
    store: MySQLHarness, connection: Connection
) -> None:
    driver = store.create()
    await driver.open()
    batch = [Message(id=f"m{number}", queue="q", body=b"x" * 100) for number in range(100_000)]
    await connection.run("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")

    storing = asyncio.ensure_future(driver.enqueue(batch))
    while not (await connection.run("SELECT EXISTS (SELECT 1 FROM asynctasq_messages)"))[0].rows[0][0]:
        assert not storing.done()
    await store.break_connections()
    with pytest.raises(DriverUnavailable):
        await storing

    assert (await driver.depth("q")).ready == 0
    assert len(await driver.enqueue(batch)) == 100_000


async def test_a_silent_server_is_given_up_in_time(store: MySQLHarness) -> None:
    driver = MySQLDriver(store.url, command_timeout_s=0.3)
    await driver.open()
    pid = store.server.pid
    assert pid is not None

    os.kill(pid, signal.SIGSTOP)
    try:
        await until_stopped(pid)
        async with asyncio.timeout(SOON_S):
            with pytest.raises(DriverUnavailable, match="did not answer in time"):
                await driver.depth("q")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (await driver.depth("q")).ready == 0
    await driver.close()


async def until_stopped(pid: int) -> None:
    """Wait until every thread of a process is stopped."""
    tasks = Path(f"/proc/{pid}/task")
    await until(lambda: all(" T " in (task / "stat").read_text() for task in tasks.iterdir()), "all threads stopped")


async def test_close_is_bounded_while_the_server_is_silent(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("a"))
    pid = store.server.pid
    assert pid is not None

    os.kill(pid, signal.SIGSTOP)
    await until_stopped(pid)
    try:
        asking = asyncio.ensure_future(driver.depth("q"))
        await asyncio.sleep(0)
        async with asyncio.timeout(SOON_S):
            await driver.close()
        with pytest.raises(DriverUnavailable):
            await asking
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_server_without_a_free_connection_is_unavailable(store: MySQLHarness) -> None:
    driver = store.create()
    async with store.admin() as admin:
        ((_, before),) = (await admin.run("SHOW VARIABLES LIKE 'max_connections'"))[0].rows
        used = await status(store, "Threads_connected")
        await admin.run(f"SET GLOBAL max_connections = {max(10, used)}")
        taken: list[Connection] = []
        try:
            with pytest.raises(DriverUnavailable):
                while True:
                    taken.append(await connect(parse_address(store.url, command_timeout_s=5)))
            with pytest.raises(DriverUnavailable):
                # An administrator has one connection more than there are.
                await asyncio.gather(driver.open(), store.create().open(), store.create().open())
        finally:
            await admin.run(f"SET GLOBAL max_connections = {before}")
            for connection in taken:
                await connection.close()
    assert (await driver.depth("q")).ready == 0


async def test_more_calls_than_connections_take_turns(store: MySQLHarness) -> None:
    driver = MySQLDriver(store.url, max_connections=2)
    await driver.enqueue(messages(*(f"m{number}" for number in range(50))))

    taken = await asyncio.gather(*(driver.reserve(["q"], limit=1, lease_s=60) for _ in range(50)))

    assert len({lease.message_id for (lease,) in taken}) == 50
    async with store.admin() as admin:
        found = f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{store.database}'"
        assert (await admin.run(found))[0].rows[0][0] <= 2
    await driver.close()


# -- cancellation --------------------------------------------------------------------------------


async def _cancel_at(step: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
    """Cancel a call after that many turns of the loop; return False if it ended before."""
    call = asyncio.ensure_future(make())
    for _ in range(step):
        await asyncio.sleep(0)
    call.cancel()
    ended = await asyncio.gather(call, return_exceptions=True)
    assert not isinstance(ended[0], DriverError)
    return isinstance(ended[0], asyncio.CancelledError)


@pytest.mark.parametrize("first_use", [True, False])
async def test_a_reserve_cancelled_anywhere_leaves_no_lease_behind(store: MySQLHarness, first_use: bool) -> None:
    await store.create().enqueue(messages("a", "b"))
    cancelled = 0
    for step in range(0, 60, 3):
        driver = store.create()
        if not first_use:
            await driver.open()
        cancelled += await _cancel_at(step, lambda: driver.reserve(["r", "q"], limit=9, lease_s=600))  # noqa: B023
        leases = await driver.reserve(["q"], limit=9, lease_s=600)

        if cancelled:
            assert [(lease.message_id, lease.crashes) for lease in leases] in ([("a", 0), ("b", 0)], [])
        await driver.settle([(lease, Release(counted=False)) for lease in leases])
        await driver.close()
    assert cancelled > 2  # how many turns of the loop a call takes depends on how busy the machine is


async def test_a_turn_cancelled_anywhere_settles_and_leaves_the_connection_in_step(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.open()
    cancelled = 0
    for step in range(40):
        await driver.enqueue(messages(f"a{step}", f"b{step}"))
        (lease,) = await driver.reserve(["q"], limit=1, lease_s=600)
        cancelled += await _cancel_at(
            step,
            lambda: driver.turn([(lease, Complete())], ["q"], limit=9, lease_s=600),  # noqa: B023
        )

        await driver.settle([(lease, Complete())])
        rest = await driver.reserve(["q"], limit=9, lease_s=600)
        if rest:
            assert [(one.message_id, one.attempt, one.crashes) for one in rest] == [(f"b{step}", 1, 0)]
            await driver.settle([(one, Complete()) for one in rest])
        else:
            assert cancelled <= step, "a call that was not cancelled has the lease"
            async with store.admin() as admin:
                await admin.run(f"DELETE FROM {store.database}.asynctasq_messages")
    assert cancelled > 2  # how many turns of the loop a call takes depends on how busy the machine is
    assert await driver.depth("q") == Depth(ready=0, scheduled=0, reserved=0, dead=0)


async def test_calls_cancelled_at_random_leak_no_connection(store: MySQLHarness) -> None:
    driver = MySQLDriver(store.url, max_connections=3)
    await driver.open()
    rng = random.Random(7)

    async def call(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(0, 0.02)):
                await driver.enqueue(messages(*(f"m{number}-{index}" for index in range(600))))
                await driver.reserve(["q"], limit=50, lease_s=600)
                await driver.reserve(["none"], limit=1, lease_s=600, wait_s=9)

    for number in range(60):
        await call(number)

    async with asyncio.timeout(SOON_S), store.admin() as admin:
        found = f"SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{store.database}'"
        while (await admin.run(found))[0].rows[0][0] > 3:
            await admin.run("DO SLEEP(0.05)")
    depth = await driver.depth("q")
    # Each enqueue is whole or not at all.
    assert (depth.ready + depth.reserved) % 600 == 0
    await driver.close()


# -- waiting -------------------------------------------------------------------------------------


@pytest.fixture
def _idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits begin as after a long idle time: the next look by itself is an hour away."""

    def pace(*, first_s: float, longest_s: float, rng: random.Random) -> PollBackoff:
        made = PollBackoff(first_s=first_s, longest_s=longest_s, rng=rng)
        if longest_s == POLL_S_MAX:
            made._next_s = FAR_S
        return made

    monkeypatch.setattr("asynctasq.drivers.mysql_driver.driver.PollBackoff", pace)


async def waits(driver: MySQLDriver) -> None:
    """Return when a call of this driver sleeps."""
    await until(lambda: any(waiter._event._waiters for waiter in driver._wakeups._waiters), "a call waits")


@pytest.mark.usefixtures("_idle_for_long")
async def test_another_instance_of_this_process_wakes_a_waiting_reserve_at_once(store: MySQLHarness) -> None:
    waiting, other = store.create(), store.create()
    await other.open()
    call = asyncio.ensure_future(waiting.reserve(["q"], limit=1, lease_s=9, wait_s=FAR_S))
    await waits(waiting)

    await other.enqueue(messages("a"))

    async with asyncio.timeout(SOON_S):
        assert ids(await call) == ["a"]


async def test_a_lease_made_shorter_by_this_process_wakes_at_once_and_a_renewal_nobody(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("a", "b"))
    leases = await driver.reserve(["q"], limit=2, lease_s=60)

    with driver._wakeups.waiting(["q"]) as waiter:
        lost = await driver.extend(leases, lease_s=120)
        renewed = await waiter.wait(0.1)
        await driver.extend(leases, lease_s=1)
        shortened = await waiter.wait(SOON_S)

    assert (lost, renewed, shortened) == (set(), False, True)


async def test_a_message_of_another_process_is_found_by_polling(store: MySQLHarness, connection: Connection) -> None:
    driver = store.create()
    call = asyncio.ensure_future(driver.wait_visible(["q"], wait_s=FAR_S))
    await waits(driver)

    await connection.run(SQL.insert(messages("a"), now=server_now(0), claim="0"))

    async with asyncio.timeout(SOON_S):
        assert await call


@pytest.mark.usefixtures("_idle_for_long")
async def test_a_commit_of_the_caller_is_noticed_soon(store: MySQLHarness) -> None:
    driver = store.create()
    call = asyncio.ensure_future(driver.reserve(["q"], limit=1, lease_s=9, wait_s=FAR_S))
    await waits(driver)
    transaction = await store.begin()
    await driver.enqueue_in(transaction.connection, messages("a"))

    await transaction.commit()

    async with asyncio.timeout(SOON_S):
        assert ids(await call) == ["a"]


async def test_a_second_of_idleness_costs_less_than_a_statement(store: MySQLHarness) -> None:
    driver = store.create()
    with contextlib.suppress(TimeoutError):
        # The pauses have grown by then.
        await driver.wait_visible(["q"], wait_s=3.5)
    before = await status(store, "Com_select")
    call = asyncio.ensure_future(driver.wait_visible(["q", "r", "s"], wait_s=30))
    await asyncio.sleep(8)
    statements = await status(store, "Com_select") - before
    call.cancel()

    assert statements <= 8


def test_several_loops_one_after_the_other_need_no_close(conformance_servers: Servers) -> None:
    harness = MySQLHarness(conformance_servers.mysql())
    asyncio.run(harness.prepare())
    driver = harness.create()

    async def once(number: int) -> int:
        await driver.enqueue(messages(str(number)))
        return (await driver.depth("q")).ready

    assert [asyncio.run(once(number)) for number in range(3)] == [1, 2, 3]
    asyncio.run(_close_and_clean_up(driver, harness))


async def _close_and_clean_up(driver: MySQLDriver, harness: MySQLHarness) -> None:
    await driver.depth("q")
    await driver.close()
    await harness.clean_up()
