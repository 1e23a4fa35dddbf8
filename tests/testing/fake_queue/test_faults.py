"""Faults by hand and by seed in a FakeQueue: what each does to a worker, and what the queue makes of it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from asynctasq.kernel.ledger import Kind, check
from asynctasq.tasks import AsyncTask, SyncTask
from asynctasq.testing import (
    Crash,
    Delay,
    Duplicate,
    ExpireLease,
    FailAfter,
    FailBefore,
    FakeQueue,
    Faults,
    LoseReply,
    SkewClock,
    Stop,
)
from asynctasq.testing.faults import DirectedFault

RAN: Counter[str] = Counter()
REQUEST: ContextVar[str] = ContextVar("request")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


class Email(AsyncTask[None]):
    retry_delay = 5

    async def execute(self) -> None:
        RAN["begun"] += 1
        try:
            await asyncio.sleep(1)
            RAN["sent"] += 1
        finally:
            RAN["finally"] += 1


class InRequest(AsyncTask[None]):
    async def execute(self) -> None:
        token = REQUEST.set("r")
        try:
            await asyncio.sleep(1)
        finally:
            REQUEST.reset(token)
            RAN["reset"] += 1


class Clean(AsyncTask[None]):
    async def execute(self) -> None:
        return None


class Cleaner(AsyncTask[None]):
    """Tries to dispatch when it is torn down."""

    async def execute(self) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await Clean().dispatch()


class Parent(AsyncTask[None]):
    retry_delay = 5

    async def execute(self) -> None:
        await Clean().dispatch()


class Failing(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        raise ValueError("no")

    async def failed(self, exception: Exception) -> None:
        RAN["failed"] += 1
        await asyncio.sleep(1)


class Long(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["begun"] += 1
        await asyncio.sleep(100)


class Blocking(SyncTask[None]):
    def execute(self) -> None:
        RAN["begun"] += 1


def run(
    *faults: DirectedFault | Faults, task: Callable[[], AsyncTask[None] | SyncTask[None]] = Email, workers: int = 2
) -> FakeQueue:
    """Run one task under these faults and judge the ledger."""
    with FakeQueue(workers=workers, faults=list(faults)) as queue:
        task().dispatch_sync()
        queue.run_until_idle_sync()
        left = queue._pending_ids()
    assert check(queue.ledger, alive=left) == []
    return queue


def of(queue: FakeQueue, kind: Kind) -> list[tuple[float, str]]:
    opened = queue.clock.now() - queue.clock.monotonic()
    return [(round(entry.at - opened, 3), entry.worker) for entry in queue.ledger if entry.kind is kind]


# -- crashes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    ["turn:before", "after_reserve", "before_start", "mid_attempt", "before_settle", "settle:before", "after_settle"],
)
def test_a_crash_anywhere_loses_nothing(at: str) -> None:
    queue = run(Crash(at=at))

    queue.assert_completed(Email)
    assert queue.faults.fired == {"crash": 1}
    assert len(of(queue, Kind.CRASHED)) == 1


def test_what_a_crash_left_open_is_closed_in_its_own_context() -> None:
    with FakeQueue(workers=2, faults=[Crash(at="mid_attempt")]) as queue:
        InRequest().dispatch_sync()
        queue.run_until_idle_sync()

    assert RAN["reset"] == 2


def test_a_crash_before_the_start_lets_no_user_code_run() -> None:
    queue = run(Crash(at="before_start", task=Email, attempt=1))

    assert RAN == {"begun": 1, "sent": 1, "finally": 1}
    assert of(queue, Kind.STARTED) == [(30.0, "w2")]


def test_a_crash_before_the_settlement_runs_the_attempt_again_when_the_lease_has_ended() -> None:
    queue = run(Crash(at="before_settle", task=Email, attempt=1))

    assert RAN["sent"] == 2
    assert of(queue, Kind.STARTED) == [(0.0, "w1"), (30.0, "w2")]
    assert {attempt.number for attempt in queue.history(queue.dispatched()[0].task_id).attempts} == {1}


def test_a_crash_after_the_settlement_runs_nothing_again() -> None:
    queue = run(Crash(at="after_settle"))

    assert RAN["sent"] == 1
    assert of(queue, Kind.SETTLED) == [(1.0, "w1")]


def test_a_crash_while_user_code_awaits_runs_no_finally_while_the_queue_is_open() -> None:
    with FakeQueue(workers=2, faults=[Crash(at="mid_attempt")]) as queue:
        Email().dispatch_sync()
        queue.run_until_idle_sync()

        assert RAN == {"begun": 2, "sent": 1, "finally": 1}


def test_nothing_of_a_dead_worker_reaches_the_queue_not_even_from_a_finally() -> None:
    queue = run(Crash(at="mid_attempt", task=Cleaner), task=Cleaner)

    assert len(queue.dispatched(Clean)) == 1
    assert not [entry for entry in queue.ledger if entry.worker == "w1" and entry.kind is Kind.ENDED]


def test_a_crash_kills_the_tasks_that_the_attempt_made_too() -> None:
    class Spreading(AsyncTask[None]):
        async def execute(self) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(self.part())

        async def part(self) -> None:
            await asyncio.sleep(1)
            RAN["part"] += 1

    with FakeQueue(workers=2, faults=[Crash(at="mid_attempt")]) as queue:
        Spreading().dispatch_sync()
        queue.run_until_idle_sync()

        assert RAN == {"part": 3}


def test_a_crash_is_followed_by_a_new_worker_under_a_new_name() -> None:
    queue = run(Crash(at="mid_attempt"), workers=1)

    assert of(queue, Kind.STARTED) == [(0.0, "w1"), (30.0, "w2")]


def test_a_message_that_takes_every_worker_down_is_given_up() -> None:
    queue = run(*(Crash(at="before_start") for _ in range(3)))

    assert RAN == {}
    assert queue.history(queue.dispatched()[0].task_id).settlement == "bury: crashed"


def test_a_crash_in_the_failed_hook_repeats_the_hook() -> None:
    queue = run(Crash(at="before_settle"), Crash(at="in_failed_hook"), task=Failing)

    assert RAN["failed"] == 1
    queue.assert_failed(Failing, with_=ValueError)


def test_a_worker_dies_while_it_hands_back() -> None:
    queue = run(Stop(at="mid_attempt", immediate=True), Crash(at="in_hand_back"), task=Long)

    assert RAN["begun"] == 2
    assert of(queue, Kind.STARTED) == [(0.0, "w1"), (30.0, "w2")]


def test_a_worker_dies_while_it_shuts_down() -> None:
    queue = run(Stop(at="mid_attempt"), Crash(at="during_shutdown"), task=Long)

    assert of(queue, Kind.CRASHED)[0][1] == "w1"
    queue.assert_completed(Long)


# -- calls that go wrong ---------------------------------------------------------------------------


def test_a_lost_reply_to_a_settlement_runs_nothing_again() -> None:
    queue = run(LoseReply(at="settle", nth=1))

    assert RAN["sent"] == 1
    assert of(queue, Kind.SETTLED) == [(1.0, "w1")]


def test_a_lost_reply_to_a_reserve_costs_one_lease() -> None:
    queue = run(LoseReply(at="reserve", task=Email))

    assert of(queue, Kind.RESERVED) == [(0.0, "w1"), (30.0, "w2")]
    assert of(queue, Kind.STARTED) == [(30.0, "w2")]


@pytest.mark.parametrize("fault", [FailBefore(at="settle"), FailAfter(at="settle"), FailBefore(at="reserve")])
def test_a_failed_call_is_tried_again(fault: DirectedFault) -> None:
    queue = run(fault)

    assert RAN["sent"] == 1
    queue.assert_completed(Email)


def test_a_failed_renewal_is_made_up_for_by_the_next() -> None:
    run(FailBefore(at="extend"), task=Long)

    assert RAN["begun"] == 1


def test_a_dispatch_whose_reply_is_lost_is_recorded_and_repeated_by_the_retry() -> None:
    queue = run(LoseReply(at="enqueue", task=Clean), task=Parent)

    assert len(queue.dispatched(Clean)) == 2
    assert [a.outcome for a in queue.history(queue.dispatched(Parent)[0].task_id).attempts] == ["failed", "succeeded"]


def test_a_lease_that_arrives_after_its_end_is_not_run() -> None:
    queue = run(Delay(at="reserve:after", task=Email, seconds=40))

    assert of(queue, Kind.STARTED) == [(30.0, "w2")]


# -- leases, duplicates, clocks --------------------------------------------------------------------


def test_a_worker_that_stands_still_loses_its_lease_and_its_outcome() -> None:
    queue = run(ExpireLease(task=Long), task=Long)

    assert of(queue, Kind.STARTED) == [(0.0, "w1"), (30.0, "w2")]
    assert of(queue, Kind.SETTLED) == [(130.0, "w2")]
    assert of(queue, Kind.LOST)[0][1] == "w1"


def test_a_message_that_is_delivered_twice_runs_twice_and_is_settled_once() -> None:
    queue = run(Duplicate(task=Email))

    assert RAN["begun"] == 2
    assert len(of(queue, Kind.SETTLED)) == 1


def test_a_duplicate_is_no_crash() -> None:
    queue = run(*(Duplicate(nth=nth) for nth in (1, 2, 3)))

    queue.assert_completed(Email)


def test_a_wrong_clock_changes_nothing_but_what_the_worker_believes() -> None:
    queue = run(SkewClock(worker="w1", seconds=-3600))

    assert of(queue, Kind.STARTED) == [(0.0, "w1")]
    assert queue.faults.fired == {"clock_skew": 1}


# -- the account -----------------------------------------------------------------------------------


def test_a_fault_that_never_fires_fails_and_is_named() -> None:
    with pytest.raises(AssertionError, match=r"Crash\(at='mid_attempt', task='Long'\) \(had 0 occasions\)"):
        run(Crash(at="mid_attempt", task=Long), Duplicate())


def test_an_attempt_that_never_awaits_has_no_midst() -> None:
    with pytest.raises(AssertionError, match="Crash"):
        run(Crash(at="mid_attempt"), task=Blocking)

    assert RAN["begun"] == 1


def test_faults_by_chance_that_never_fire_fail_unless_told_not_to() -> None:
    with pytest.raises(AssertionError, match="must_fire=False"):
        run(Faults(seed=3, crash=1e-9))

    assert run(Faults(seed=3, crash=1e-9, must_fire=False)).faults.fired == {}


def test_a_failing_test_is_not_told_about_faults() -> None:
    with pytest.raises(ZeroDivisionError), FakeQueue(faults=[Crash(at="mid_attempt")]):
        _ = 1 / 0


def test_the_nth_occasion_is_counted() -> None:
    queue = run(Crash(at="mid_attempt", nth=2), Crash(at="mid_attempt", nth=1))

    assert of(queue, Kind.CRASHED)[0][1] == "w1"
    assert len(of(queue, Kind.CRASHED)) == 2


def test_the_same_seed_is_the_same_story() -> None:
    plan = Faults(seed=11, crash=0.05, lost_reply=0.05, fail_before=0.05, duplicate=0.05, latency=0.05, clock_skew=30)

    first, second = run(plan), run(plan)

    assert first.timeline() == second.timeline()
    assert first.faults.fired == second.faults.fired
    assert first.seed == 11


def test_other_seeds_are_other_stories() -> None:
    stories = {run(Faults(seed=seed, crash=0.1, lost_reply=0.1, must_fire=False)).timeline() for seed in range(1, 9)}

    assert len(stories) > 4


def test_without_faults_there_is_no_account() -> None:
    with FakeQueue() as queue, pytest.raises(RuntimeError, match="faults="):
        _ = queue.faults


def buried_by_crashes(faults: Callable[[int], Faults]) -> int:
    queues = [run(faults(seed), workers=3) for seed in range(1, 40)]
    return sum(queue.history(queue.dispatched()[0].task_id).settlement == "bury: crashed" for queue in queues)


def test_chance_takes_no_message_to_its_end_unless_told_to() -> None:
    def faults(seed: int, *, give_up: bool = False) -> Faults:
        return Faults(seed=seed, crash=0.3, lost_reply=0.2, lease_expiry=0.2, give_up=give_up, must_fire=False)

    assert buried_by_crashes(faults) == 0
    assert buried_by_crashes(lambda seed: faults(seed, give_up=True)) > 0


def test_run_due_waits_for_a_worker_where_the_only_one_has_died() -> None:
    with FakeQueue(concurrency=1, faults=Crash(at="before_settle", task=Email)) as queue:
        crashed, waiting = Email().dispatch_sync(), Email().dispatch_sync()

        queue.run_due_sync()

        assert queue.history(waiting).completed
        assert not queue.history(crashed).completed
