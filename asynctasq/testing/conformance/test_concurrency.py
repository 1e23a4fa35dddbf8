"""Many at once, through one instance and through several: each message to one, each step whole, no deadlock."""

import asyncio
import random

from asynctasq.drivers.base import Driver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release, Settlement
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message, repeated


async def _take_until_empty(store: StoreUnderTest, driver: Driver, queues: list[str], limit: int) -> list[Lease]:
    taken: list[Lease] = []
    empty = 0
    while empty < (1 if store.exact else 3):
        leases = await driver.reserve(queues, limit=limit, lease_s=LONG_S, wait_s=0 if store.exact else 0.5)
        empty = 0 if leases else empty + 1
        taken += leases
    return taken


def _drivers(store: StoreUnderTest, count: int) -> list[Driver]:
    return [store.driver, *(store.create() for _ in range(count - 1))]


@conforms("reserve: each message to one")
async def test_many_reservers_get_each_message_once(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(400))]
    await store.put(*names)
    drivers = _drivers(store, 4)

    taken = await asyncio.gather(
        *(_take_until_empty(store, drivers[number % len(drivers)], [Q], 1 + number % 3) for number in range(12))
    )

    seen = [lease.message_id for leases in taken for lease in leases]
    assert not repeated(seen), f"given to two at once: {repeated(seen)}"
    assert sorted(seen) == sorted(names)


@conforms("enqueue: while a message with an id lives, the same id again changes nothing", needs="idempotent_enqueue")
async def test_concurrent_enqueues_of_one_id_store_one(store: StoreUnderTest) -> None:
    drivers = _drivers(store, 3)
    for number in range(store.sized(15)):
        new = await asyncio.gather(
            *(drivers[caller % 3].enqueue([message(f"m{number}", body=b"%d" % caller)]) for caller in range(6))
        )

        assert sorted(len(found) for found in new) == [0, 0, 0, 0, 0, 1], "exactly one of the calls stored the message"
        winner = next(caller for caller, found in enumerate(new) if found)
        lease = await store.take_one()
        assert lease.body == b"%d" % winner, "the call that returned the id is the one whose body was stored"
        await store.settle((lease, Complete()))


@conforms("enqueue: all or none, also when batches overlap", needs="idempotent_enqueue")
async def test_overlapping_batches_neither_deadlock_nor_duplicate(store: StoreUnderTest) -> None:
    rng = random.Random(5)
    drivers = _drivers(store, 3)
    names = [f"m{number}" for number in range(store.sized(40))]
    calls = [
        drivers[number % 3].enqueue([message(name) for name in rng.sample(names, len(names))]) for number in range(8)
    ]

    new = await asyncio.gather(*calls)

    assert sorted(name for found in new for name in found) == sorted(names), "each id was new to exactly one call"
    assert sorted(ids(await store.take(len(names)))) == sorted(names)


@conforms("enqueue: a message that another call stores at the same time keeps no other out", needs="idempotent_enqueue")
async def test_what_two_batches_share_keeps_none_of_the_rest_out(store: StoreUnderTest) -> None:
    drivers = _drivers(store, 4)
    for number in range(store.sized(150)):
        own = [[f"{number}.{caller}.{each}" for each in "abc"] for caller in range(4)]
        batches = [[message(f"shared {number}"), *map(message, names)] for names in own]
        lease = await store.lease(f"m{number}")
        follow_ups = tuple(batches.pop())

        settling = asyncio.ensure_future(store.settle((lease, Complete(follow_ups=follow_ups))))
        new = await asyncio.gather(*(drivers[at].enqueue(batch) for at, batch in enumerate(batches)))
        await settling

        for names, found in zip(own, new, strict=False):
            assert set(names) <= set(found), "the call stored its own messages and says so"
        expected = [f"shared {number}", *(name for names in own for name in names)]
        taken = await store.take(len(expected))
        assert sorted(ids(taken)) == sorted(expected)
        await store.settle(*((lease, Complete()) for lease in taken))


@conforms("settle: of several settlements of one lease exactly one counts", needs="fenced")
async def test_concurrent_settlements_of_one_lease_count_once(store: StoreUnderTest) -> None:
    drivers = _drivers(store, 3)
    for number in range(store.sized(15)):
        lease = await store.lease(f"m{number}")

        lost = await asyncio.gather(
            *(
                drivers[caller % 3].settle([(lease, Complete() if caller % 2 else Release(counted=True))])
                for caller in range(6)
            )
        )

        winners = [caller for caller, ids_lost in enumerate(lost) if not ids_lost]
        assert len(winners) == 1, f"{len(winners)} settlements of one lease counted"
        if winners[0] % 2 == 0:
            again = await store.take_one()
            assert again.attempt == 2
            await store.settle((again, Complete()))
    await store.assert_depth()


@conforms("settle and reserve: batches in any order do not deadlock", needs="fenced")
async def test_settlements_in_opposite_orders_do_not_deadlock(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(40))]
    await store.put(*names)
    drivers = _drivers(store, 2)
    for _ in range(store.sized(6)):
        leases = await store.take(len(names))
        assert len(leases) == len(names)
        forward, back = (
            [(lease, Release(counted=True)) for lease in leases],
            [(lease, Release(counted=False)) for lease in reversed(leases)],
        )

        lost = await asyncio.gather(
            drivers[0].settle(forward),
            drivers[-1].settle(back),
            drivers[0].extend(leases, lease_s=LONG_S),
            drivers[-1].extend(leases[::-1], lease_s=LONG_S),
        )

        assert sorted([*lost[0], *lost[1]]) == sorted(names), "of two settlements of a lease one counts, one is lost"


@conforms("reserve: queues in opposite orders do not deadlock, each message to one")
async def test_reservers_with_opposite_orders_share_the_queues(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(120))]
    await store.driver.enqueue([message(name, queue="ab"[number % 2]) for number, name in enumerate(names)])
    drivers = _drivers(store, 4)

    taken = await asyncio.gather(
        *(
            _take_until_empty(store, drivers[number % len(drivers)], ["a", "b"] if number % 2 else ["b", "a"], 3)
            for number in range(8)
        )
    )

    assert sorted(lease.message_id for leases in taken for lease in leases) == sorted(names)


@conforms("a mixed load: nothing lost, nothing twice")
async def test_a_mixed_load_ends_with_everything_settled_once(store: StoreUnderTest) -> None:
    total = store.sized(240)
    completed: list[str] = []
    drivers = _drivers(store, 3)
    per_producer = -(-total // 3)
    names = [f"p{producer}-{number}" for producer in range(3) for number in range(per_producer)]

    async def produce(producer: int) -> None:
        mine = [name for name in names if name.startswith(f"p{producer}-")]
        for start in range(0, len(mine), 7):
            await drivers[producer].enqueue([message(name) for name in mine[start : start + 7]])

    async def consume(consumer: int) -> None:
        driver, leases = drivers[consumer % 3], list[Lease]()
        rng = random.Random(consumer)
        while len(completed) < len(names):
            ends: list[tuple[Lease, Settlement]] = [
                (lease, Complete() if lease.attempt > 1 or rng.random() < 0.7 else Release(counted=True))
                for lease in leases
            ]
            lost, leases = await driver.turn(ends, [Q], limit=1 + consumer % 4, lease_s=LONG_S)
            assert lost == set(), "nobody else had these leases"
            completed.extend(lease.message_id for lease, end in ends if isinstance(end, Complete))
            if not leases and not ends:
                leases = await driver.reserve([Q], limit=2, lease_s=LONG_S, wait_s=0.2)

    await asyncio.gather(*(produce(number) for number in range(3)), *(consume(number) for number in range(6)))

    assert sorted(completed) == sorted(names)
    await store.assert_depth()


@conforms("takeover: an expired lease goes to one of those who ask")
async def test_an_expired_lease_is_taken_over_once(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(30))]
    await store.put(*names)
    assert len(await store.take(len(names), lease_s=store.brief_s * (1 if store.exact else 2))) == len(names)
    await store.expire()
    if not store.exact:
        await store.expire()
    drivers = _drivers(store, 3)

    taken = await asyncio.gather(*(_take_until_empty(store, drivers[number % 3], [Q], 2) for number in range(6)))

    leases = [lease for leases in taken for lease in leases]
    assert sorted(ids(leases)) == sorted(names)
    assert {lease.crashes for lease in leases} == {1}


@conforms("depth at any instant counts every message once", needs="exact_depth")
async def test_no_message_is_nowhere_or_twice_at_any_instant(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(20)]
    await store.put(*names)
    watcher = store.create()
    running = True

    async def churn(worker: int) -> None:
        rng = random.Random(worker)
        ends: list[Settlement] = [Release(counted=True), Bury(reason=DeadReason.FAILED)]
        for _ in range(store.sized(25)):
            leases = await store.driver.reserve([Q], limit=3, lease_s=LONG_S)
            await store.driver.settle([(lease, rng.choice(ends)) for lease in leases])
            await store.driver.redrive(Q, limit=2)

    async def watch() -> None:
        while running:
            depth = await watcher.depth(Q)
            total = depth.ready + depth.scheduled + depth.reserved + depth.dead
            assert total == len(names), f"{len(names)} messages live, depth counts {total}: {depth}"
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(*(churn(number) for number in range(4)))
    finally:
        running = False
        await watching
