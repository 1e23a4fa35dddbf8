"""What a failing assertion of a FakeQueue shows of long values, of differences, and of many dispatches."""

from typing import Any

from asynctasq.tasks import AsyncTask, task
from asynctasq.testing import FakeQueue
from tests.testing.simulation.failing import failure


class SendEmail(AsyncTask[None]):
    def __init__(self, to: str, body: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.body = body

    async def execute(self) -> None:
        return None


@task
async def fail(message: str) -> None:
    raise ValueError(message)


class Look:
    """Looks like another one and is equal to none."""

    __hash__ = None  # type: ignore[assignment] - never asked for

    def __eq__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return "'a'"


def test_each_argument_that_differs_is_shown_as_wanted_and_as_it_was(queue: FakeQueue) -> None:
    SendEmail("a", "Bye").on_queue("bulk").delay(5).dispatch_sync()

    text = failure(queue.assert_dispatched, SendEmail, to="b", body="Hello", on_queue="emails", delay=60)

    assert text.splitlines()[2:6] == [
        "    to: wanted 'b', was 'a'",
        "    body: wanted 'Hello', was 'Bye'",
        "    queue: wanted 'emails', was 'bulk'",
        "    delay: wanted 60s, was 5s",
    ]


def test_long_arguments_are_shown_short(queue: FakeQueue) -> None:
    SendEmail("a", "B" * 5_000).dispatch_sync()

    text = failure(queue.assert_dispatched, SendEmail, to="b", body="B" * 5_000)

    assert max(map(len, text.splitlines())) < 300
    assert "(5,002 characters)" in text


def test_of_long_arguments_the_part_that_differs_is_shown(queue: FakeQueue) -> None:
    SendEmail("a", "B" * 5_000 + "actual" + "B" * 5_000).dispatch_sync()

    text = failure(queue.assert_dispatched, SendEmail, body="B" * 5_000 + "wanted" + "B" * 5_000)

    [line] = [line for line in text.splitlines() if line.startswith("    body: ")]
    assert "Bwanted" in line
    assert "Bactual" in line
    assert len(line) < 300


def test_a_value_that_only_looks_the_same_is_said_to(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    text = failure(queue.assert_dispatched, SendEmail, to=Look())

    assert "to: wanted 'a', was one that looks the same and is not equal to it" in text


def test_what_must_not_have_been_dispatched_is_shown_short_and_counted(queue: FakeQueue) -> None:
    for _ in range(50):
        SendEmail("a", "B" * 5_000).dispatch_sync()

    text = failure(queue.assert_not_dispatched, SendEmail)

    assert "... 50 in all" in text
    assert len(text) < 3_000


def test_what_is_left_in_a_strict_queue_is_shown_short_and_counted() -> None:
    def leave_all() -> None:
        with FakeQueue(strict=True):
            for _ in range(50):
                SendEmail("a", "B" * 5_000).dispatch_sync()

    text = failure(leave_all)

    assert text.startswith("50 tasks were dispatched and not run to their end:\n  SendEmail(")
    assert "... 50 in all" in text
    assert len(text) < 3_000


def test_long_errors_are_shown_short(queue: FakeQueue) -> None:
    fail.dispatch_sync("B" * 5_000)
    queue.run_due_sync()

    assert len(failure(queue.assert_completed, fail)) < 500


def test_any_task_is_called_a_task(queue: FakeQueue) -> None:
    SendEmail("a").dispatch_sync()

    assert "expected no task to be dispatched" in failure(queue.assert_nothing_dispatched)
    assert "expected no task with to='a' to be dispatched" in failure(queue.assert_not_dispatched, to="a")
