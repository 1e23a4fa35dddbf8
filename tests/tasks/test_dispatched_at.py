"""What a task knows of the instant of its dispatch, and dispatches at an instant."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from asynctasq import AsyncTask, task
from asynctasq.errors import AsyncTasqError, DispatchError
from asynctasq.tasks.definition import options_of
from asynctasq.testing import FakeQueue

START = datetime(2030, 1, 31, 12, tzinfo=UTC)
SEEN: list[Any] = []


class Notes(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 60

    async def execute(self) -> None:
        self.note()
        raise ConnectionError

    async def failed(self, exception: Exception) -> None:
        self.note()

    def note(self) -> None:
        SEEN.append((self.task_id, self.dispatched_at, self._dispatched_at))


def test_dispatch_sets_id_and_instant_under_both_names() -> None:
    sent = Notes()
    with FakeQueue(start=START) as queue:
        first = sent.dispatch_sync()
        assert (sent.task_id, sent._task_id) == (first, first)
        assert (sent.dispatched_at, sent._dispatched_at) == (START, START)
        queue.advance_sync(seconds=90)

        second = sent.dispatch_sync()

        assert (sent.task_id, sent.dispatched_at) == (second, START + timedelta(seconds=90))


def test_the_running_task_knows_the_instant_in_every_attempt_and_hook() -> None:
    SEEN.clear()
    with FakeQueue(start=START) as queue:
        task_id = Notes().dispatch_sync()

        queue.run_until_idle_sync()

    assert [(task_id, START, START)] * 3 == SEEN


class Again(AsyncTask[None]):
    async def execute(self) -> None:
        before = self.task_id, self.dispatched_at
        if not SEEN:
            SEEN.append(before)
            await self.delay(60).dispatch()
            SEEN.append((self.task_id, self.dispatched_at))


def test_a_running_task_that_dispatches_itself_keeps_its_own() -> None:
    SEEN.clear()
    with FakeQueue(start=START) as queue:
        task_id = Again().delay(5).dispatch_sync()

        queue.run_until_idle_sync()

    assert [(task_id, START)] * 2 == SEEN


def test_a_task_that_was_not_dispatched_has_no_instant() -> None:
    with pytest.raises(AsyncTasqError, match="this Notes has no instant of dispatch: it was not dispatched"):
        _ = Notes().dispatched_at


def test_it_cannot_be_replaced() -> None:
    with pytest.raises(TypeError, match="dispatched_at"):

        class Replaces(AsyncTask[None]):
            def __init__(self, dispatched_at: datetime, **kwargs: Any) -> None: ...

            async def execute(self) -> None: ...


@task
async def remind(user: int) -> None: ...


@pytest.mark.parametrize(
    ("when", "delay_s"),
    [
        (START + timedelta(seconds=90), 90.0),
        ((START + timedelta(hours=1)).astimezone(timezone(timedelta(hours=-7))), 3600.0),
        (START + timedelta(microseconds=1), 1e-6),
        (START, 0.0),
        (START - timedelta(days=400), 0.0),
    ],
)
def test_at_an_instant_means_after_the_time_until_then(when: datetime, delay_s: float) -> None:
    with FakeQueue(start=START) as queue:
        remind(1).at(when).dispatch_sync()

    [sent] = queue.dispatched(remind)
    assert sent.message.delay_s == pytest.approx(delay_s, abs=5e-7)


def test_the_time_until_an_instant_counts_from_the_dispatch() -> None:
    with FakeQueue(start=START) as queue:
        built = remind(1).at(START + timedelta(seconds=90))
        queue.advance_sync(seconds=30)

        task_id = built.dispatch_sync()
        queue.run_until_idle_sync()

        assert queue.history(task_id).attempts[0].started_at_s == 60.0


def test_the_later_of_at_and_delay_in_a_chain_counts() -> None:
    when = START + timedelta(seconds=90)

    by_delay, by_instant = options_of(remind(1).at(when).delay(5)), options_of(remind(1).delay(5).at(when))

    assert (by_delay.delay_s, by_delay.at) == (5.0, None)
    assert (by_instant.delay_s, by_instant.at) == (0.0, when.timestamp())


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at must have a time zone.*tzinfo=UTC"):
        remind(1).at(datetime(2030, 1, 31))


@pytest.mark.parametrize("when", [5, timedelta(seconds=5), "2030-01-31", None, START.date()])
def test_what_is_no_instant_is_refused(when: Any) -> None:
    with pytest.raises(ValueError, match="at must be a datetime with a time zone"):
        remind(1).at(when)


def test_an_instant_that_no_driver_stores_is_refused() -> None:
    with FakeQueue(start=START) as queue:
        with pytest.raises(DispatchError, match="more than a hundred years away"):
            remind(1).at(datetime.max.replace(tzinfo=UTC)).dispatch_sync()

        queue.assert_nothing_dispatched()
