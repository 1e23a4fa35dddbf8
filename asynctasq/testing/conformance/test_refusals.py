"""What every operation refuses: hostile queue names and bodies that are too large; nothing is stored then."""

from collections.abc import Awaitable, Callable

import pytest

from asynctasq.errors import BodyTooLarge, InvalidQueueName
from asynctasq.kernel.messages import Complete, Message
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, message

HOSTILE = (
    *(
        "",
        " ",
        "a b",
        "a/b",
        "a\\b",
        "a'b",
        'a"b',
        "a`b",
        "a;b",
        "a*",
        "a?b",
        "a%b",
        "a{b}",
        "a\x00b",
        "a\n",
        "\n",
        "\ta",
    ),
    *("-a", ".a", ":a", "../a", "é", "\uff41", "a\u200b", "🎈", "\ud800", "x" * 81, "a'; DROP TABLE messages; --"),
)
Call = Callable[[str], Awaitable[object]]


async def _assert_refused(call: Call) -> None:
    for name in HOSTILE:
        try:
            with pytest.raises(InvalidQueueName):
                await call(name)
        except pytest.fail.Exception:
            raise AssertionError(f"queue name {name!r} must be refused with InvalidQueueName") from None


@conforms("enqueue raises InvalidQueueName: nothing was stored")
async def test_enqueue_refuses_hostile_queue_names(store: StoreUnderTest) -> None:
    await _assert_refused(lambda name: store.driver.enqueue([message("m", queue=name)]))


@conforms("enqueue raises InvalidQueueName: nothing was stored")
async def test_one_bad_queue_name_refuses_the_whole_batch(store: StoreUnderTest) -> None:
    for position in range(3):
        batch = [message(f"m{number}") for number in range(3)]
        batch[position] = message("bad", queue="not valid")
        with pytest.raises(InvalidQueueName):
            await store.driver.enqueue(batch)

    await store.assert_nothing_visible()
    await store.assert_depth()
    await store.put("m0", "m1", "m2", "bad")


@conforms("reserve: queue names are checked")
async def test_reserve_refuses_hostile_queue_names(store: StoreUnderTest) -> None:
    await _assert_refused(lambda name: store.driver.reserve([Q, name], limit=1, lease_s=LONG_S))


@conforms("depth: queue names are checked")
async def test_depth_refuses_hostile_queue_names(store: StoreUnderTest) -> None:
    await _assert_refused(store.driver.depth)


@conforms("redrive: queue names are checked", needs="redrive")
async def test_redrive_refuses_hostile_queue_names(store: StoreUnderTest) -> None:
    await _assert_refused(lambda name: store.driver.redrive(name, limit=1))


@conforms("settle: each entry is atomic, its follow-ups included")
async def test_a_follow_up_for_a_hostile_queue_settles_nothing(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    for name in HOSTILE[:4]:
        with pytest.raises(InvalidQueueName):
            await store.driver.settle([(lease, Complete(follow_ups=(message("n", queue=name),)))])

    await store.assert_depth(reserved=1)
    await store.settle((lease, Complete()))


def _limit(store: StoreUnderTest) -> int:
    limit = store.capabilities.body_bytes_max
    if limit is None:
        raise NotPossible("the driver has no limit for bodies")
    if limit > 64 * 1024 * 1024:
        raise NotPossible(f"its limit for bodies, {limit} bytes, is beyond what is tested here")
    return limit


@conforms("enqueue raises BodyTooLarge: nothing was stored")
async def test_a_body_over_the_limit_refuses_the_whole_batch(store: StoreUnderTest) -> None:
    too_large = bytes(_limit(store) + 1)

    with pytest.raises(BodyTooLarge):
        await store.driver.enqueue([message("a"), message("b", body=too_large), message("c")])

    await store.assert_nothing_visible()
    await store.assert_depth()


@conforms("settle: a follow-up beyond the limit settles nothing")
async def test_a_follow_up_over_the_limit_settles_nothing(store: StoreUnderTest) -> None:
    follow_up = Message(id="n", queue=Q, body=bytes(_limit(store) + 1))
    lease = await store.lease("m")

    with pytest.raises(BodyTooLarge):
        await store.driver.settle([(lease, Complete(follow_ups=(follow_up,)))])

    await store.assert_depth(reserved=1)
    await store.settle((lease, Complete()))
