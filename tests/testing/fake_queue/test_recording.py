"""What a FakeQueue records, what can be asserted of it, and what a failing assertion shows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from asynctasq.errors import InvalidQueueName
from asynctasq.tasks import AsyncTask, SyncTask, dispatch_many, dispatch_many_sync, task
from asynctasq.testing import Dispatched, FakeQueue
from tests.testing.simulation.failing import failure


class SendEmail(AsyncTask[None]):
    queue = "emails"

    def __init__(self, to: str, subject: str = "Hello", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.subject = subject

    async def execute(self) -> None:
        return None


class SendUrgentEmail(SendEmail):
    async def execute(self) -> None:
        return None


class Audit(SyncTask[None]):
    """Its arguments have names that the assertions use themselves."""

    def __init__(self, times: int, where: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.times = times
        self.where = where

    def execute(self) -> None:
        return None


@task
def resize(image: str, width: int = 100) -> None:
    return None


@dataclass(frozen=True)
class Matching:
    """A matcher object: equal to whatever the predicate holds for."""

    predicate: Callable[[Any], bool]

    def __eq__(self, other: object) -> bool:
        return self.predicate(other)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "<matching>"


# -- dispatched ------------------------------------------------------------------------------------


def test_nothing_runs_until_it_is_asked_to(queue: FakeQueue) -> None:
    task_id = SendEmail("a").dispatch_sync()

    assert queue.history(task_id).attempts == []


def test_dispatches_are_kept_in_order(queue: FakeQueue) -> None:
    ids = [SendEmail("a").dispatch_sync(), resize.dispatch_sync("cat"), SendEmail("b").dispatch_sync()]

    assert [record.task_id for record in queue.dispatched()] == ids


def test_dispatches_are_found_by_class(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    resize.dispatch_sync("cat")

    assert [record.arguments["to"] for record in queue.dispatched(SendEmail)] == ["a"]


def test_dispatches_are_found_by_decorated_function(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    resize.dispatch_sync("cat")

    assert [record.arguments for record in queue.dispatched(resize)] == [{"image": "cat", "width": 100}]


def test_a_base_class_finds_its_subclasses_but_not_the_other_way_round(queue: FakeQueue) -> None:
    SendUrgentEmail("a").dispatch_sync()
    SendEmail("b").dispatch_sync()

    assert len(queue.dispatched(SendEmail)) == 2
    assert len(queue.dispatched(SendUrgentEmail)) == 1


def test_an_instance_is_no_task_to_ask_for(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="expected a task class or a @task function"):
        queue.dispatched(SendEmail("a"))  # type: ignore[arg-type] - the mistake under test


def test_a_record_says_what_when_and_where(queue: FakeQueue) -> None:
    queue.advance_sync(seconds=90)
    task_id = SendEmail("a").on_queue("slow").delay(60).dispatch_sync()

    [record] = queue.dispatched()
    assert (record.task_id, record.task, record.queue) == (task_id, SendEmail, "slow")
    assert (record.delay_s, record.at_s) == (60.0, 90.0)
    assert record.arguments == {"to": "a", "subject": "Hello"}
    assert record.message.id == task_id


def test_arguments_went_through_the_codec(queue: FakeQueue) -> None:
    @task
    def keep(value: object) -> None:
        return None

    given = [1, 2]
    keep.dispatch_sync(given)
    given.append(3)

    queue.assert_dispatched(keep, value=[1, 2])


def test_what_cannot_be_encoded_is_refused_as_in_production_and_leaves_nothing(queue: FakeQueue) -> None:
    @task
    def take(value: object) -> None:
        return None

    with pytest.raises(Exception, match="object"):
        dispatch_many_sync([take(1), take(object())])

    queue.assert_nothing_dispatched()


def test_a_bad_queue_name_is_refused(queue: FakeQueue) -> None:
    with pytest.raises(InvalidQueueName):
        SendEmail("a").on_queue("no such/name")


def test_a_batch_is_recorded_task_by_task(queue: FakeQueue) -> None:
    ids = dispatch_many_sync([SendEmail("a"), resize("cat"), SendEmail("b")])

    assert [record.task_id for record in queue.dispatched()] == ids


async def test_an_awaited_batch_is_recorded_too(queue: FakeQueue) -> None:
    again = SendEmail("a")
    ids = await dispatch_many([again, again])

    assert len(set(ids)) == 2
    queue.assert_dispatched(SendEmail, times=2)


def test_a_dispatch_with_the_id_of_a_living_message_stores_nothing(queue: FakeQueue) -> None:
    first = SendEmail("a").with_options(task_id="7f2c1d1e-3c58-4a5b-9c0e-0a4f0f6b1a11").dispatch_sync()
    second = SendEmail("b").with_options(task_id="7f2c1d1e-3c58-4a5b-9c0e-0a4f0f6b1a11").dispatch_sync()

    assert first == second
    queue.assert_dispatched(SendEmail, times=1)


# -- assert_dispatched -----------------------------------------------------------------------------


def test_it_returns_what_matched(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    SendEmail("b").dispatch_sync()

    matches = queue.assert_dispatched(SendEmail, to="b")

    assert [record.arguments["to"] for record in matches] == ["b"]


def test_without_times_once_or_more_will_do(queue: FakeQueue) -> None:
    assert "0 of 0 dispatches match" in failure(queue.assert_dispatched, SendEmail)

    SendEmail("a").dispatch_sync()
    SendEmail("a").dispatch_sync()
    queue.assert_dispatched(SendEmail)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_times_is_exact(queue: FakeQueue, times: int) -> None:
    SendEmail("a").dispatch_sync()
    SendEmail("a").dispatch_sync()

    queue.assert_dispatched(SendEmail, times=2)
    assert f"{times} times; 2 of 2 dispatches match" in failure(queue.assert_dispatched, SendEmail, times=times)


def test_times_zero_holds_when_there_is_none(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    assert queue.assert_dispatched(SendEmail, to="b", times=0) == []


def test_arguments_that_were_left_to_their_defaults_can_be_asked_for(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    queue.assert_dispatched(SendEmail, subject="Hello")


def test_an_argument_that_one_dispatch_was_not_given_differs(queue: FakeQueue) -> None:
    @task
    def tag(**labels: str) -> None:
        return None

    tag.dispatch_sync(colour="red")

    text = failure(queue.assert_dispatched, tag, shape="round")
    assert "<- differs: shape\n    shape: wanted 'round', was not given" in text


def test_matcher_objects_compare_by_their_own_equality(queue: FakeQueue) -> None:
    SendEmail("ada@example.org").dispatch_sync()

    queue.assert_dispatched(SendEmail, to=Matching(lambda to: to.endswith("@example.org")))
    assert "differs: to" in failure(queue.assert_dispatched, SendEmail, to=Matching(lambda to: False))


def test_the_queue_is_the_one_it_was_sent_to(queue: FakeQueue) -> None:
    SendEmail("a").on_queue("bulk").dispatch_sync()

    queue.assert_dispatched(SendEmail, on_queue="bulk")
    assert "differs: queue" in failure(queue.assert_dispatched, SendEmail, on_queue="emails")


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(minutes=1.5)])
def test_the_delay_may_be_seconds_or_a_timedelta(queue: FakeQueue, delay: float | timedelta) -> None:
    SendEmail("a").delay(timedelta(seconds=90)).dispatch_sync()

    queue.assert_dispatched(SendEmail, delay=delay)


def test_delay_zero_means_at_once(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    queue.assert_dispatched(SendEmail, delay=0)

    SendEmail("b").delay(5).dispatch_sync()
    assert "differs: delay" in failure(queue.assert_dispatched, SendEmail, to="b", delay=0)


def test_where_sees_the_whole_record_of_what_fits_otherwise(queue: FakeQueue) -> None:
    seen: list[Dispatched] = []

    def is_first(record: Dispatched) -> bool:
        seen.append(record)
        return record.at_s == 0.0

    SendEmail("a").dispatch_sync()
    resize.dispatch_sync("cat")

    queue.assert_dispatched(SendEmail, where=is_first)
    assert {record.task for record in seen} == {SendEmail}
    assert "where never holds" in failure(queue.assert_dispatched, SendEmail, where=never)


def never(record: Dispatched) -> bool:
    return False


def test_arguments_named_like_keywords_are_given_as_a_mapping(queue: FakeQueue) -> None:
    Audit(times=7, where="shop").dispatch_sync()

    queue.assert_dispatched(Audit, {"times": 7, "where": "shop"}, times=1)
    assert "differs: where" in failure(queue.assert_dispatched, Audit, {"where": "elsewhere"}, times=1)


# -- what a failure shows --------------------------------------------------------------------------


def test_a_failure_shows_what_was_dispatched_nearest_first_and_what_differs(queue: FakeQueue) -> None:
    resize.dispatch_sync("cat")
    SendEmail("b", "Bye").dispatch_sync()
    SendEmail("a").delay(30).dispatch_sync()
    queue.advance_sync(seconds=12)

    assert failure(queue.assert_dispatched, SendEmail, to="a", on_queue="emails", delay=60).splitlines() == [
        "expected SendEmail(to='a') on queue 'emails' delay=60s at least once; 0 of 3 dispatches match",
        "  nearest: SendEmail(to='a', subject='Hello') on queue 'emails' delay=30s  <- differs: delay",
        "    delay: wanted 60s, was 30s",
        "  other: SendEmail(to='b', subject='Bye') on queue 'emails'  <- differs: to, delay",
        "  other: resize(image='cat', width=100) on queue 'default'  <- differs: task, to, queue, delay",
        "virtual time 0:00:12, seed 0",
    ]


def test_a_failure_names_the_seed() -> None:
    with FakeQueue(seed=41) as queue:
        assert failure(queue.assert_dispatched, SendEmail).endswith("virtual time 0:00:00, seed 41")


def test_a_failure_marks_the_ones_that_match(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    assert "SendEmail(to='a', subject='Hello') on queue 'emails'  <- matches" in failure(
        queue.assert_dispatched, SendEmail, times=2
    )


def test_a_failure_stays_short(queue: FakeQueue) -> None:
    for number in range(50):
        SendEmail(str(number)).dispatch_sync()

    text = failure(queue.assert_dispatched, SendEmail, to="nobody")

    assert len(text.splitlines()) < 15
    assert "... 50 in all" in text


# -- the negative ----------------------------------------------------------------------------------


def test_not_dispatched_means_never(queue: FakeQueue) -> None:
    queue.assert_not_dispatched(SendEmail)

    SendEmail("a").dispatch_sync()
    queue.run_due_sync()

    assert "expected no SendEmail() to be dispatched" in failure(queue.assert_not_dispatched, SendEmail)


def test_not_dispatched_looks_at_arguments_queue_and_predicate(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    queue.assert_not_dispatched(SendEmail, to="b")
    queue.assert_not_dispatched(SendEmail, {"to": "b"})
    queue.assert_not_dispatched(SendEmail, on_queue="bulk")
    queue.assert_not_dispatched(SendEmail, where=never)
    assert "SendEmail(to='a'" in failure(queue.assert_not_dispatched, SendEmail, to="a", on_queue="emails")


def test_not_ever_false_looks_only_at_what_is_still_to_be_run(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    SendEmail("b").delay(60).dispatch_sync()
    queue.run_due_sync()

    queue.assert_not_dispatched(SendEmail, to="a", ever=False)
    text = failure(queue.assert_not_dispatched, SendEmail, ever=False)
    assert "expected no SendEmail() to be waiting to be run" in text
    assert "to='b'" in text
    assert "to='a'" not in text


def test_nothing_dispatched_means_nothing_at_all(queue: FakeQueue) -> None:
    queue.assert_nothing_dispatched()

    resize.dispatch_sync("cat")

    assert "resize(image='cat'" in failure(queue.assert_nothing_dispatched)


def test_nothing_waiting_once_all_has_run(queue: FakeQueue) -> None:
    resize.dispatch_sync("cat")
    failure(queue.assert_nothing_dispatched, ever=False)

    queue.run_due_sync()

    queue.assert_nothing_dispatched(ever=False)


# -- order -----------------------------------------------------------------------------------------


def test_in_order_allows_others_between(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    Audit(1, "x").dispatch_sync()
    resize.dispatch_sync("cat")
    SendEmail("b").dispatch_sync()

    queue.assert_dispatched_in_order(SendEmail, resize, (SendEmail, {"to": "b"}))


def test_in_order_fails_the_other_way_round_and_shows_the_order(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()
    resize.dispatch_sync("cat")

    text = failure(queue.assert_dispatched_in_order, resize, SendEmail)

    assert "expected SendEmail() as number 2 of 2" in text
    assert "  1: SendEmail(to='a'" in text
    assert "  2: resize(image='cat'" in text


def test_in_order_uses_no_dispatch_twice(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    failure(queue.assert_dispatched_in_order, SendEmail, SendEmail)


# -- captures --------------------------------------------------------------------------------------


def test_captures_hold_only_what_the_block_dispatched(queue: FakeQueue) -> None:
    SendEmail("before").dispatch_sync()
    with queue.captures() as captured:
        SendEmail("inside").dispatch_sync()
    SendEmail("after").dispatch_sync()

    captured.assert_dispatched(SendEmail, to="inside", times=1)
    captured.assert_not_dispatched(SendEmail, to="before")
    assert len(captured.dispatched()) == 1
    assert len(queue.dispatched()) == 3


def test_captures_hold_what_tasks_dispatched_in_the_block(queue: FakeQueue) -> None:
    Welcome("a").dispatch_sync()

    with queue.captures() as captured:
        queue.run_due_sync()

    captured.assert_dispatched(SendEmail, times=1)
    captured.assert_not_dispatched(Welcome)


class Welcome(AsyncTask[None]):
    def __init__(self, to: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    async def execute(self) -> None:
        await SendEmail(self.to).dispatch()


def test_captures_hold_what_there_was_when_the_block_raised(queue: FakeQueue) -> None:
    with pytest.raises(ZeroDivisionError), queue.captures() as captured:
        SendEmail("a").dispatch_sync()
        _ = 1 / 0

    captured.assert_dispatched(SendEmail, times=1)


def test_an_assertion_inside_the_block_sees_what_was_dispatched_so_far(queue: FakeQueue) -> None:
    with queue.captures() as captured:
        SendEmail("a").dispatch_sync()
        captured.assert_dispatched(SendEmail, to="a")
        SendEmail("b").dispatch_sync()
        captured.assert_dispatched(SendEmail, times=2)


def test_what_was_captured_is_waiting_only_until_it_has_run(queue: FakeQueue) -> None:
    with queue.captures() as captured:
        SendEmail("a").dispatch_sync()
    failure(captured.assert_not_dispatched, SendEmail, ever=False)

    queue.run_due_sync()

    captured.assert_not_dispatched(SendEmail, ever=False)


def test_blocks_may_be_nested(queue: FakeQueue) -> None:
    with queue.captures() as outer:
        SendEmail("a").dispatch_sync()
        with queue.captures() as inner:
            SendEmail("b").dispatch_sync()

    outer.assert_dispatched(SendEmail, times=2)
    inner.assert_dispatched(SendEmail, times=1)


def test_a_failure_over_a_block_shows_virtual_time_and_seed(queue: FakeQueue) -> None:
    with queue.captures() as captured:
        pass

    assert failure(captured.assert_dispatched, SendEmail).endswith("virtual time 0:00:00, seed 0")
