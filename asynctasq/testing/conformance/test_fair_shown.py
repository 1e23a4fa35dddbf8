"""What is shown and removed of messages with fair keys, where `fair` is claimed: never a rank, always the queue."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from asynctasq.drivers.base import CancelsRunning, Enqueued, ReservesReleased
from asynctasq.kernel.messages import Complete, Message, OnConflict, Release, State, UniqueKey
from asynctasq.kernel.priority import Priority
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, keyed_batch, message

NEEDS = "fair"


def _needs(store: StoreUnderTest, claim: str) -> None:
    if not store.capabilities.claims()[claim]:
        raise NotPossible(f"{claim} is not claimed")


def _unique(name: str, key: str, *, on_conflict: OnConflict = "skip") -> Message:
    """Return a message whose first letter is its fair key."""
    return replace(*keyed_batch(name), unique=UniqueKey(key=key, on_conflict=on_conflict))


# -- shown -----------------------------------------------------------------------------------------


@conforms("find and list_messages: who waits by rank is ready, and visible since it was enqueued", needs=NEEDS)
async def test_a_rank_is_never_shown(store: StoreUnderTest) -> None:
    _needs(store, "inspects")
    before = await _now(store)
    levels: tuple[Priority, ...] = ("high", "normal") if store.capabilities.priorities else ("normal",)
    for level in levels:
        await store.driver.enqueue([replace(message(f"{level} {n}", priority=level), fair_key="a") for n in range(3)])
    page = await store.inspectable().list_messages(Q)
    ready = await store.inspectable().list_messages(Q, state=State.READY)
    scheduled = await store.inspectable().list_messages(Q, state=State.SCHEDULED)
    found = [await store.inspectable().find(one.id) for one in page.messages]

    assert ids(page.messages) == [f"{level} {n}" for level in levels for n in range(3)]
    assert ids(ready.messages) == ids(page.messages)
    assert scheduled.messages == []
    for shown in (*page.messages, *filter(None, found)):
        assert (shown.queue, shown.priority, shown.state) == (Q, shown.id.split()[0], State.READY)
        assert shown.visible_at == shown.enqueued_at, f"visible_at is {shown.visible_at}"
        assert shown.enqueued_at >= before - 1
    assert len([one for one in found if one is not None]) == len(page.messages)
    assert await store.inspectable().queues() == [Q]


async def _now(store: StoreUnderTest) -> float:
    await store.put("clock", queue="clock")
    shown = await store.inspectable().find("clock")
    assert shown is not None
    await store.inspectable().cancel(["clock"])
    return shown.enqueued_at


@conforms("list_messages: page by page over what waits by rank and by time", needs=NEEDS)
async def test_pages_hold_all_lines(store: StoreUnderTest) -> None:
    _needs(store, "inspects")
    names = ["a1", "p1", "b1", "p2", "a2", "b2"]
    for name in names:
        await store.driver.enqueue([message(name)] if name[0] == "p" else keyed_batch(name))
    listed: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.inspectable().list_messages(Q, limit=2, cursor=cursor)
        listed += ids(page.messages)
        cursor = page.cursor
        if cursor is None:
            break

    assert listed == names


@conforms("depth: counts who waits by rank as ready, and the age is since the enqueue", needs=NEEDS)
async def test_depth_counts_who_waits_by_rank(store: StoreUnderTest) -> None:
    await store.driver.enqueue(keyed_batch("a1 b1"))
    await store.advance(50)
    await store.put("p1")
    await store.assert_depth(ready=3)
    age_s = (await store.driver.depth(Q)).oldest_age_s
    assert age_s is not None
    assert 50 <= age_s < 110, f"the first message has waited 50 s, depth says {age_s}"

    assert len(await store.take(2)) == 2
    await store.assert_depth(ready=1, reserved=2)
    await store.assert_depth(queue="other")


@conforms("depth: the oldest age is that of who is first by rank", needs=NEEDS)
async def test_the_oldest_age_is_that_of_the_first_by_rank(store: StoreUnderTest) -> None:
    await store.driver.enqueue(keyed_batch("a1 a2 a3"))
    await store.advance(50)
    await store.driver.enqueue(keyed_batch("c1"))
    assert ids(await store.take(2)) == ["a1", "a2"]

    age_s = (await store.driver.depth(Q)).oldest_age_s

    assert age_s is not None
    assert 0 <= age_s < 45, f"c1 is first, and has just come; depth says {age_s}"


@conforms("reserve: a lease of who waited by rank says queue, attempt and when it was enqueued", needs=NEEDS)
async def test_a_lease_says_what_every_lease_says(store: StoreUnderTest) -> None:
    await store.put("p1")
    [plain] = await store.take(1)
    await store.driver.enqueue(keyed_batch("a1"))
    [lease] = await store.take(1)

    assert (lease.queue, lease.body, lease.attempt, lease.crashes) == (Q, b"a1", 1, 0)
    assert plain.enqueued_at <= lease.enqueued_at < plain.enqueued_at + 100
    assert await store.driver.extend([lease], lease_s=LONG_S) == set()
    await store.settle((lease, Release(counted=True, delay_s=3600.0)))
    await store.assert_depth(scheduled=1, reserved=1)


@conforms("find: once reserved and released, `visible_at` is when it comes back", needs=NEEDS)
async def test_what_was_released_is_shown_by_time(store: StoreUnderTest) -> None:
    _needs(store, "inspects")
    await store.driver.enqueue(keyed_batch("a1"))
    await store.settle((await store.take_one(), Release(counted=True, delay_s=3600.0)))

    shown = await store.inspectable().find("a1")

    assert shown is not None
    assert (shown.queue, shown.state) == (Q, State.SCHEDULED)
    assert 3500 < shown.visible_at - shown.enqueued_at < 3800


# -- removed -----------------------------------------------------------------------------------------


async def _assert_gone(store: StoreUnderTest, remove: Callable[[], Awaitable[object]]) -> None:
    """Check that `remove` leaves of a1, a2 and b1 only a2, and that the line goes on from there."""
    await store.driver.enqueue(keyed_batch("a1 a2 b1"))
    await remove()
    await store.assert_depth(ready=1)
    await store.driver.enqueue(keyed_batch("b1 a1"))

    assert ids(await store.take(3)) == ["a2", "b1", "a1"]


@conforms("cancel: removes who waits by rank", needs=NEEDS)
async def test_who_waits_by_rank_is_cancelled(store: StoreUnderTest) -> None:
    _needs(store, "inspects")

    async def remove() -> None:
        assert await store.inspectable().cancel(["a1", "b1", "c1"]) == {"a1", "b1"}

    await _assert_gone(store, remove)


@conforms("cancel_running: removes who waits by rank, under no token", needs=NEEDS)
async def test_who_waits_by_rank_is_cancelled_as_if_running(store: StoreUnderTest) -> None:
    _needs(store, "cancels_running")

    async def remove() -> None:
        assert isinstance(store.driver, CancelsRunning)
        assert await store.driver.cancel_running(["a1", "b1", "c1"]) == {"a1": "", "b1": ""}

    await _assert_gone(store, remove)


@conforms("purge: removes who waits by rank, and the line begins anew", needs=NEEDS)
async def test_who_waits_by_rank_is_purged(store: StoreUnderTest) -> None:
    _needs(store, "inspects")
    await store.driver.enqueue(keyed_batch("a1 a2 a3 b1"))
    await store.put("p1")
    await store.take(2)
    assert await store.inspectable().purge(Q) == 3
    await store.assert_depth(reserved=2)
    await store.driver.enqueue(keyed_batch("c1 a2 c2 c3"))

    assert ids(await store.take(4)) == ["c1", "a2", "c2", "c3"]


@conforms("reserve_released: a message with a fair key", needs=NEEDS)
async def test_a_released_message_with_a_fair_key_is_leased_again(store: StoreUnderTest) -> None:
    _needs(store, "reserves_released")
    driver = store.driver
    assert isinstance(driver, ReservesReleased)
    await driver.enqueue(keyed_batch("a1 a2"))
    leases = await store.take(2)
    await store.settle(*((lease, Release(counted=False, delay_s=3600.0)) for lease in leases))

    again = await driver.reserve_released(leases, lease_s=LONG_S)

    assert [(lease.message_id, lease.queue) for lease in again] == [("a1", Q), ("a2", Q)]
    await store.settle(*((lease, Complete()) for lease in again))
    await store.assert_depth()


# -- together with unique keys -----------------------------------------------------------------------


@conforms("enqueue: a message that is not stored because of its unique key takes no rank", needs=NEEDS)
async def test_a_message_that_is_refused_takes_no_rank(store: StoreUnderTest) -> None:
    _needs(store, "unique")
    await store.driver.enqueue([_unique("a1", "k"), *keyed_batch("b1 b2 b3")])
    new = await store.driver.enqueue([_unique("a2", "k"), _unique("a3", "k"), _unique("a4", "l"), *keyed_batch("a5")])

    assert new == ["a4", "a5"]
    assert isinstance(new, Enqueued)
    assert new.holders == {"a2": "a1", "a3": "a1"}
    assert ids(await store.take(9)) == ["a1", "b1", "a4", "b2", "a5", "b3"]


@conforms("enqueue: a message that replaces another one is ranked once that one is gone", needs=NEEDS)
async def test_a_message_that_replaces_is_ranked_without_the_other(store: StoreUnderTest) -> None:
    _needs(store, "unique")
    await store.driver.enqueue([*keyed_batch("a1"), _unique("a2", "k"), *keyed_batch("b1 b2 b3")])
    new = await store.driver.enqueue([_unique("a3", "k", on_conflict="replace"), *keyed_batch("a4")])

    assert new == ["a3", "a4"]
    assert ids(await store.take(9)) == ["a1", "b1", "a3", "b2", "a4", "b3"]


@conforms("settle: follow-ups with unique and fair keys", needs=NEEDS)
async def test_follow_ups_with_both_keys(store: StoreUnderTest) -> None:
    _needs(store, "unique")
    lease = await store.lease("m")
    follow_ups = (_unique("a1", "k"), _unique("a2", "k"), _unique("a3", "l"), *keyed_batch("b1"))
    await store.settle((lease, Complete(follow_ups=follow_ups)))

    assert ids(await store.take(9)) == ["a1", "a3", "b1"]


# -- in the caller's transaction -----------------------------------------------------------------------


@conforms("enqueue_in: messages with fair keys are ranked, and what was rolled back takes no rank", needs=NEEDS)
async def test_fair_keys_in_the_callers_transaction(store: StoreUnderTest) -> None:
    _needs(store, "transactional")
    await store.driver.enqueue(keyed_batch("b1 b2 b3"))
    undone = await store.harness.begin()
    try:
        await store.transactional().enqueue_in(undone.connection, keyed_batch("a7 a8 a9"))
    finally:
        await undone.rollback()
    transaction = await store.harness.begin()
    try:
        new = await store.transactional().enqueue_in(transaction.connection, keyed_batch("a1 c1 a2"))
    finally:
        await transaction.commit()

    assert new == ["a1", "c1", "a2"]
    assert ids(await store.take(9)) == ["b1", "b2", "a1", "c1", "b3", "a2"]


@conforms("settle_in: follow-ups with fair keys are ranked", needs=NEEDS)
async def test_fair_follow_ups_in_the_callers_transaction(store: StoreUnderTest) -> None:
    _needs(store, "transactional")
    lease = await store.lease("m")
    await store.driver.enqueue(keyed_batch("b1 b2"))
    transaction = await store.harness.begin()
    try:
        end = Complete(follow_ups=tuple(keyed_batch("a1 a2")))
        assert await store.transactional().settle_in(transaction.connection, [(lease, end)]) == set()
    finally:
        await transaction.commit()

    assert ids(await store.take(9)) == ["b1", "b2", "a1", "a2"]
