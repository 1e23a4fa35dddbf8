"""The order of `reserve`: queues as given, within one by `visible_at`, then by arrival."""

import random

from asynctasq.kernel.messages import Bury, DeadReason, Release
from asynctasq.testing.conformance.trial import Q, Trial, ids, message
from asynctasq.testing.conformance.verdict import conforms


@conforms("reserve: within a queue by arrival", needs="ordered")
async def test_first_in_first_out(trial: Trial) -> None:
    names = [f"m{number}" for number in (5, 3, 9, 1, 7, 2)]
    for name in names:
        await trial.put(name)

    assert [(await trial.take_one()).message_id for _ in names] == names


@conforms("enqueue: messages of one batch arrive in the order given", needs="ordered")
async def test_a_batch_arrives_in_the_order_given(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(60))]
    random.Random(7).shuffle(names)
    await trial.put(*names)

    first = await trial.take(len(names) // 2)
    second = await trial.take(len(names) - len(first))

    assert ids(first) + ids(second) == names


@conforms("reserve: within a queue by `visible_at`", needs="ordered")
async def test_what_is_due_earlier_comes_first(trial: Trial) -> None:
    await trial.put("third", delay_s=30)
    await trial.put("first", delay_s=10)
    await trial.put("second", delay_s=20)
    await trial.advance(30)
    await trial.put("fourth")

    assert ids(await trial.take(4)) == ["first", "second", "third", "fourth"]


@conforms("reserve: by `visible_at`, then by arrival", needs="ordered")
async def test_many_delays_come_in_due_order(trial: Trial) -> None:
    rng = random.Random(11)
    delays = [rng.choice([0, 10, 20, 20, 30, 3600]) for _ in range(trial.sized(100))]
    await trial.driver.enqueue([message(f"m{number}", delay_s=delay) for number, delay in enumerate(delays)])
    await trial.advance(3600)

    taken = ids(await trial.take(len(delays)))

    assert taken == [f"m{number}" for number in sorted(range(len(delays)), key=lambda number: delays[number])]


@conforms("reserve: queues in the order given", needs="ordered")
async def test_queues_come_in_the_order_given(trial: Trial) -> None:
    await trial.put("l1", "l2", queue="low")
    await trial.put("h1", queue="high")
    await trial.put("h2", "m1", queue="high")
    await trial.put("z1", queue="zero")

    first = await trial.take(2, "high", "low", "zero")
    rest = await trial.take(4, "high", "low", "zero")

    assert ids(first) == ["h1", "h2"]
    assert ids(rest) == ["m1", "l1", "l2", "z1"]


@conforms("reserve: queues in the order given", needs="ordered")
async def test_an_older_message_of_a_later_queue_waits(trial: Trial) -> None:
    await trial.put("old", queue="low")
    await trial.advance(600 if trial.virtual else 1)
    await trial.put("new", queue="high")

    assert ids(await trial.take(1, "high", "low")) == ["new"]
    assert ids(await trial.take(1, "high", "low")) == ["old"]


@conforms("reserve: a released message stands where its new `visible_at` puts it", needs="ordered")
async def test_a_released_message_goes_behind_what_is_visible(trial: Trial) -> None:
    lease = await trial.lease("released")
    await trial.put("waiting")

    await trial.settle((lease, Release(counted=True)))

    assert ids(await trial.take(2)) == ["waiting", "released"]


@conforms("reserve: an expired lease stands where its end puts it", needs="ordered")
async def test_an_expired_lease_stands_at_its_end(trial: Trial) -> None:
    await trial.lease("expired", lease_s=60)
    await trial.put("before", delay_s=30)
    await trial.put("after", delay_s=90)
    await trial.advance(90)

    assert ids(await trial.take(3)) == ["before", "expired", "after"]


@conforms("redrive: oldest death first, back to ready", needs="ordered")
async def test_redriven_messages_go_behind_what_is_visible(trial: Trial) -> None:
    await trial.put("a", "b", "waiting")
    a, b = await trial.take(2)
    await trial.settle((b, Bury(reason=DeadReason.FAILED)))
    await trial.settle((a, Bury(reason=DeadReason.FAILED)))

    assert await trial.driver.redrive(Q, limit=1) == 1
    await trial.advance(1)
    assert await trial.driver.redrive(Q, limit=1) == 1

    assert ids(await trial.take(3)) == ["waiting", "b", "a"]
