"""Fair keys inside a queue, where `fair` is claimed; where not, messages that have one are refused."""

import asyncio
from dataclasses import replace

from asynctasq.errors import DispatchError, UnsupportedFeature
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release
from asynctasq.kernel.priority import PRIORITIES
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import (
    LONG_S,
    Q,
    StoreUnderTest,
    UnderClaimed,
    ids,
    keyed_batch,
    message,
    together,
)
from asynctasq.testing.patience import patient_s

NEEDS = "fair"
NO_KEY: tuple[object, ...] = ("k" * 201, "line\n", "nul\0", 7, b"k")


async def _put(store: StoreUnderTest, names: str, *, queue: str = Q) -> None:
    """Store messages such as "a1 b1": their first letter is their key."""
    batch = keyed_batch(names, queue=queue)
    assert await store.driver.enqueue(batch) == ids(batch)


async def _one_by_one(store: StoreUnderTest, count: int) -> str:
    """Take so many messages, one a call; return their names."""
    return " ".join([(await store.take_one()).message_id for _ in range(count)])


# -- claimed or refused --------------------------------------------------------------------------


@conforms("fair: claimed, else messages with a fair key are refused with `UnsupportedFeature`")
async def test_fair_keys_are_claimed_or_refused(store: StoreUnderTest) -> None:
    try:
        await store.driver.enqueue([message("fine"), *keyed_batch("a1")])
    except UnsupportedFeature:
        assert not store.capabilities.fair, "fair is claimed and refused"
        await store.assert_depth()
        return
    if not store.capabilities.fair:
        raise UnderClaimed("a message with a fair key was stored, but fair is not claimed")


@conforms("settle: where fair is not claimed, a follow-up with a fair key is refused, and nothing is settled")
async def test_fair_follow_ups_are_claimed_or_refused(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    try:
        await store.driver.settle([(lease, Complete(follow_ups=tuple(keyed_batch("a1"))))])
    except UnsupportedFeature:
        assert not store.capabilities.fair, "fair is claimed and refused"
        await store.settle((lease, Complete()))
        return
    if not store.capabilities.fair:
        raise UnderClaimed("a follow-up with a fair key was stored, but fair is not claimed")


@conforms("enqueue: what is no fair key is refused, and nothing is stored", needs=NEEDS)
async def test_what_is_no_fair_key_is_refused(store: StoreUnderTest) -> None:
    for value in NO_KEY:
        key: str = value  # type: ignore[assignment]  # what a caller without types may pass
        try:
            await store.driver.enqueue([message("fine"), replace(message("m"), fair_key=key)])
        except DispatchError:
            continue
        raise AssertionError(f"fair key {value!r} was accepted")
    await store.assert_nothing_visible()


@conforms("enqueue: a fair key of any printable text up to 200 characters", needs=NEEDS)
async def test_any_printable_text_is_a_fair_key(store: StoreUnderTest) -> None:
    keys = ("k" * 200, "a b", "mail!n:", "{x}:*", "%", "'", "\\", "é", "日本" * 100, "\U0001f600")
    await store.driver.enqueue(
        [replace(message(f"{turn}{n}"), fair_key=key) for n, key in enumerate(keys) for turn in "12"]
    )

    taken = ids(await store.take(20))

    behind_first = [f"{turn}{n}" for turn in "12" for n in range(1, len(keys))]
    assert taken == ["10", "20", *behind_first]


# -- the order -----------------------------------------------------------------------------------


@conforms("reserve: messages of several fair keys take turns", needs=NEEDS)
async def test_keys_take_turns(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3 a4 a5")
    await _put(store, "b1 b2")
    await _put(store, "c1")

    assert await _one_by_one(store, 8) == "a1 a2 b1 c1 a3 b2 a4 a5"


@conforms("reserve: a key of which no message waits begins right after who is first in line", needs=NEEDS)
async def test_a_new_key_begins_behind_who_is_first(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3 a4 a5 a6")
    assert await _one_by_one(store, 3) == "a1 a2 a3"
    await _put(store, "b1 b2")

    assert await _one_by_one(store, 5) == "a4 a5 b1 a6 b2"


@conforms("enqueue: a key whose messages are all reserved begins anew", needs=NEEDS)
async def test_a_key_of_which_none_waits_begins_anew(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3 a4 b1")
    assert await _one_by_one(store, 3) == "a1 a2 b1"
    await _put(store, "b2 b3")

    assert await _one_by_one(store, 4) == "a3 a4 b2 b3"


@conforms(
    "reserve: keys that send again whenever they were served do not keep back one whose messages wait", needs=NEEDS
)
async def test_a_key_that_waits_does_not_starve(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3 a4 a5 b0 c0")
    taken: list[str] = []
    for number in range(1, 16):
        taken += ids([await store.take_one()])
        if not taken[-1].startswith("a"):
            await _put(store, f"{taken[-1][0]}{number}")

    assert [name for name in taken if name.startswith("a")] == ["a1", "a2", "a3", "a4", "a5"]


@conforms(
    "enqueue: messages of one key in one batch have ranks that follow each other, in the order given", needs=NEEDS
)
async def test_a_batch_is_ranked_one_after_the_other(store: StoreUnderTest) -> None:
    await _put(store, "a1 b1 a2 c1 a3 b2")
    await _put(store, "b3 c2 a4 c3")

    assert ids(await store.take(10)) == ["a1", "b1", "a2", "c1", "a3", "b2", "c2", "b3", "a4", "c3"]


@conforms("enqueue: each queue and each level has ranks of its own", needs=NEEDS)
async def test_queues_and_levels_have_ranks_of_their_own(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3", queue="other")
    await _put(store, "a4 b1 a5")
    if store.capabilities.priorities:
        high = [replace(one, priority="high") for one in keyed_batch("a6 b2 a7")]
        await store.driver.enqueue(high)
        assert ids(await store.take(3)) == ["a6", "b2", "a7"]
    await _put(store, "b3")

    assert ids(await store.take(9, "other", Q)) == ["a1", "a2", "a3", "a4", "b1", "a5", "b3"]


@conforms("enqueue: an id that lives takes no rank", needs=NEEDS)
async def test_an_id_that_lives_takes_no_rank(store: StoreUnderTest) -> None:
    await _put(store, "a1 b1 b2 b3")
    assert await store.driver.enqueue(keyed_batch("a1 a1 a2 a2 a3")) == ["a2", "a3"]

    assert ids(await store.take(6)) == ["a1", "b1", "a2", "b2", "a3", "b3"]


@conforms("enqueue: what was removed has no rank any more", needs=NEEDS)
async def test_what_was_removed_has_no_rank_any_more(store: StoreUnderTest) -> None:
    if not store.capabilities.inspects:
        raise NotPossible("inspects is not claimed")
    await _put(store, "a1 a2 a3 a4 b1 b2 b3")
    assert await store.inspectable().cancel(["a2", "a4"]) == {"a2", "a4"}
    await _put(store, "a5")
    assert await store.inspectable().cancel(["a1", "b1"]) == {"a1", "b1"}
    await _put(store, "c1")

    assert ids(await store.take(6)) == ["a3", "b2", "b3", "a5", "c1"]


@conforms("settle: follow-ups with fair keys are ranked as a batch is", needs=NEEDS)
async def test_follow_ups_are_ranked(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    await _put(store, "b1 b2 b3")
    follow_ups = (*keyed_batch("a1 a2 c1"), message("plain"), *keyed_batch("a3"))
    await store.settle((lease, Complete(follow_ups=follow_ups)))
    assert await store.driver.settle([(lease, Complete(follow_ups=tuple(keyed_batch("d1"))))]) == {"m"}

    assert ids(await store.take(9)) == ["b1", "b2", "a1", "c1", "b3", "a2", "a3", "plain"]


@conforms("reserve: another instance gives and knows the same ranks", needs=NEEDS)
async def test_another_instance_knows_the_ranks(store: StoreUnderTest) -> None:
    other = store.other()
    await _put(store, "a1 a2 a3")
    await other.enqueue(keyed_batch("b1 a4 b2"))

    assert ids(await other.reserve([Q], limit=9, lease_s=LONG_S)) == ["a1", "a2", "b1", "a3", "b2", "a4"]


@conforms("enqueue: several at once with one key store all of it", needs=NEEDS)
async def test_producers_at_once_lose_nothing(store: StoreUnderTest) -> None:
    names = [f"{key}{number}" for number in range(store.sized(40)) for key in "ab"]
    await together(*(store.driver.enqueue(keyed_batch(name)) for name in names))

    assert sorted(ids(await store.take(len(names)))) == sorted(names)


# -- beside what waits by time ---------------------------------------------------------------------


@conforms("reserve: calls that take something begin by time and by rank in turn", needs=NEEDS)
async def test_calls_begin_by_time_and_by_rank_in_turn(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 b1 b2")
    await store.put("p1", "p2", "p3", "p4")
    await store.assert_nothing_visible("elsewhere")

    assert await _one_by_one(store, 8) == "p1 a1 p2 a2 p3 b1 p4 b2"


@conforms("reserve: one call takes both what waits by time and what waits by rank, level by level", needs=NEEDS)
async def test_one_call_takes_by_time_and_by_rank(store: StoreUnderTest) -> None:
    levels = PRIORITIES if store.capabilities.priorities else ("normal",)
    for level in reversed(levels):
        await store.driver.enqueue(
            [message(f"p {level}", priority=level), replace(message(f"a {level}", priority=level), fair_key="a")]
        )

    assert ids(await store.take(9)) == [f"{kind} {level}" for level in levels for kind in "pa"]


@conforms("turn: takes by rank, and it counts as reserve does", needs=NEEDS)
async def test_turn_takes_by_rank(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 b1")
    await store.put("p1", "p2")
    taken: list[str] = []
    leases: list[Lease] = []
    for _ in range(5):
        lost, leases = await store.driver.turn([(one, Complete()) for one in leases], [Q], limit=1, lease_s=LONG_S)
        assert lost == set()
        taken += ids(leases)

    assert taken == ["p1", "a1", "p2", "a2", "b1"]


@conforms("enqueue: a message with a fair key and a delay waits by time", needs=NEEDS)
async def test_a_delayed_message_waits_by_time(store: StoreUnderTest) -> None:
    await store.driver.enqueue([replace(one, delay_s=60.0) for one in keyed_batch("a1 a2")])
    await _put(store, "b1 b2 b3 a3")
    await store.assert_depth(ready=4, scheduled=2)
    assert ids(await store.take(9)) == ["b1", "b2", "a3", "b3"]
    await store.advance(60)

    assert ids(await store.take(9)) == ["a1", "a2"]


@conforms("Release: what was reserved once waits by time, not behind what waits by rank", needs=NEEDS)
async def test_a_released_message_waits_by_time(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3 a4 b1")
    first, second = await store.take(2)
    await store.settle((first, Release(counted=True)), (second, Release(counted=False)))

    assert ids(await store.take(2)) == ["b1", "a3"], "the second call begins by rank"
    assert ids(await store.take(3)) == ["a1", "a2", "a4"], "the third call begins by time"


@conforms("reserve: an expired lease of a message with a fair key is taken over by time, with a crash", needs=NEEDS)
async def test_an_expired_lease_is_taken_over_by_time(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 a3")
    await store.take_one(lease_s=store.brief_s)
    await store.take_one()
    await store.expire()

    lease = await store.take_one()

    assert (lease.message_id, lease.crashes, lease.queue) == ("a1", 1, Q)
    await store.settle((lease, Complete()))
    assert ids(await store.take(2)) == ["a3"]


@conforms("redrive: a dead letter with a fair key comes back by time", needs=NEEDS)
async def test_a_redriven_message_waits_by_time(store: StoreUnderTest) -> None:
    await _put(store, "a1 a2 b1")
    await store.settle((await store.take_one(), Bury(reason=DeadReason.FAILED)))
    await store.assert_depth(ready=2, dead=1)
    assert await store.driver.redrive(Q, limit=1) == 1
    await store.assert_depth(ready=3)
    await _put(store, "a3")

    assert await _one_by_one(store, 4) == "a2 a1 b1 a3"


@conforms("reserve: a small key does not wait for a large one, whatever the limit", needs=NEEDS)
async def test_a_small_key_does_not_wait_for_a_large_one(store: StoreUnderTest) -> None:
    large = store.sized(200)
    await _put(store, " ".join(f"a{number}" for number in range(large)))
    await _put(store, " ".join(f"b{number}" for number in range(10)))
    taken: list[str] = []
    while sum(name.startswith("b") for name in taken) < 10 and len(taken) < large:
        taken += ids(await store.take(4))

    assert len(taken) <= 24, f"ten messages of a small key came among the first {len(taken)}"


@conforms("reserve: waiting ends as soon as a message with a fair key is there", needs=NEEDS)
async def test_a_wait_ends_for_a_message_with_a_fair_key(store: StoreUnderTest) -> None:
    async with asyncio.timeout(patient_s(6)):
        waiting = asyncio.create_task(store.driver.reserve(["urgent", Q], limit=5, lease_s=LONG_S, wait_s=600))
        for _ in range(6):  # so that it waits by then; nothing depends on it
            await asyncio.sleep(0.02)
        await _put(store, "a1")
        assert ids(await waiting) == ["a1"]
        await _put(store, "a2")
        assert ids(await store.driver.reserve([Q], limit=5, lease_s=LONG_S, wait_s=600)) == ["a2"]
