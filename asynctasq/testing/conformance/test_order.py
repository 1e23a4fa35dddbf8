"""The order of `reserve`: queues as given, within one by `visible_at`, then by arrival."""

import random

from asynctasq.kernel.messages import Bury, DeadReason, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import Q, StoreUnderTest, ids, message


@conforms("reserve: within a queue by arrival", needs="ordered")
async def test_first_in_first_out(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in (5, 3, 9, 1, 7, 2)]
    for name in names:
        await store.put(name)

    assert [(await store.take_one()).message_id for _ in names] == names


@conforms("enqueue: messages of one batch arrive in the order given", needs="ordered")
async def test_a_batch_arrives_in_the_order_given(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(60))]
    random.Random(7).shuffle(names)
    await store.put(*names)

    first = await store.take(len(names) // 2)
    second = await store.take(len(names) - len(first))

    assert ids(first) + ids(second) == names


@conforms("reserve: within a queue by `visible_at`", needs="ordered")
async def test_what_is_due_earlier_comes_first(store: StoreUnderTest) -> None:
    await store.put("third", delay_s=30)
    await store.put("first", delay_s=10)
    await store.put("second", delay_s=20)
    await store.advance(30)
    await store.put("fourth")

    assert ids(await store.take(4)) == ["first", "second", "third", "fourth"]


@conforms("reserve: by `visible_at`, then by arrival", needs="ordered")
async def test_many_delays_come_in_due_order(store: StoreUnderTest) -> None:
    rng = random.Random(11)
    delays = [rng.choice([0, 10, 20, 20, 30, 3600]) for _ in range(store.sized(100))]
    await store.driver.enqueue([message(f"m{number}", delay_s=delay) for number, delay in enumerate(delays)])
    await store.advance(3600)

    taken = ids(await store.take(len(delays)))

    assert taken == [f"m{number}" for number in sorted(range(len(delays)), key=lambda number: delays[number])]


@conforms("reserve: queues in the order given", needs="ordered")
async def test_queues_come_in_the_order_given(store: StoreUnderTest) -> None:
    await store.put("l1", "l2", queue="low")
    await store.put("h1", queue="high")
    await store.put("h2", "m1", queue="high")
    await store.put("z1", queue="zero")

    first = await store.take(2, "high", "low", "zero")
    rest = await store.take(4, "high", "low", "zero")

    assert ids(first) == ["h1", "h2"]
    assert ids(rest) == ["m1", "l1", "l2", "z1"]


@conforms("reserve: queues in the order given", needs="ordered")
async def test_an_older_message_of_a_later_queue_waits(store: StoreUnderTest) -> None:
    await store.put("old", queue="low")
    await store.advance(600 if store.virtual else 1)
    await store.put("new", queue="high")

    assert ids(await store.take(1, "high", "low")) == ["new"]
    assert ids(await store.take(1, "high", "low")) == ["old"]


@conforms("reserve: a released message is ordered by its new `visible_at`", needs="ordered")
async def test_a_released_message_goes_behind_what_is_visible(store: StoreUnderTest) -> None:
    lease = await store.lease("released")
    await store.put("waiting")

    await store.settle((lease, Release(counted=True)))

    assert ids(await store.take(2)) == ["waiting", "released"]


@conforms("reserve: an expired lease is ordered by its end", needs="ordered")
async def test_an_expired_lease_stands_at_its_end(store: StoreUnderTest) -> None:
    await store.lease("expired", lease_s=60)
    await store.put("before", delay_s=30)
    await store.put("after", delay_s=90)
    await store.advance(90)

    assert ids(await store.take(3)) == ["before", "expired", "after"]


@conforms("redrive: oldest death first, back to ready", needs="ordered")
async def test_redriven_messages_go_behind_what_is_visible(store: StoreUnderTest) -> None:
    await store.put("a", "b", "waiting")
    a, b = await store.take(2)
    await store.settle((b, Bury(reason=DeadReason.FAILED)))
    await store.settle((a, Bury(reason=DeadReason.FAILED)))

    assert await store.driver.redrive(Q, limit=1) == 1
    await store.advance(1)
    assert await store.driver.redrive(Q, limit=1) == 1

    assert ids(await store.take(3)) == ["waiting", "b", "a"]
