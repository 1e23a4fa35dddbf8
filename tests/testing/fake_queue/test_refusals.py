"""What a FakeQueue refuses because the answer would mean nothing: names, tasks, predicates, options, closed queues."""

import math
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from asynctasq.tasks import AsyncTask, task
from asynctasq.testing import FakeQueue


class SendEmail(AsyncTask[None]):
    queue = "emails"

    def __init__(self, to: str, subject: str = "Hello", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.subject = subject

    async def execute(self) -> None:
        return None


class SendLetter(SendEmail):
    def __init__(self, street: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.street = street

    async def execute(self) -> None:
        return None


class Keeping(AsyncTask[None]):
    """Takes any name, and keeps it."""

    def __init__(self, name: str, **fields: Any) -> None:
        super().__init__()
        self.name = name
        self.fields = fields

    async def execute(self) -> None:
        return None


class Attributes(AsyncTask[None]):
    """Has no constructor: what it is given becomes attributes."""

    async def execute(self) -> None:
        return None


@task
def resize(image: str, width: int = 100) -> None:
    return None


@task
def measure(*sizes: int, **named: int) -> None:
    return None


# -- names of arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["too", "queue", "times", "queue_name"])
def test_no_assertion_holds_because_of_a_name_that_the_task_does_not_have(queue: FakeQueue, name: str) -> None:
    SendEmail("a").dispatch_sync()

    with pytest.raises(TypeError, match=f"SendEmail has no argument '{name}'; it takes to, subject"):
        queue.assert_not_dispatched(SendEmail, **{name: "a"})


def test_the_positive_and_the_ordered_assertion_refuse_such_a_name_too(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="SendEmail has no argument 'too'; it takes to, subject"):
        queue.assert_dispatched(SendEmail, {"too": "a"}, times=0)
    with pytest.raises(TypeError, match="resize has no argument 'height'; it takes image, width"):
        queue.assert_dispatched(resize, height=1)
    with pytest.raises(TypeError, match="resize has no argument 'height'"):
        queue.assert_dispatched_in_order((resize, {"height": 1}))


def test_the_queue_is_asked_for_by_another_word(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="for the queue say on_queue="):
        queue.assert_not_dispatched(SendEmail, queue="emails")


def test_a_constructor_that_passes_on_what_it_does_not_know_takes_what_its_parent_takes(queue: FakeQueue) -> None:
    SendLetter("Main Street", to="a").dispatch_sync()

    queue.assert_dispatched(SendLetter, street="Main Street", to="a")
    with pytest.raises(TypeError, match="SendLetter has no argument 'city'; it takes street, to, subject"):
        queue.assert_not_dispatched(SendLetter, city="Rome")


def test_names_are_those_of_the_class_that_is_asked_for(queue: FakeQueue) -> None:
    SendLetter("Main Street", to="a").dispatch_sync()

    queue.assert_dispatched(SendEmail, to="a")
    with pytest.raises(TypeError, match="SendEmail has no argument 'street'"):
        queue.assert_dispatched(SendEmail, street="Main Street")


def test_where_any_name_is_taken_any_may_be_asked_for(queue: FakeQueue) -> None:
    Keeping("n", colour="red").dispatch_sync()
    Attributes(number=1).dispatch_sync()
    measure.dispatch_sync(1, 2, height=3)

    queue.assert_dispatched(Keeping, colour="red")
    queue.assert_not_dispatched(Keeping, shape="round")
    queue.assert_dispatched(Attributes, number=1)
    queue.assert_not_dispatched(Attributes, letter="a")
    queue.assert_dispatched(measure, sizes=(1, 2), height=3)
    queue.assert_not_dispatched(AsyncTask, to="a")


def test_what_every_task_has_is_no_argument_of_any(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="Attributes has no argument 'queue': every task has that attribute"):
        queue.assert_not_dispatched(Attributes, queue="default")


def test_an_argument_is_given_once(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    with pytest.raises(TypeError, match="'to' is in the mapping and given by name, too"):
        queue.assert_dispatched(SendEmail, {"to": "b"}, to="a")


def test_arguments_without_names_are_refused_in_words(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="give arguments by name or as a mapping"):
        queue.assert_dispatched(SendEmail, ["a"])  # type: ignore[arg-type] - the mistake under test


def test_an_order_of_nothing_is_no_assertion(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="was given no tasks"):
        queue.assert_dispatched_in_order()


def test_what_was_captured_refuses_the_same_names(queue: FakeQueue) -> None:
    with queue.captures() as captured:
        pass

    with pytest.raises(TypeError, match="no argument 'too'"):
        captured.assert_not_dispatched(SendEmail, too="a")


# -- delay and where -------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [60, timedelta(minutes=1)])
def test_not_dispatched_looks_at_the_delay(queue: FakeQueue, delay: float | timedelta) -> None:
    SendEmail("a").delay(60).dispatch_sync()

    queue.assert_not_dispatched(SendEmail, delay=30)
    with pytest.raises(AssertionError, match=r"expected no SendEmail\(\) delay=60s to be dispatched"):
        queue.assert_not_dispatched(SendEmail, delay=delay)


async def never(record: object) -> bool:
    return False


class Awaiting:
    """An object that is called: that it is async shows only in what it returns."""

    async def __call__(self, record: object) -> bool:
        return False


@pytest.mark.parametrize("where", [never, Awaiting()])
def test_a_predicate_that_must_be_awaited_is_refused(queue: FakeQueue, where: Callable[[Any], Any]) -> None:
    SendEmail("a").dispatch_sync()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="returns an awaitable, which is never false; give a plain function"):
            queue.assert_dispatched(SendEmail, where=where)
        with pytest.raises(TypeError, match="returns an awaitable"):
            queue.assert_not_dispatched(SendEmail, where=where)


# -- tasks that are let through --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FakeQueue(except_=[SendEmail]), r"SendEmail is not faked by FakeQueue\(except_=\[SendEmail\]\)"),
        (lambda: FakeQueue(only=[resize]), r"SendEmail is not faked by FakeQueue\(only=\[resize\]\)"),
    ],
    ids=["except_", "only"],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda queue: queue.dispatched(SendEmail),
        lambda queue: queue.assert_dispatched(SendEmail, times=0),
        lambda queue: queue.assert_not_dispatched(SendEmail),
        lambda queue: queue.assert_not_dispatched(SendEmail, ever=False),
        lambda queue: queue.assert_dispatched_in_order(SendEmail),
        lambda queue: queue.assert_completed(SendEmail, times=0),
        lambda queue: queue.assert_failed(SendEmail),
        lambda queue: queue.assert_retried_at([], task=SendEmail),
        lambda queue: queue.assert_failed_hook(SendEmail, times=0),
    ],
)
def test_of_a_task_that_is_let_through_nothing_can_be_said(
    make: Callable[[], FakeQueue], said: str, ask: Callable[[FakeQueue], object]
) -> None:
    with make() as queue, pytest.raises(ValueError, match=said):
        ask(queue)


def test_what_was_captured_says_nothing_of_it_either() -> None:
    with FakeQueue(except_=[SendEmail]) as queue, queue.captures() as captured:
        pass

    with pytest.raises(ValueError, match="is not faked"):
        captured.assert_not_dispatched(SendEmail)


def test_a_class_of_which_some_dispatches_are_faked_can_be_asked_for() -> None:
    with FakeQueue(only=[SendLetter]) as queue:
        queue.assert_not_dispatched(SendEmail)
        queue.assert_not_dispatched(SendLetter)
    with FakeQueue(except_=[SendLetter]) as queue:
        queue.assert_not_dispatched(SendEmail)
        with pytest.raises(ValueError, match="SendLetter is not faked"):
            queue.assert_not_dispatched(SendLetter)


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"errors": "rasie"}, ValueError, "errors must be one of raise, collect, not 'rasie'"),
        ({"retries": "x"}, ValueError, "retries must be one of due, never, all, not 'x'"),
        ({"scheduled": 5}, TypeError, "scheduled must be True, False or a timedelta, not 5"),
        ({"scheduled": timedelta(seconds=-1)}, ValueError, "never goes back"),
        ({"recursion": "no"}, TypeError, "recursion must be True or False, not 'no'"),
        ({"limit": -1}, ValueError, "limit must be a whole number, 0 or more, not -1"),
        ({"limit": 2.5}, ValueError, "limit must be a whole number"),
        ({"limit": True}, ValueError, "limit must be a whole number"),
    ],
)
async def test_drain_refuses_what_is_no_option(
    queue: FakeQueue, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        await queue.drain(**options)
    with pytest.raises(error, match=said):
        queue.drain_sync(**options)


@pytest.mark.parametrize("bound", [-1, math.nan, "60"])
async def test_the_bound_of_run_until_idle_is_a_number_of_seconds(queue: FakeQueue, bound: Any) -> None:
    with pytest.raises(ValueError, match="virtual_s_max must be"):
        await queue.run_until_idle(virtual_s_max=bound)
    with pytest.raises(ValueError, match="virtual_s_max must be"):
        queue.run_until_idle_sync(virtual_s_max=bound)


async def test_advance_wants_a_unit(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="advance takes a timedelta, or a number by the name of its unit"):
        await queue.advance(60)  # type: ignore[arg-type] - the mistake under test


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"workers": 0}, ValueError, "workers must be a whole number, 1 or more, not 0"),
        ({"workers": -1}, ValueError, "workers must be"),
        ({"workers": 1.5}, ValueError, "workers must be"),
        ({"concurrency": 0}, ValueError, "concurrency must be a whole number, 1 or more, not 0"),
        ({"seed": "1"}, ValueError, "seed must be a whole number, not '1'"),
        ({"seed": 1.5}, ValueError, "seed must be"),
        ({"seed": True}, ValueError, "seed must be"),
        ({"lease_s": 0}, ValueError, "lease_s must be more than 0 seconds, not 0"),
        ({"lease_s": -1}, ValueError, "lease_s must be"),
        ({"lease_s": math.nan}, ValueError, "lease_s must be"),
        ({"lease_s": "30"}, ValueError, "lease_s must be a number of seconds"),
    ],
)
def test_a_queue_that_could_not_work_is_not_made(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        FakeQueue(**options)


@pytest.mark.parametrize("attempt", [0, -1, 1.5, "2"])
async def test_attempts_count_from_one(queue: FakeQueue, attempt: Any) -> None:
    with pytest.raises(ValueError, match="attempt must be a whole number, 1 or more"):
        await queue.perform(SendEmail("a"), attempt=attempt)
    with pytest.raises(ValueError, match="attempt must be a whole number, 1 or more"):
        queue.perform_sync(SendEmail("a"), attempt=attempt)


async def test_perform_runs_a_task_with_its_arguments_and_no_class(queue: FakeQueue) -> None:
    with pytest.raises(TypeError, match="perform runs a task with its arguments"):
        await queue.perform(SendEmail)  # type: ignore[arg-type] - the mistake under test


# -- after the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    [
        lambda queue: queue.run_due_sync(),
        lambda queue: queue.advance_sync(seconds=1),
        lambda queue: queue.run_until_idle_sync(),
        lambda queue: queue.drain_sync(),
        lambda queue: queue.perform_sync(SendEmail("a")),
    ],
)
def test_a_closed_queue_says_that_it_runs_nothing(run: Callable[[FakeQueue], object]) -> None:
    with FakeQueue() as queue:
        SendEmail("a").dispatch_sync()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="this FakeQueue is closed: nothing runs in it any more"):
            run(queue)


async def test_a_closed_queue_says_so_to_those_who_await_it() -> None:
    async with FakeQueue() as queue:
        pass

    with pytest.raises(RuntimeError, match="this FakeQueue is closed"):
        await queue.run_due()


def test_what_a_closed_queue_saw_can_still_be_asserted() -> None:
    with FakeQueue() as queue:
        task_id = SendEmail("a").dispatch_sync()
        queue.run_due_sync()

    queue.assert_dispatched(SendEmail, to="a", times=1)
    queue.assert_not_dispatched(SendEmail, ever=False)
    queue.assert_completed(SendEmail)
    assert queue.history(task_id).completed
    assert "started" in queue.timeline()
    assert queue.clock.elapsed == timedelta()
