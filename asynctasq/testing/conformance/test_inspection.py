"""`depth` for every driver, and what an operator sees and removes where `inspects` is claimed."""

import asyncio

import pytest

from asynctasq.drivers.base import Page
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release, State
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message


@conforms("depth: ready, scheduled, reserved, dead; all zero for a queue that never was")
async def test_depth_counts_by_state(store: StoreUnderTest) -> None:
    await store.assert_depth(queue="never-was")
    assert (await store.driver.depth("never-was")).oldest_age_s is None
    await store.put("held", "dies", "done")
    held, dies, done = sorted(await store.take(3), key=lambda lease: ["held", "dies", "done"].index(lease.message_id))
    await store.settle((dies, Bury(reason=DeadReason.FAILED)), (done, Complete()))
    await store.put("later", "much later", delay_s=500.0)
    await store.put("r1", "r2", "r3")

    await store.assert_depth(ready=3, scheduled=2, reserved=1, dead=1)
    await store.settle((held, Release(counted=True, delay_s=500.0)))
    await store.assert_depth(ready=3, scheduled=3, dead=1)


@conforms("Depth.oldest_age_s: how long the message first in line has been visible", needs="exact_depth")
async def test_depth_tells_the_age_of_the_first_in_line(store: StoreUnderTest) -> None:
    assert (await store.driver.depth(Q)).oldest_age_s is None
    await store.put("delayed", delay_s=100.0)
    assert (await store.driver.depth(Q)).oldest_age_s is None, "what is not visible has no age"
    await store.advance(160.0)
    await store.put("young")

    age_s = (await store.driver.depth(Q)).oldest_age_s

    assert age_s is not None
    assert 60 <= age_s < 90, f"visible for 60 s, and the age is {age_s}"
    await store.take(1)
    age_s = (await store.driver.depth(Q)).oldest_age_s
    assert age_s is not None
    assert age_s < 30, "the age is of the message first in line, which is young now"


@conforms("queues: the names of all queues that hold a message, sorted", needs="inspects")
async def test_queues_are_those_that_hold_a_message(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    assert await inspect.queues() == []
    await store.put("a", queue="zebra")
    await store.put("b", queue="Apple", delay_s=500.0)
    await store.put("c", queue="held")
    await store.take_one("held")
    await store.put("d", queue="dead")
    await store.settle((await store.take_one("dead"), Bury(reason=DeadReason.FAILED)))
    await store.put("e", queue="done")
    await store.settle((await store.take_one("done"), Complete()))

    assert await inspect.queues() == sorted(["zebra", "Apple", "held", "dead"])


@conforms("find: the message as an operator sees it, None if no such message lives", needs="inspects")
async def test_find_shows_every_state(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    await store.driver.enqueue([message("m", body=b"\x00\xff", delay_s=100.0)])

    stored = await inspect.find("m")
    assert stored is not None
    assert (stored.id, stored.queue, stored.body, stored.state) == ("m", Q, b"\x00\xff", State.SCHEDULED)
    assert (stored.attempts, stored.crashes, stored.reason, stored.error) == (0, 0, None, None)
    assert stored.visible_at - stored.enqueued_at == pytest.approx(100.0, abs=1e-5)
    await store.advance(100.0)
    assert await _state(store, "m") is State.READY
    lease = await store.take_one(lease_s=store.brief_s)
    stored = await inspect.find("m")
    assert stored is not None
    assert stored.state is State.RESERVED
    assert stored.visible_at == pytest.approx(lease.expires_at, abs=1e-5)
    assert stored.enqueued_at == pytest.approx(lease.enqueued_at, abs=1e-5)
    await store.expire()
    assert await _state(store, "m") is State.READY, "an expired lease counts as ready"
    await store.settle((lease, Bury(reason=DeadReason.FAILED)))
    assert await _state(store, "m") is State.DEAD
    await store.driver.redrive(Q, limit=1)
    assert await _state(store, "m") is State.READY
    await store.settle((await store.take_one(), Complete()))
    assert await inspect.find("m") is None
    assert await inspect.find("never was") is None


async def _state(store: StoreUnderTest, name: str) -> State | None:
    stored = await store.inspectable().find(name)
    return stored.state if stored else None


@conforms("Release.error: kept until the next one", needs="inspects")
async def test_the_last_error_of_a_retry_is_kept(store: StoreUnderTest) -> None:
    error = ErrorRecord(type="ValueError", message="ü \x00", traceback="tb")
    await store.settle((await store.lease("m"), Release(counted=True, error=error)))
    assert (await _found_error(store)) == error

    await store.settle((await store.take_one(), Release(counted=False)))
    assert (await _found_error(store)) == error, "a hand-back without an error leaves the last one"

    newer = ErrorRecord(type="KeyError", message="'k'")
    await store.settle((await store.take_one(), Release(counted=True, error=newer)))
    assert (await _found_error(store)) == newer


async def _found_error(store: StoreUnderTest) -> ErrorRecord | None:
    stored = await store.inspectable().find("m")
    assert stored is not None
    return stored.error


async def _pages(store: StoreUnderTest, *, state: State | None = None, limit: int) -> list[Page]:
    inspect = store.inspectable()
    pages = [await inspect.list_messages(Q, state=state, limit=limit)]
    while pages[-1].cursor is not None:
        assert len(pages) < 100, "the cursor never ends"
        pages.append(await inspect.list_messages(Q, state=state, limit=limit, cursor=pages[-1].cursor))
    return pages


@conforms("list_messages: in the order of arrival, page by page", needs="inspects")
async def test_listing_goes_page_by_page_in_order_of_arrival(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in (4, 1, 5, 9, 2, 6, 3)]
    await store.driver.enqueue([
        message(name, delay_s=100.0 * (number % 3)) for number, name in enumerate(names)
    ])  # fmt: skip
    await store.put("elsewhere", queue="other")

    for limit in (1, 2, 3, 6, 7, 100):
        pages = await _pages(store, limit=limit)

        assert [name for page in pages for name in ids(page.messages)] == names, f"with pages of {limit}"
        assert all(len(page.messages) <= limit for page in pages)
    assert (await store.inspectable().list_messages("never-was")) == Page(messages=[], cursor=None)


@conforms("list_messages: of one state", needs="inspects")
async def test_listing_may_be_of_one_state(store: StoreUnderTest) -> None:
    await store.lease("expired", lease_s=store.brief_s)
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    await store.lease("held")
    await store.advance(store.brief_s)
    await store.put("ready")
    await store.put("later", delay_s=500.0)

    listed = {
        state: [name for page in await _pages(store, state=state, limit=1) for name in ids(page.messages)]
        for state in (State.READY, State.SCHEDULED, State.RESERVED, State.DEAD)
    }

    assert listed == {
        State.READY: ["expired", "ready"],
        State.SCHEDULED: ["later"],
        State.RESERVED: ["held"],
        State.DEAD: ["dead"],
    }


@conforms("cancel: removes those that are scheduled or ready (an expired lease is ready)", needs="inspects")
async def test_cancel_removes_what_waits_and_nothing_else(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    expired = await store.lease("expired", lease_s=store.brief_s)
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    held = await store.lease("held")
    await store.expire()
    await store.put("ready")
    await store.put("later", delay_s=500.0)
    await store.put("other", queue="other")
    everything = ["expired", "dead", "held", "ready", "later", "other", "never was", "ready"]

    assert await inspect.cancel(everything) == {"expired", "ready", "later", "other"}

    await store.assert_depth(reserved=1, dead=1)
    await store.assert_depth(queue="other")
    assert await inspect.cancel(everything) == set()
    assert await inspect.cancel([]) == set()
    assert await store.driver.settle([(expired, Complete())]) == {"expired"}, "its message is gone"
    await store.settle((held, Complete()))
    assert await store.driver.enqueue([message("ready")]) == ["ready"], "a cancelled message no longer lives"


@conforms("discard: removes those that are dead letters", needs="inspects")
async def test_discard_removes_dead_letters_and_nothing_else(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    await store.settle((await store.lease("kept"), Bury(reason=DeadReason.FAILED)))
    await store.lease("held")
    await store.put("ready")

    assert await inspect.discard(["dead", "held", "ready", "never was"]) == {"dead"}

    await store.assert_depth(ready=1, reserved=1, dead=1)
    assert await inspect.find("dead") is None
    assert await store.driver.redrive(Q, limit=10) == 1
    assert await store.driver.enqueue([message("dead")]) == ["dead"], "a discarded message no longer lives"


@conforms("redrive_ids: dead letters back to ready, as redrive does; nothing else", needs="inspects")
async def test_redrive_by_id_makes_those_dead_letters_ready(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    for name in ("dead", "kept", "again"):
        error = ErrorRecord(type="E", message="no")
        end = Bury(reason=DeadReason.FAILED, error=error, counted=True, crashed=True)
        await store.settle((await store.lease(name), end))
    await store.lease("held")
    await store.put("ready")
    await store.advance(1.0)

    assert await inspect.redrive_ids(["again", "held", "dead", "ready", "never was", "dead"]) == {"again", "dead"}
    assert await inspect.redrive_ids(["dead"]) == set()
    assert await inspect.redrive_ids([]) == set()

    await store.assert_depth(ready=3, reserved=1, dead=1)
    found = await inspect.find("dead")
    assert found is not None
    assert (found.state, found.attempts, found.reason, found.error) == (State.READY, 0, None, None)
    leases = {lease.message_id: lease for lease in await store.take(3)}
    assert leases.keys() == {"dead", "again", "ready"}
    assert (leases["dead"].attempt, leases["dead"].crashes) == (1, 0)
    assert leases["dead"].enqueued_at > leases["ready"].enqueued_at
    assert await store.driver.redrive(Q, limit=10) == 1, "the third one is a dead letter still"


@conforms("find, cancel, discard, redrive_ids: an id that no message can have is that of none", needs="inspects")
async def test_impossible_ids_are_those_of_no_message(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    await store.put("ready")
    impossible = ["", "x" * 5000, "a\nb", "\x00", "\ud800", "' OR '1'='1"]

    assert [await inspect.find(each) for each in impossible] == [None] * len(impossible)
    assert await inspect.redrive_ids([*impossible, "ready"]) == set()
    assert await inspect.cancel([*impossible, "dead", "ready"]) == {"ready"}
    assert await inspect.discard([*impossible, "dead"]) == {"dead"}


@conforms("redrive_ids: of many messages, in several queues", needs="inspects")
async def test_redrive_by_id_of_many(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    names = [f"m{number}" for number in range(store.sized(60))]
    for number, name in enumerate(names):
        await store.put(name, queue="ab"[number % 2])
    leases = [*await store.take(len(names), "a"), *await store.take(len(names), "b")]
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in leases))

    assert await inspect.redrive_ids(names[::-1]) == set(names)

    again = [*await store.take(len(names), "a"), *await store.take(len(names), "b")]
    assert sorted(ids(again)) == sorted(names)


@conforms("purge: every scheduled and ready message of a queue; leases and dead letters stay", needs="inspects")
async def test_purge_removes_what_waits_in_one_queue(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    await store.lease("expired", lease_s=store.brief_s)
    await store.settle((await store.lease("dead"), Bury(reason=DeadReason.FAILED)))
    held = await store.lease("held")
    await store.expire()
    await store.put("r1", "r2")
    await store.put("later", delay_s=500.0)
    await store.put("other", queue="other")

    assert await inspect.purge(Q) == 4
    assert await inspect.purge(Q) == 0

    await store.assert_depth(reserved=1, dead=1)
    await store.assert_depth(ready=1, queue="other")
    await store.settle((held, Complete()))


@conforms("cancel and reserve: of a ready message exactly one wins", needs="inspects")
async def test_a_race_of_cancel_and_reserve_has_one_winner(store: StoreUnderTest) -> None:
    inspect = store.inspectable()
    for number in range(store.sized(20)):
        await store.put(f"m{number}")

        cancelled, leases = await asyncio.gather(
            inspect.cancel([f"m{number}"]), store.driver.reserve([Q], limit=1, lease_s=LONG_S)
        )

        assert len(cancelled) + len(leases) == 1, f"cancelled {cancelled}, reserved {ids(leases)}"
        await store.settle(*((lease, Complete()) for lease in leases))
