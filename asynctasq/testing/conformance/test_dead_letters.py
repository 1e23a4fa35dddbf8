"""Dead letters: kept whole, out of line, and back by `redrive`, oldest death first."""

import asyncio

from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import Q, StoreUnderTest, ids, message


async def _bury(store: StoreUnderTest, *names: str, queue: str = Q) -> None:
    for name in names:
        await store.put(name, queue=queue)
        await store.settle((await store.take_one(queue), Bury(reason=DeadReason.FAILED, counted=True, crashed=True)))
        if store.virtual:
            await store.advance(1)


@conforms("Bury: the message becomes a dead letter, and stays one")
async def test_a_dead_letter_is_never_reserved(store: StoreUnderTest) -> None:
    await _bury(store, "m")
    ttl_s = store.capabilities.dead_ttl or 10 * 365 * 24 * 3600
    await store.advance(ttl_s * 0.9 if store.virtual else 1)

    await store.assert_nothing_visible()

    await store.assert_depth(dead=1)


@conforms("Bury: body and error are kept, with the reason, attempts and crashes", needs="inspects")
async def test_a_dead_letter_keeps_what_an_operator_needs(store: StoreUnderTest) -> None:
    error = ErrorRecord(type="ValueError", message="naïve \ud800 \x00 text 🎈", traceback="line 1\nline 2\n")
    for number, reason in enumerate(DeadReason):
        name = f"m{number}"
        lease = await store.lease(name)
        await store.settle((lease, Bury(reason=reason, counted=bool(number % 2), crashed=not number % 2, error=error)))

        stored = await store.inspectable().find(name)

        assert stored is not None
        assert (stored.body, stored.reason, stored.error) == (name.encode(), reason, error)
        assert (stored.attempts, stored.crashes) == (number % 2, 1 - number % 2)


@conforms("Capabilities.dead_ttl: a dead letter is removed at that age, not before", needs="clock_offset")
async def test_a_dead_letter_is_removed_at_its_age(store: StoreUnderTest) -> None:
    ttl_s = store.capabilities.dead_ttl
    if ttl_s is None:
        raise NotPossible("the driver claims no age at which it removes dead letters")
    await _bury(store, "old")
    await store.advance(ttl_s / 2)
    await _bury(store, "young")
    await _work(store)
    await store.assert_depth(dead=2)

    await store.advance(ttl_s / 2)
    await _work(store)

    await store.assert_depth(dead=1)
    assert await store.driver.redrive(Q, limit=10) == 1
    assert (await store.take_one()).message_id == "young"
    await store.put("old")  # its id is free again


async def _work(store: StoreUnderTest) -> None:
    """Do what a worker does, twice: what is to go is looked for now and then."""
    for _ in range(2):
        await store.advance(60)
        await store.put("work")
        await store.settle((await store.take_one(), Complete()))


@conforms("redrive: dead letters back to ready; return how many were moved", needs="redrive")
async def test_redrive_makes_dead_letters_ready(store: StoreUnderTest) -> None:
    await _bury(store, "a", "b")

    assert await store.driver.redrive(Q, limit=10) == 2

    await store.assert_depth(ready=2)
    leases = await store.take(2)
    assert sorted((lease.message_id, lease.body) for lease in leases) == [("a", b"a"), ("b", b"b")]


@conforms("redrive: attempts and crashes start again at 0", needs="redrive")
async def test_redrive_starts_counting_anew(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    await store.settle((lease, Release(counted=True, crashed=True)))
    await store.settle((await store.take_one(), Bury(reason=DeadReason.FAILED, counted=True, crashed=True)))

    assert await store.driver.redrive(Q, limit=1) == 1

    lease = await store.take_one()
    assert (lease.attempt, lease.crashes) == (1, 0)


@conforms("redrive: `enqueued_at` is the time of the redrive", needs="redrive")
async def test_redrive_begins_a_new_life(store: StoreUnderTest) -> None:
    await _bury(store, "m")
    passed_s = 1000.0 if store.virtual else 3.0
    await store.advance(passed_s)
    assert await store.driver.redrive(Q, limit=1) == 1

    lease = await store.take_one(lease_s=30)

    age_s = lease.expires_at - 30 - lease.enqueued_at
    assert -1.5 <= age_s < passed_s / 2, f"{age_s} s old after the redrive"


@conforms("redrive: reason and error are cleared", needs="inspects")
async def test_redrive_clears_reason_and_error(store: StoreUnderTest) -> None:
    error = ErrorRecord(type="E", message="m")
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED, error=error)))
    await store.driver.redrive(Q, limit=1)

    stored = await store.inspectable().find("m")

    assert stored is not None
    assert (stored.reason, stored.error, stored.attempts, stored.crashes) == (None, None, 0, 0)


@conforms("redrive: up to `limit`, oldest death first", needs="redrive")
async def test_redrive_moves_the_oldest_death_first(store: StoreUnderTest) -> None:
    await _bury(store, "c", "a", "b")

    assert await store.driver.redrive(Q, limit=0) == 0
    assert await store.driver.redrive(Q, limit=1) == 1

    await store.assert_depth(ready=1, dead=2)
    first = await store.take_one()
    assert await store.driver.redrive(Q, limit=1) == 1
    second = await store.take_one()
    if store.capabilities.ordered.level == "yes":
        assert ids([first, second]) == ["c", "a"]


@conforms("redrive: of one queue", needs="redrive")
async def test_redrive_leaves_other_queues_alone(store: StoreUnderTest) -> None:
    await _bury(store, "m")
    await _bury(store, "n", queue="other")

    assert await store.driver.redrive("never-was", limit=5) == 0
    assert await store.driver.redrive("other", limit=5) == 1

    await store.assert_depth(dead=1)
    await store.assert_depth(ready=1, queue="other")


@conforms("redrive: nothing but dead letters", needs="redrive")
async def test_redrive_touches_nothing_that_lives(store: StoreUnderTest) -> None:
    await store.put("later", delay_s=500)
    lease = await store.lease("held")
    await store.put("ready")

    assert await store.driver.redrive(Q, limit=10) == 0

    await store.assert_depth(ready=1, scheduled=1, reserved=1)
    await store.settle((lease, Complete()))


@conforms("Lease.token: no lease of before the redrive settles", needs="fenced")
async def test_an_old_lease_does_not_settle_a_redriven_message(store: StoreUnderTest) -> None:
    old = await store.lease("m")
    await store.settle((old, Bury(reason=DeadReason.FAILED)))
    assert await store.driver.redrive(Q, limit=1) == 1

    assert await store.driver.settle([(old, Complete())]) == {"m"}
    assert await store.driver.extend([old], lease_s=1000) == {"m"}
    latest = await store.take_one()
    assert latest.token != old.token
    assert await store.driver.settle([(old, Complete())]) == {"m"}

    await store.assert_depth(reserved=1)
    await store.settle((latest, Complete()))


@conforms("redrive: a redriven message lives and dies like any other", needs="redrive")
async def test_a_redriven_message_may_die_again(store: StoreUnderTest) -> None:
    await _bury(store, "m")
    for _ in range(2):
        assert await store.driver.redrive(Q, limit=1) == 1
        if store.capabilities.idempotent_enqueue.level == "yes":
            assert await store.driver.enqueue([message("m")]) == []
        await store.settle((await store.take_one(), Bury(reason=DeadReason.REJECTED)))

    await store.assert_depth(dead=1)


@conforms("redrive: two at once move each dead letter once", needs="redrive")
async def test_concurrent_redrives_move_each_once(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(40))]
    await store.put(*names)
    leases = await store.take(len(names))
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in leases))

    moved = await asyncio.gather(*(store.driver.redrive(Q, limit=len(names)) for _ in range(4)))

    assert sum(moved) == len(names)
    assert sorted(ids(await store.take(len(names)))) == sorted(names)
