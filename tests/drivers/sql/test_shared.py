"""What the SQL drivers share: names, batches, conflicts, backoff and wake-ups."""

import asyncio
import random
import threading
from contextlib import closing, nullcontext
from typing import Any

import pytest

from asynctasq.drivers.sql.conflicts import retry_conflicts
from asynctasq.drivers.sql.identifiers import check_identifier, quote
from asynctasq.drivers.sql.paramstyles import translate
from asynctasq.drivers.sql.settlements import independent_batches, is_plain
from asynctasq.drivers.sql.waiting import PollBackoff, Wakeups, wait_until_visible
from asynctasq.errors import ConfigError, DriverUnavailable, UnsupportedFeature
from asynctasq.kernel.messages import Complete, Lease, Message, Release
from asynctasq.testing.loop import SimulationLoop
from tests.patience import SOON_S


def lease(message_id: str, token: str = "1") -> Lease:
    return Lease(
        message_id=message_id, queue="q", body=b"", token=token, attempt=1, crashes=0, enqueued_at=0.0, expires_at=0.0
    )


def follow_up(message_id: str) -> Complete:
    return Complete(follow_ups=(Message(id=message_id, queue="q", body=b""),))


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a.b", "a b", 'a"b', "a;b", "é", "a\n", "x" * 41, None, 5])
def test_a_name_that_is_no_plain_identifier_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="table_prefix"):
        check_identifier(name, "table_prefix")


def test_quotes_inside_a_name_are_doubled() -> None:
    assert (quote('a"b'), quote("a`b", mark="`")) == ('"a""b"', "`a``b`")


def test_settlements_that_do_not_touch_each_other_are_one_batch() -> None:
    ends = [(lease("a"), Complete()), (lease("b"), follow_up("c"))]

    assert independent_batches(ends) == ([ends], set())
    assert independent_batches([]) == ([], set())


def test_the_second_use_of_one_lease_is_lost() -> None:
    ends = [(lease("a"), Release(counted=True)), (lease("b"), Complete()), (lease("a"), Complete())]

    assert independent_batches(ends) == ([ends[:2]], {"a"})


def test_a_follow_up_named_like_a_settled_message_keeps_the_order() -> None:
    ends = [(lease("a"), follow_up("b")), (lease("b"), Complete())]

    assert independent_batches(ends) == ([[ends[0]], [ends[1]]], set())


def test_plain_is_what_one_delete_does() -> None:
    assert is_plain([(lease("a"), Complete())])
    assert not is_plain([(lease("a"), Complete(result=b""))])
    assert not is_plain([(lease("a"), Complete()), (lease("b"), follow_up("c"))])
    assert not is_plain([(lease("a"), Release(counted=True))])


async def test_a_conflict_is_tried_again_and_another_error_is_not() -> None:
    calls: list[int] = []

    async def conflicts_twice() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError
        return "done"

    async def fails() -> str:
        calls.append(1)
        raise ValueError

    def is_conflict(error: Exception) -> bool:
        return isinstance(error, KeyError)

    assert await retry_conflicts(conflicts_twice, is_conflict=is_conflict, rng=random.Random(1)) == "done"
    with pytest.raises(ValueError):
        await retry_conflicts(fails, is_conflict=is_conflict, rng=random.Random(1))
    assert len(calls) == 4


@pytest.mark.parametrize(("conflict_s", "ends_at_s"), [(25.0, 25.0), (None, 30.0)])
def test_a_conflict_is_tried_again_for_thirty_seconds(conflict_s: float | None, ends_at_s: float) -> None:
    async def conflicts() -> str:
        if conflict_s is None or asyncio.get_running_loop().time() < conflict_s:
            raise KeyError
        return "done"

    async def tried() -> float:
        with nullcontext() if conflict_s else pytest.raises(KeyError):
            assert await retry_conflicts(conflicts, is_conflict=lambda error: True, rng=random.Random(1)) == "done"
        return asyncio.get_running_loop().time()

    with closing(SimulationLoop()) as loop:
        assert ends_at_s <= loop.run_until_complete(tried()) < ends_at_s + 0.5


def test_the_pace_slows_down_to_its_limit_with_jitter() -> None:
    backoff = PollBackoff(first_s=0.1, longest_s=1.0, rng=random.Random(1))

    pauses = [backoff.next_pause_s() for _ in range(8)]
    backoff.reset()

    assert pauses[0] <= 0.1
    assert all(0.75 <= pause <= 1.0 for pause in pauses[5:])
    assert len(set(pauses)) == 8
    assert backoff.next_pause_s() <= 0.1


async def test_a_wake_up_from_another_thread_ends_the_wait() -> None:
    wakeups = Wakeups.for_store("a store")
    with wakeups.waiting(["q"]) as waiter:
        waiting = asyncio.create_task(waiter.wait(30))
        thread = threading.Thread(target=lambda: Wakeups.for_store("a store").wake({"other", "q"}))
        thread.start()

        assert await waiting is True
        thread.join()


async def test_other_queues_and_other_stores_do_not_wake() -> None:
    wakeups = Wakeups.for_store("one")
    with wakeups.waiting(["q"]) as waiter:
        wakeups.wake({"other"})
        Wakeups.for_store("two").wake()

        assert await waiter.wait(0.01) is False


async def test_a_wake_up_before_the_wait_counts() -> None:
    wakeups = Wakeups()
    looks: list[float | None] = [None, 0.0]

    async def due_in_s() -> float | None:
        wakeups.wake()  # While the first look is under way.
        return looks.pop(0)

    with wakeups.waiting(["q"]) as waiter:
        backoff = PollBackoff(first_s=30, longest_s=30, rng=random.Random(1))
        async with asyncio.timeout(SOON_S):
            assert await wait_until_visible(waiter, due_in_s, wait_s=30, backoff=backoff) is True


async def test_a_closed_waiter_hides_the_loss_of_its_connection() -> None:
    async def cut() -> str:
        raise DriverUnavailable("cut")

    with Wakeups().waiting(["q"]) as waiter:
        with pytest.raises(DriverUnavailable):
            await waiter.unless_closed(cut())
        waiter.closed = True
        assert await waiter.unless_closed(cut()) is None


@pytest.mark.parametrize(
    ("statement", "style", "expected"),
    [
        ("SELECT $1, $2, $1, '%'", "pyformat", ("SELECT %(p1)s, %(p2)s, %(p1)s, '%%'", {"p1": 1, "p2": 2})),
        ("SELECT $1, $2", "numeric_dollar", ("SELECT $1, $2", (1, 2))),
        ("SELECT %s, %s, '%%'", "format", ("SELECT %s, %s, '%%'", (1, 2))),
        ("SELECT %s, %s, '%%'", "qmark", ("SELECT ?, ?, '%'", (1, 2))),
        ("SELECT ?, ?, '%'", "format", ("SELECT %s, %s, '%%'", (1, 2))),
        ("SELECT ?, ?, '%'", "qmark", ("SELECT ?, ?, '%'", (1, 2))),
    ],
)
def test_statements_are_translated(statement: str, style: str, expected: Any) -> None:
    assert translate(statement, [1, 2], style) == expected


def test_a_style_that_can_not_say_it_is_refused() -> None:
    with pytest.raises(UnsupportedFeature, match="paramstyle"):
        translate("SELECT $1", [1], "qmark")
