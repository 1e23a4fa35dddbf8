"""Cancelling whatever a message is doing, where `cancels_running` is claimed: fenced, atomic, told to all concerned."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from asynctasq.drivers.base import CancelsRunning, Driver, KeepsResults
from asynctasq.kernel.messages import (
    CANCELLED_TTL_S,
    Bury,
    Complete,
    DeadReason,
    Lease,
    Release,
    Settlement,
    cancelled_mark,
    cancelled_token,
)
from asynctasq.testing.conformance.cancelling import cancel_at_each_suspension
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message, together
from asynctasq.testing.patience import patient_s

NEEDS = "cancels_running"
WAIT_S = patient_s(30)
KEPT = Complete(result=b"r", result_ttl_s=2 * CANCELLED_TTL_S)


def _cancels(driver: Driver) -> CancelsRunning:
    assert isinstance(driver, CancelsRunning), f"{driver} claims {NEEDS} and lacks a method of it"
    return driver


async def _cancel(store: StoreUnderTest, *names: str) -> Mapping[str, str]:
    return await _cancels(store.driver).cancel_running(names)


async def _mark(store: StoreUnderTest, name: str) -> str | None:
    """Return the token in the mark that is kept of a cancelled message, None if none is."""
    kept = await store.keeps_results().fetch_result(name)
    return None if kept is None else cancelled_token(kept)


@conforms("cancel_running: removes what is no dead letter; returns the tokens of leases, '' for none", needs=NEEDS)
async def test_cancelling_removes_all_but_dead_letters(store: StoreUnderTest) -> None:
    expired = await store.lease("expired", lease_s=store.brief_s)
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    await store.settle((await store.lease("retried"), Release(counted=True, delay_s=500.0)))
    held = await store.lease("held")
    await store.expire()
    await store.put("ready")
    await store.put("later", delay_s=500.0)
    everything = ["expired", "dead", "retried", "held", "ready", "later", "never was", "", "\n", "ready"]

    cancelled = await _cancel(store, *everything)

    assert cancelled == {"expired": expired.token, "retried": "", "held": held.token, "ready": "", "later": ""}
    await store.assert_depth(dead=1)
    assert [await store.inspectable().find(name) for name in cancelled] == [None] * 5
    assert await _cancel(store, *everything) == {}, "the second time there is nothing left to cancel"
    assert await _cancel(store) == {}


@conforms("cancel_running: the token is stale: nothing is extended, settled or followed", needs=NEEDS)
async def test_a_cancelled_lease_settles_nothing(store: StoreUnderTest) -> None:
    ends: list[Settlement] = [
        Complete(result=b"r", result_ttl_s=60.0, follow_ups=(message("follow-0"),)),
        Release(counted=True, follow_ups=(message("follow-1"),)),
        Bury(reason=DeadReason.FAILED, follow_ups=(message("follow-2"),)),
    ]
    names = [f"m{number}" for number in range(len(ends))]
    await store.put(*names)
    leases = await store.take(len(names))
    await _cancel(store, *names)

    assert await store.driver.extend(leases, lease_s=LONG_S) == {*names}
    assert await store.driver.settle([*zip(leases, ends, strict=True)]) == {*names}

    await store.assert_depth()
    await store.assert_nothing_visible()
    assert [await _mark(store, lease.message_id) for lease in leases] == [lease.token for lease in leases]


@conforms("cancel_running: the id is free; an old token says nothing of the new message", needs=NEEDS)
async def test_a_cancelled_id_may_be_used_again(store: StoreUnderTest) -> None:
    old = await store.lease("m")
    await _cancel(store, "m")
    new = await store.lease("m")
    assert new.token != old.token
    assert (new.attempt, new.crashes) == (1, 0)

    assert await store.driver.extend([old, new], lease_s=LONG_S) == {"m"}
    assert await store.driver.settle([(old, Complete(follow_ups=(message("no"),)))]) == {"m"}

    await store.assert_depth(reserved=1)
    assert await _mark(store, "m") == old.token, "the holder of the old lease still learns why it is lost"
    await store.settle((new, KEPT))
    assert await store.keeps_results().fetch_result("m") == b"r"


@conforms("cancel_running: the mark is kept for an hour, in place of an earlier result", needs=NEEDS)
async def test_a_mark_is_kept_for_its_time_and_no_longer(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), KEPT))
    lease = await store.lease("m")
    await store.put("waits")
    keeps = store.keeps_results()
    assert await keeps.fetch_result("m") == b"r"

    await _cancel(store, "m", "waits")

    assert await keeps.fetch_result("m") == cancelled_mark(lease.token)
    assert await keeps.fetch_result("waits") == cancelled_mark("")
    await store.advance(CANCELLED_TTL_S - 30)
    assert await _mark(store, "m") == lease.token
    await store.advance(30)
    assert await keeps.fetch_result("m") is None, "the earlier result is gone, too"
    assert await keeps.fetch_result("waits") is None


@conforms("cancel_running and settle: of a leased message exactly one wins, follow-ups included", needs=NEEDS)
async def test_a_race_of_cancelling_and_settling_has_one_winner(store: StoreUnderTest) -> None:
    other = store.create()
    for number in range(store.sized(20)):
        lease = await store.lease(f"m{number}")
        follow_up = message(f"follow-{number}", queue="followed")
        ends: list[Settlement] = [
            Complete(follow_ups=(follow_up,)),
            Release(counted=True, delay_s=500.0, follow_ups=(follow_up,)),
            Bury(reason=DeadReason.FAILED, follow_ups=(follow_up,)),
        ]
        end = ends[number % 3]

        cancelled, lost = await asyncio.gather(_cancel(store, lease.message_id), other.settle([(lease, end)]))

        token = cancelled.get(lease.message_id)
        won = token == lease.token
        assert won == bool(lost), f"cancelled {cancelled}, lost {lost}"
        assert won or token == ("" if isinstance(end, Release) and token is not None else None)
        followed = await store.inspectable().find(follow_up.id)
        assert (followed is None) == won, "the follow-up of a settlement that came too late exists"


@conforms("cancel_running and reserve: a message is cancelled once, and its holder can know it", needs=NEEDS)
async def test_a_race_of_cancelling_and_reserving_leaves_nothing(store: StoreUnderTest) -> None:
    other = store.create()
    for number in range(store.sized(20)):
        name = f"m{number}"
        await store.put(name)

        cancelled, leases = await asyncio.gather(_cancel(store, name), other.reserve([Q], limit=1, lease_s=LONG_S))

        assert cancelled == {name: leases[0].token if leases else ""}, f"reserved {ids(leases)}"
        assert await _mark(store, name) == cancelled[name]
        await store.assert_depth()


@conforms("cancel_running: called twice at once, one call removes it", needs=NEEDS)
async def test_of_two_calls_one_removes(store: StoreUnderTest) -> None:
    other = _cancels(store.create())
    for number in range(store.sized(10)):
        lease = await store.lease(f"m{number}")

        first, second = await together(_cancel(store, lease.message_id), other.cancel_running([lease.message_id]))

        assert sorted([*first.items(), *second.items()]) == [(lease.message_id, lease.token)]


@conforms("cancel_running cancelled: the message is gone with its mark, or is where it was", needs=NEEDS)
async def test_a_cancelled_call_cancels_whole_or_not_at_all(store: StoreUnderTest) -> None:
    leases: list[Lease] = []

    async def call() -> Coroutine[Any, Any, object]:
        leases.append(await store.lease(f"m{len(leases)}"))
        return _cancels(store.driver).cancel_running([leases[-1].message_id])

    async def check() -> None:
        lease = leases[-1]
        # A command whose reply nobody waits for may still be on its way, but not past one that asks for the same.
        lost = await store.driver.settle([(lease, Complete())])
        kept = await store.keeps_results().fetch_result(lease.message_id)
        assert (kept == cancelled_mark(lease.token)) == bool(lost), f"lost {lost}, kept {kept!r}"

    await cancel_at_each_suspension(call, check, at_least=store.sized(20))
    await store.assert_depth()


@conforms("cancel_running: wakes calls that wait for the end of the message", needs=NEEDS)
async def test_cancelling_wakes_who_waits_for_the_end(store: StoreUnderTest) -> None:
    other = store.create()
    assert isinstance(other, KeepsResults)
    await store.lease("held")
    await store.put("waits")
    waiting = asyncio.gather(*(other.wait_result(name, wait_s=WAIT_S) for name in ("held", "waits")))
    await _settled_down(waiting)
    started = time.perf_counter()

    await _cancel(store, "held", "waits")

    assert await waiting == [True, True]
    _assert_prompt(store, started, "wait_result")


@conforms("wait_cancelled: woken by the cancellation of what its holder has reserved, and of nothing else", needs=NEEDS)
async def test_the_holder_of_a_cancelled_message_is_woken(store: StoreUnderTest) -> None:
    others, holder = store.driver, store.create()
    await _until_told(store, others, holder)


@conforms("wait_cancelled: woken by what another process cancels, where that is claimed without limit", needs=NEEDS)
async def test_the_holder_is_woken_by_another_process(store: StoreUnderTest) -> None:
    other = store.other()
    if store.capabilities.claims()[NEEDS].level == "yes":
        await _until_told(store, other, store.driver)


async def _until_told(store: StoreUnderTest, others: Driver, holder: Driver) -> None:
    await others.enqueue([message("theirs"), message("ours"), message("nobody's")])
    others.holder = "others"
    theirs = await others.reserve([Q], limit=1, lease_s=LONG_S)
    holder.holder = "holder"
    ours = await holder.reserve([Q], limit=1, lease_s=LONG_S)
    waiting = asyncio.ensure_future(_cancels(holder).wait_cancelled(wait_s=WAIT_S))
    await _settled_down(waiting)
    await _cancels(others).cancel_running([theirs[0].message_id, "nobody's"])
    await _settled_down(waiting)
    assert not waiting.done(), "woken, though nothing of this holder was cancelled"
    started = time.perf_counter()

    await _cancels(others).cancel_running([ours[0].message_id])

    assert await waiting
    _assert_prompt(store, started, "wait_cancelled")


@conforms("wait_cancelled: False after `wait_s`, and once the driver is closed; takes nothing", needs=NEEDS)
async def test_a_wait_for_news_ends_with_nothing(store: StoreUnderTest) -> None:
    store.driver.holder = "holder"
    cancels = _cancels(store.driver)
    lease = await store.lease("m")
    assert not await cancels.wait_cancelled(wait_s=0.1)
    given_up = asyncio.ensure_future(cancels.wait_cancelled(wait_s=WAIT_S))
    await _settled_down(given_up)
    given_up.cancel()
    await asyncio.wait([given_up])
    waiting = asyncio.ensure_future(cancels.wait_cancelled(wait_s=WAIT_S))
    await _settled_down(waiting)

    await store.driver.close()

    assert not await waiting
    assert await store.driver.extend([lease], lease_s=LONG_S) == set()


async def _settled_down(waiting: "asyncio.Future[Any]") -> None:
    """Let a call come to where it waits, and show that it does."""
    for _ in range(6):
        await asyncio.sleep(0.02)
    assert not waiting.done(), "the call did not wait"


def _assert_prompt(store: StoreUnderTest, started: float, what: str) -> None:
    took_s = time.perf_counter() - started
    most_s = patient_s(2.5) * (1 if store.capabilities.wakes_waiting.level == "yes" else 3)
    assert took_s < most_s, f"{what} returned {took_s:.1f} s after the message was cancelled"
