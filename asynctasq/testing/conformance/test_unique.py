"""Unique keys, where `unique` is claimed: one message at a time holds a key; the store decides, and frees it."""

import asyncio
from typing import Any

import pytest

from asynctasq.drivers.base import Enqueued
from asynctasq.errors import DispatchError, UniqueConflictError, UnsupportedFeature
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Message, Release, Settlement, UniqueKey
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, UnderClaimed, message

BURIED = Bury(reason=DeadReason.FAILED)
TAKEN = "enqueue: a message whose unique key another one holds is not stored"


def keyed(
    message_id: str, key: str = "k", *, queue: str = Q, body: bytes = b"", delay_s: float = 0.0, **of: Any
) -> Message:
    """Return a message with a unique key."""
    unique = UniqueKey(key=key, **of)
    return Message(id=message_id, queue=queue, body=body or message_id.encode(), delay_s=delay_s, unique=unique)


async def _holder(store: StoreUnderTest, key: str = "k", **of: Any) -> str:
    """Return who holds a key: what a message with it is told that is skipped, or its own id, which then holds it."""
    probe = f"probe{len(store.notes)}"
    store.notes[probe] = ""
    return _told(await store.driver.enqueue([keyed(probe, key, **of)])).get(probe, probe)


def _told(new: list[str]) -> dict[str, str]:
    return dict(new.holders) if isinstance(new, Enqueued) else {}


async def _assert_free(store: StoreUnderTest, key: str = "k") -> None:
    """Check that a key is free, and leave it so."""
    holder = await _holder(store, key)
    assert holder.startswith("probe"), f"the key must be free, {holder} holds it"
    assert await store.inspectable().cancel([holder]) == {holder}


# -- one at a time -----------------------------------------------------------------------------------


@conforms("unique: claimed, else a key raises UnsupportedFeature")
async def test_unique_keys_are_claimed_or_refused(store: StoreUnderTest) -> None:
    if store.capabilities.unique:
        return
    try:
        await store.driver.enqueue([message("m"), keyed("n")])
    except UnsupportedFeature:
        await store.assert_nothing_visible()
        return
    raise UnderClaimed("messages with unique keys are stored, but unique is not claimed")


@conforms(TAKEN, needs="unique")
async def test_of_two_messages_with_one_key_one_is_stored(store: StoreUnderTest) -> None:
    assert await store.driver.enqueue([keyed("a")]) == ["a"]
    new = await store.driver.enqueue([keyed("b", queue="other")])

    assert new == []
    assert _told(new) == {"b": "a"}
    await store.assert_depth(ready=1)
    await store.assert_depth(queue="other")


@conforms("enqueue: messages are decided in order", needs="unique")
async def test_a_batch_mixes_messages_with_and_without_keys(store: StoreUnderTest) -> None:
    batch = [keyed("a"), message("b"), keyed("c"), keyed("d", "other"), message("b"), keyed("a", "third")]

    new = await store.driver.enqueue(batch)

    assert new == ["a", "b", "d"]
    assert _told(new) == {"c": "a"}
    assert [lease.message_id for lease in await store.take(9)] == ["a", "b", "d"]
    await _assert_free(store, "third")


@conforms("enqueue: the store itself decides, in one step", needs="unique")
async def test_of_fifty_producers_at_once_one_stores(store: StoreUnderTest) -> None:
    drivers = [store.driver, *(store.create() for _ in range(4))]
    kinds: tuple[dict[str, Any], ...] = ({"until": "started"}, {"window_s": 60.0}, {"on_conflict": "replace"})
    for key in ("k1", "k2"):
        for of in kinds:
            name = f"{key}{min(of)}"
            calls = [drivers[number % 5].enqueue([keyed(f"{name}-{number}", name, **of)]) for number in range(50)]
            new = await asyncio.gather(*calls)

            left = (await store.driver.depth(Q)).ready
            assert left == 1, f"one of fifty messages with one key is stored, not {left}: {of}"
            [lease] = await store.take(9)
            if "on_conflict" not in of:
                assert [found for found in new if found] == [[lease.message_id]]
                told = {holder for found in new for holder in _told(found).values()}
                assert told == {lease.message_id}, "everybody else is told who holds the key"
            await store.settle((lease, Complete()))


@conforms("enqueue: batches with the same keys in another order neither deadlock nor duplicate", needs="unique")
async def test_batches_in_opposite_order_store_each_key_once(store: StoreUnderTest) -> None:
    drivers = [store.driver, store.create()]
    keys = [f"k{number}" for number in range(store.sized(20))]
    for turn in range(store.sized(10)):
        calls = [
            drivers[caller % 2].enqueue(
                [keyed(f"m{turn}-{caller}-{key}", f"{turn}{key}") for key in (keys if caller % 2 else reversed(keys))]
            )
            for caller in range(6)
        ]
        await asyncio.gather(*calls)

        await store.assert_depth(ready=len(keys))
        await store.settle(*((lease, Complete()) for lease in await store.take(len(keys) * 6)))


@conforms("enqueue: while a message with that id lives, the same id again changes nothing", needs="unique")
async def test_the_same_id_again_changes_nothing_whatever_its_key(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a"), keyed("b", "other")])
    for again in (keyed("a"), keyed("a", "third"), keyed("a", on_conflict="raise"), message("a")):
        new = await store.driver.enqueue([again])
        assert new == []
        assert _told(new) == {}
    assert await store.driver.enqueue([keyed("a", "other", on_conflict="replace", body=b"new")]) == []

    assert {lease.message_id: lease.body for lease in await store.take(9)} == {"a": b"a", "b": b"b"}
    assert await _holder(store) == "a"
    await _assert_free(store, "third")


@conforms("unique: a key that can't be stored is refused, and nothing is stored", needs="unique")
async def test_keys_that_can_not_be_stored_are_refused(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    for bad in ("", "x" * 65, "ä", "a\nb", "\x00"):
        with pytest.raises(DispatchError):
            await store.driver.enqueue([message("n"), keyed("o", bad)])
        with pytest.raises(DispatchError):
            await store.driver.settle([(lease, Complete(follow_ups=(keyed("o", bad),)))])
    with pytest.raises(DispatchError):
        await store.driver.enqueue([keyed("o", window_s=0.0)])
    await store.assert_depth(reserved=1)

    widest = "".join(map(chr, range(33, 33 + 64)))
    assert await store.driver.enqueue([keyed("a", widest), keyed("b", widest[:-1]), keyed("c", "K"), keyed("d")]) == [
        *"abcd"
    ]
    assert _told(await store.driver.enqueue([keyed("e", widest)])) == {"e": "a"}


# -- until done --------------------------------------------------------------------------------------


@conforms('unique: held until "done", by a message in whatever state before', needs="unique")
async def test_a_key_is_held_from_scheduled_to_retried(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", delay_s=60.0)])
    assert await _holder(store) == "a", "while it is scheduled"
    await store.advance(60.0)
    assert await _holder(store) == "a", "while it is ready"
    lease = await store.take_one(lease_s=store.brief_s)
    assert await _holder(store) == "a", "while it is reserved"
    await store.settle((lease, Release(counted=True)))
    assert await _holder(store) == "a", "while it waits to be retried"
    lease = await store.take_one(lease_s=store.brief_s)
    await store.expire()
    assert await _holder(store) == "a", "when its lease has ended"
    lease = await store.take_one()
    assert await store.driver.extend([lease], lease_s=LONG_S) == set()
    assert await _holder(store) == "a", "when it was taken over"


@conforms("unique: a completed message, a dead letter and a removed one hold no key", needs="unique")
async def test_a_key_is_free_after_each_end(store: StoreUnderTest) -> None:
    ends: tuple[Settlement, ...] = (Complete(), Complete(result=b"r", result_ttl_s=60.0), BURIED)
    for number, end in enumerate(ends):
        await store.driver.enqueue([keyed(f"m{number}")])
        await store.settle((await store.take_one(), end))
        await _assert_free(store)
    inspectable = store.inspectable()
    await store.driver.enqueue([keyed("a", delay_s=60.0)])
    assert await inspectable.cancel(["a"]) == {"a"}
    await _assert_free(store)
    await store.driver.enqueue([keyed("b"), keyed("c", "other", delay_s=60.0)])
    assert await inspectable.purge(Q) == 2
    await _assert_free(store)
    await _assert_free(store, "other")


@conforms("unique: a turn that completes a message frees its key", needs="unique")
async def test_a_key_is_free_after_a_turn(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a"), message("b")])
    lease = await store.take_one()

    lost, _ = await store.driver.turn([(lease, Complete())], [Q], limit=1, lease_s=LONG_S)

    assert not lost
    await _assert_free(store)


@conforms("redrive: none holds its unique key again", needs="unique")
async def test_a_redriven_message_holds_no_key(store: StoreUnderTest) -> None:
    for name in ("a", "b"):
        await store.driver.enqueue([keyed(name)])
        await store.settle((await store.take_one(), BURIED))
    await store.driver.enqueue([keyed("c", queue="other")])

    assert await store.driver.redrive(Q, limit=10) == 2

    assert await _holder(store) == "c", "a redriven message does not take the key of the one that lives"
    await store.settle((await store.take_one("other"), Complete()))
    await _assert_free(store)
    assert [lease.message_id for lease in await store.take(9)] == ["a", "b"]
    await _assert_free(store)


@conforms("unique: discarding a dead letter frees nothing that another one holds", needs="unique")
async def test_what_becomes_of_a_dead_letter_leaves_the_key_alone(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a")])
    await store.settle((await store.take_one(), BURIED))
    await store.driver.enqueue([keyed("b")])

    assert await store.inspectable().discard(["a"]) == {"a"}

    assert await _holder(store) == "b"


# -- until started -----------------------------------------------------------------------------------


@conforms('unique: held until the first reserve ("started")', needs="unique")
async def test_the_first_reserve_frees_a_key_held_until_started(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", until="started", delay_s=60.0)])
    assert await _holder(store, until="started") == "a"
    await store.advance(60.0)
    assert await _holder(store, until="done") == "a", "whatever the message says that wants the key"
    lease = await store.take_one()

    assert await store.driver.enqueue([keyed("b", until="started")]) == ["b"]
    await store.settle((lease, Release(counted=True)))
    assert await _holder(store, until="started") == "b", "a retry does not take the key back"
    assert [each.message_id for each in await store.take(9)] in (["a", "b"], ["b", "a"])
    await _assert_free(store)


# -- a window ----------------------------------------------------------------------------------------


@conforms("unique: held for a window after the message was stored, by the store's clock", needs="unique")
async def test_a_window_holds_a_key_though_its_message_is_done(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", window_s=300.0, delay_s=60.0)])
    assert await _holder(store, window_s=10.0) == "a"
    await store.advance(60.0)
    await store.settle((await store.take_one(), Complete()))
    assert await _holder(store, window_s=10.0) == "a", "though it is done"
    await store.advance(180.0)
    assert await _holder(store, window_s=10.0) == "a"

    await store.advance(60.0)
    assert await store.driver.enqueue([keyed("b", window_s=300.0)]) == ["b"], "its time is over"
    await store.advance(240.0)
    assert await _holder(store, window_s=10.0) == "b", "the second window has a length of its own"


@conforms("unique: keys with a window and keys without do not meet", needs="unique")
async def test_a_window_and_a_state_do_not_meet(store: StoreUnderTest) -> None:
    assert await store.driver.enqueue([keyed("a"), keyed("b", window_s=60.0)]) == ["a", "b"]

    assert await _holder(store) == "a"
    assert await _holder(store, window_s=60.0) == "b"


@conforms("unique: within its window, an id that has ended is not stored again", needs="unique")
async def test_an_id_is_not_stored_again_within_its_own_window(store: StoreUnderTest) -> None:
    first = keyed("a", window_s=60.0, on_conflict="raise")
    await store.driver.enqueue([first])
    await store.settle((await store.take_one(), Complete()))

    assert await store.driver.enqueue([first]) == []
    await store.advance(60.0)
    assert await store.driver.enqueue([first]) == ["a"]


# -- replace -----------------------------------------------------------------------------------------


@conforms('unique: "replace" takes the place of a holder that is scheduled or ready', needs="unique")
async def test_what_waits_is_replaced(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", delay_s=60.0)])
    new = await store.driver.enqueue([keyed("b", delay_s=120.0, queue="other", on_conflict="replace")])
    assert (new, _told(new)) == (["b"], {})
    await store.assert_depth()
    await store.advance(60.0)
    await store.assert_nothing_visible(Q, "other")
    await store.advance(60.0)
    assert await store.driver.enqueue([keyed("c", on_conflict="replace")]) == ["c"]
    await store.assert_depth(queue="other")
    lease = await store.take_one()
    assert lease.message_id == "c"
    await store.settle((lease, Release(counted=True, delay_s=60.0)))
    assert await store.driver.enqueue([keyed("d", on_conflict="replace")]) == ["d"], "one that waits to be retried"

    lease = await store.take_one()
    assert (lease.message_id, lease.attempt) == ("d", 1)
    await store.settle((lease, Complete()))
    await store.assert_depth()


@conforms('unique: "replace" skips where the holder is reserved', needs="unique")
async def test_what_runs_is_not_replaced(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a")])
    lease = await store.take_one(lease_s=store.brief_s)

    new = await store.driver.enqueue([keyed("b", on_conflict="replace")])

    assert (new, _told(new)) == ([], {"b": "a"})
    await store.assert_depth(reserved=1)
    assert await store.driver.extend([lease], lease_s=store.brief_s) == set()
    await store.expire()
    assert await store.driver.enqueue([keyed("c", on_conflict="replace")]) == ["c"], "its lease has ended: it is ready"
    assert await store.driver.settle([(lease, Complete())]) == {"a"}
    await store.assert_depth(ready=1)


@conforms('unique: "replace" begins the window anew', needs="unique")
async def test_what_waits_is_replaced_within_its_window(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", window_s=120.0, delay_s=60.0)])
    await store.advance(30.0)
    assert await store.driver.enqueue([keyed("b", window_s=120.0, on_conflict="replace")]) == ["b"]
    lease = await store.take_one()
    assert lease.message_id == "b"
    new = await store.driver.enqueue([keyed("c", window_s=120.0, on_conflict="replace")])
    assert (new, _told(new)) == ([], {"c": "b"})
    await store.settle((lease, Complete()))

    await store.advance(100.0)
    new = await store.driver.enqueue([keyed("d", window_s=120.0, on_conflict="replace")])
    assert (new, _told(new)) == ([], {"d": "b"}), "what has ended can't be replaced"
    await store.assert_depth()


@conforms("enqueue: messages of a batch replace each other, in order", needs="unique")
async def test_messages_of_a_batch_replace_each_other(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("z")])
    batch = [keyed("a", on_conflict="replace"), message("m"), keyed("b"), keyed("c", on_conflict="replace")]

    new = await store.driver.enqueue(batch)

    assert new == ["m", "c"]
    assert _told(new) == {"a": "c", "b": "c"}
    assert [lease.message_id for lease in await store.take(9)] == ["m", "c"]


# -- raise -------------------------------------------------------------------------------------------


@conforms("enqueue raises UniqueConflictError: nothing was stored", needs="unique")
async def test_a_conflict_that_raises_leaves_nothing_of_its_batch(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a", delay_s=60.0), keyed("b", "other", delay_s=60.0)])
    batch = [
        *(message("m"), keyed("n", "third"), keyed("o", "window", window_s=60.0)),
        *(keyed("p", "other", on_conflict="replace"), keyed("q", on_conflict="raise"), message("r")),
    ]

    with pytest.raises(UniqueConflictError) as caught:
        await store.driver.enqueue(batch)

    assert caught.value.task_id == "a"
    await store.assert_depth(scheduled=2)
    assert await _holder(store, "other") == "b", "what it would have replaced is still there"
    await _assert_free(store, "third")
    assert await store.driver.enqueue([keyed("s", "window", window_s=60.0)]) == ["s"]
    with pytest.raises(UniqueConflictError):
        await store.driver.enqueue([keyed("t", "new"), keyed("u", "new", on_conflict="raise")])
    await _assert_free(store, "new")


# -- follow-ups ----------------------------------------------------------------------------------------


@conforms("settle: a follow-up whose key is held is not stored", needs="unique")
async def test_follow_ups_respect_keys(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("held", "held", delay_s=60.0)])
    lease = await store.lease("m")
    follow_ups = (
        *(message("f1"), keyed("f2"), keyed("f3"), keyed("f4", "held")),
        *(keyed("f5", "held", on_conflict="raise"), message("f6"), keyed("f7", "window", window_s=60.0)),
    )

    await store.settle((lease, Complete(follow_ups=follow_ups)))

    await store.assert_depth(ready=4, scheduled=1)
    assert await _holder(store) == "f2"
    assert await _holder(store, "window", window_s=60.0) == "f7"
    assert [each.message_id for each in await store.take(9)] == ["f1", "f2", "f6", "f7"]


@conforms("settle: a message that is completed frees its key for its follow-ups", needs="unique")
async def test_a_message_is_followed_by_one_with_its_key(store: StoreUnderTest) -> None:
    await store.driver.enqueue([keyed("a")])
    lease = await store.take_one()
    await store.settle((lease, Complete(follow_ups=(keyed("a"), keyed("b")))))
    assert await _holder(store) == "a"
    lost, [lease] = await store.driver.turn(
        [(await store.take_one(), Release(counted=True, follow_ups=(keyed("c"), message("d"))))],
        [Q],
        limit=1,
        lease_s=LONG_S,
    )

    assert (lost, lease.message_id) == (set(), "a")
    assert await _holder(store) == "a", "one that is released holds its key"
    lost = await store.driver.settle([(lease, Complete(follow_ups=(keyed("e", on_conflict="replace"),)))] * 2)
    assert lost == {"a"}
    assert await _holder(store) == "e"
    assert [each.message_id for each in await store.take(9)] == ["d", "e"]


@conforms("settle: a lost lease stores no follow-up, and takes no key", needs="unique")
async def test_a_lost_lease_takes_no_key(store: StoreUnderTest) -> None:
    stale = await store.lease("m", lease_s=store.brief_s)
    await store.expire()
    await store.take_one()

    assert await store.driver.settle([(stale, Complete(follow_ups=(keyed("f"),)))]) == {"m"}

    await _assert_free(store)


# -- in the caller's transaction -----------------------------------------------------------------------


@conforms("enqueue_in: keys as in enqueue; a rollback frees them", needs="unique")
async def test_a_key_is_held_with_the_callers_commit(store: StoreUnderTest) -> None:
    if not store.capabilities.transactional:
        raise NotPossible("transactional is not claimed")
    await store.driver.enqueue([keyed("held", "held", delay_s=60.0)])
    for end in ("rollback", "commit"):
        transaction = await store.harness.begin()
        try:
            enqueue_in, connection = store.transactional().enqueue_in, transaction.connection
            new = await enqueue_in(connection, [keyed("a"), keyed("b"), keyed("c", "held"), message("d")])
            assert (new, _told(new)) == (["a", "d"], {"b": "a", "c": "held"})
            new = await enqueue_in(connection, [keyed("e", on_conflict="replace"), keyed("w", window_s=60.0)])
            assert (new, _told(new)) == (["e", "w"], {})
            with pytest.raises(UniqueConflictError):
                await enqueue_in(connection, [message("f"), keyed("g", on_conflict="raise")])
            assert await enqueue_in(connection, [message("h")]) == ["h"], "a conflict does not end the transaction"
        finally:
            await getattr(transaction, end)()
        if end == "rollback":
            await _assert_free(store)

    assert await _holder(store) == "e"
    assert await _holder(store, window_s=60.0) == "w"
    assert [lease.message_id for lease in await store.take(9)] == ["d", "e", "w", "h"]


@conforms("settle_in: follow-ups respect keys", needs="unique")
async def test_follow_ups_in_a_transaction_respect_keys(store: StoreUnderTest) -> None:
    if not store.capabilities.transactional:
        raise NotPossible("transactional is not claimed")
    await store.driver.enqueue([keyed("held", "held", delay_s=60.0), keyed("m")])
    lease = await store.take_one()
    follow_ups = (keyed("a"), keyed("b", "held"), message("c"))
    transaction = await store.harness.begin()
    try:
        settled = [(lease, Complete(follow_ups=follow_ups))]
        assert await store.transactional().settle_in(transaction.connection, settled) == set()
    finally:
        await transaction.commit()

    assert [each.message_id for each in await store.take(9)] == ["a", "c"]
    assert await _holder(store) == "a"
