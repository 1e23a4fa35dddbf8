"""What tasks returned, how one attempt ended, and how dispatches and raw messages look."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, make_transient_to_detached, mapped_column, sessionmaker

from asynctasq import AsyncTask, Reject, Retry, Snooze, task
from asynctasq.codec.orm.references import ModelReference
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.ledger import Kind, check
from asynctasq.kernel.messages import Message
from asynctasq.queue import MessageFactory
from asynctasq.tasks import SyncProcessTask
from asynctasq.testing import FakeQueue, LimitExceeded, RealWorldAccess, SimulationError
from tests.testing.simulation.failing import failure


class Base(DeclarativeBase):
    pass


class Post(Base):
    __tablename__ = "posts"
    _asynctasq_session_factory = sessionmaker()
    id: Mapped[int] = mapped_column(primary_key=True)


def saved(key: int) -> Post:
    post = Post(id=key)
    make_transient_to_detached(post)
    return post


class Publish(AsyncTask[None]):
    def __init__(self, post: Post, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.post = post

    async def execute(self) -> None: ...


@task(max_attempts=3, retry_delay=60)
async def third_time(numbers: list[int]) -> int:
    numbers.append(1)
    return len(numbers)


class Flaky(AsyncTask[int]):
    max_attempts = 3
    retry_delay = 60

    async def execute(self) -> int:
        if self.attempt < 3:
            raise ConnectionError
        return self.attempt


class Doubled(SyncProcessTask[int]):
    def __init__(self, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def execute(self) -> int:
        return 2 * self.number


class Ends(AsyncTask[str]):
    max_attempts = 2

    def __init__(self, how: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how = how

    async def execute(self) -> str:
        errors = {"retry": Retry(after=1), "snooze": Snooze(5), "reject": Reject("no"), "fail": ValueError("bad")}
        if self.how in errors:
            raise errors[self.how]
        return self.how


# -- values ----------------------------------------------------------------------------------------


async def test_a_history_has_what_the_task_returned(queue: FakeQueue) -> None:
    task_id = await Flaky().dispatch()
    await queue.run_until_idle()

    history = queue.history(task_id)
    assert history.value == 3
    assert [attempt.value for attempt in history.attempts] == [None, None, 3]


async def test_before_it_is_completed_there_is_no_value(queue: FakeQueue) -> None:
    task_id = await Flaky().dispatch()
    assert queue.history(task_id).value is None

    await queue.run_due()
    assert queue.history(task_id).value is None


@pytest.mark.parametrize("real_executors", [False, True])
def test_a_process_task_has_its_value_though_nobody_keeps_it(real_executors: bool) -> None:
    with FakeQueue(real_executors=real_executors) as queue:
        Doubled(21).dispatch_sync()
        queue.run_until_idle_sync()

    assert queue.history(Doubled).value == 42


async def test_a_task_that_was_dispatched_once_is_named_by_class_or_function(queue: FakeQueue) -> None:
    await Flaky().dispatch()
    await third_time.dispatch([])
    await queue.run_until_idle()

    assert queue.history(Flaky).value == 3
    assert queue.history(third_time).value == 1


async def test_one_that_was_not_or_was_more_than_once_is_refused(queue: FakeQueue) -> None:
    with pytest.raises(KeyError, match="Flaky was not dispatched here"):
        queue.history(Flaky)
    await Flaky().dispatch()
    await Flaky().dispatch()

    with pytest.raises(ValueError, match="Flaky was dispatched 2 times; say which by the id"):
        queue.history(Flaky)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("ok", "succeeded"),
        ("retry", "retryrequested"),
        ("snooze", "snoozed"),
        ("reject", "rejected"),
        ("fail", "failed"),
    ],
)
async def test_performed_tells_the_outcome_in_the_words_of_a_history(queue: FakeQueue, how: str, outcome: str) -> None:
    performed = await queue.perform(Ends(how))
    task_id = await Ends(how).dispatch()
    await queue.run_due()

    assert performed.outcome == outcome
    assert queue.history(task_id).attempts[0].outcome == outcome


async def test_an_outcome_does_not_depend_on_whether_it_is_the_last_attempt(queue: FakeQueue) -> None:
    assert (await queue.perform(Ends("fail"), attempt=2)).outcome == "failed"


# -- how they look ---------------------------------------------------------------------------------


async def test_a_printed_dispatch_shows_its_arguments(queue: FakeQueue) -> None:
    await Ends("ok").on_queue("ends").delay(timedelta(seconds=5)).dispatch()

    assert str(queue.dispatched()) == "[<Dispatched Ends(how='ok') on queue 'ends' delay=5s>]"


async def test_a_model_shows_as_what_it_is(queue: FakeQueue) -> None:
    await Publish(saved(13)).dispatch()

    assert str(queue.dispatched()[0]) == "Publish(post=Post pk=13) on queue 'default'"


async def test_assertions_show_models_so_on_both_sides(queue: FakeQueue) -> None:
    await Publish(saved(13)).dispatch()

    text = failure(queue.assert_dispatched, Publish, post=saved(14))

    assert "expected Publish(post=Post pk=14) at least once" in text
    assert "post: wanted Post pk=14, was Post pk=13" in text
    assert "ModelReference" not in text


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (ModelReference(orm="django", model_name="blog.Post", key=(13,), database="default"), "Post pk=13"),
        (
            ModelReference(orm="django", model_name="blog.Post", key=("a",), database="archive"),
            "Post pk='a' in 'archive'",
        ),
        (ModelReference(orm="sqlalchemy", model_name="app.models:Outer.Post", key=(1, 2)), "Post pk=(1, 2)"),
        (ModelReference(orm="tortoise", model_name="models.Post", key=(1,)), "Post pk=1"),
    ],
)
def test_a_reference_shows_model_and_key(reference: ModelReference, shown: str) -> None:
    assert repr([reference]) == f"[{shown}]"


# -- messages stored past the dispatcher -------------------------------------------------------------


def encoded(task: Any) -> Message:
    return MessageFactory().message(task)


async def test_a_message_that_the_driver_is_given_is_a_dispatch_of_what_its_body_says(queue: FakeQueue) -> None:
    message = encoded(Ends("ok").on_queue("ends").delay(5))

    assert await queue.driver.enqueue([message]) == [message.id]

    queue.assert_dispatched(Ends, how="ok", on_queue="ends", delay=5, times=1)
    await queue.run_until_idle()
    assert queue.history(message.id).value == "ok"
    assert check(queue.ledger) == []


async def test_the_same_message_again_is_no_dispatch(queue: FakeQueue) -> None:
    message = encoded(Ends("ok"))

    assert await queue.driver.enqueue([message, message]) == [message.id]
    assert await queue.driver.enqueue([message]) == []

    queue.assert_dispatched(Ends, times=1)


async def test_a_body_that_says_nothing_is_a_message_of_no_known_task(queue: FakeQueue) -> None:
    await queue.driver.enqueue([Message(id="x", queue="raw", body=b"hello")])

    [raw] = queue.dispatched()
    assert str(raw) == "a message of no known task, 5 bytes, on queue 'raw'"
    assert raw.arguments == {}
    assert "a message of no known task" in failure(queue.assert_nothing_dispatched)
    queue.assert_not_dispatched(Ends)


async def test_a_worker_makes_it_a_dead_letter(queue: FakeQueue) -> None:
    await queue.driver.enqueue([Message(id="x", queue="raw", body=b"hello")])

    await queue.run_until_idle()

    assert queue.history("x").settlement == "bury: undecodable"
    assert queue.ledger[0].kind is Kind.DISPATCHED
    assert check(queue.ledger) == []


async def test_a_task_in_a_function_of_the_test_is_found_too(queue: FakeQueue) -> None:
    @task
    async def inner() -> int:
        return 5

    message = encoded(inner())
    await MemoryDriver().enqueue([message])
    await queue.driver.enqueue([message])
    await queue.run_until_idle()

    assert queue.history(inner).value == 5


# -- errors ------------------------------------------------------------------------------------------


def test_the_errors_a_user_may_meet_are_exported_with_what_they_have_in_common() -> None:
    from asynctasq.testing import Deadlock, Livelock

    assert all(issubclass(kind, SimulationError) for kind in (Deadlock, LimitExceeded, Livelock, RealWorldAccess))
