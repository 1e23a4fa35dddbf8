"""Tasks that never end in a FakeQueue: it gives up within seconds and says what to do; much work is no such thing."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

import pytest

from asynctasq.errors import Snooze
from asynctasq.tasks import AsyncTask, task
from asynctasq.testing import FakeQueue
from asynctasq.testing.engine import bounded_run
from asynctasq.testing.errors import LimitExceeded, Livelock, SimulationError
from asynctasq.testing.loop import Limits


class Poll(AsyncTask[None]):
    async def execute(self) -> None:
        while True:
            await asyncio.sleep(1)


class Swallow(AsyncTask[None]):
    timeout = 5
    max_attempts = 1

    async def execute(self) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(100)


class Spin(AsyncTask[None]):
    async def execute(self) -> None:
        while True:
            await asyncio.sleep(0)


class Again(AsyncTask[None]):
    async def execute(self) -> None:
        await Again().delay(1).dispatch()


@task
async def note(number: int) -> None:
    return None


@task
async def snooze() -> None:
    raise Snooze(1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner than users' tests do: the same code, fewer steps."""
    monkeypatch.setattr(bounded_run, "STEPS_WITHOUT_PROGRESS_MAX", 5_000)
    monkeypatch.setattr(bounded_run, "STEPS_MAX", 10_000)
    monkeypatch.setattr(bounded_run, "CLOSING", Limits(steps_max=2_000))


@pytest.mark.parametrize(
    "run",
    [
        lambda queue: queue.run_due_sync(),
        lambda queue: queue.run_until_idle_sync(),
        lambda queue: queue.drain_sync(scheduled=True),
        lambda queue: queue.advance_sync(days=300),
    ],
    ids=["run_due", "run_until_idle", "drain", "advance"],
)
@pytest.mark.parametrize("kind", [Poll, Swallow])
def test_a_task_without_end_is_given_up_and_named(
    run: Callable[[FakeQueue], object], kind: type[AsyncTask[None]]
) -> None:
    with (
        pytest.raises(
            LimitExceeded, match=rf"this does not end: no task begins or ends any more.*\n(.*\n)*.*{kind.__name__}"
        ),
        FakeQueue() as queue,
    ):
        kind().dispatch_sync()
        run(queue)


@pytest.mark.parametrize("kind", [Poll, Swallow])
def test_a_task_without_end_is_given_up_when_it_is_performed(kind: type[AsyncTask[None]]) -> None:
    with pytest.raises(LimitExceeded, match="let it end"), FakeQueue() as queue:
        queue.perform_sync(kind())


async def test_whoever_awaits_it_is_told_too() -> None:
    with pytest.raises(LimitExceeded, match=r"advance\(seconds=...\)"):
        async with FakeQueue() as queue:
            await Poll().dispatch()
            await queue.run_due()


def test_a_task_that_lets_no_time_pass_is_told_of_as_a_livelock() -> None:
    with pytest.raises(Livelock, match="this does not end: no time passes any more"), FakeQueue() as queue:
        Spin().dispatch_sync()
        queue.run_due_sync()


@pytest.mark.parametrize("begin", [snooze.dispatch_sync, lambda: Again().dispatch_sync()])
def test_tasks_that_go_on_for_ever_are_given_up_later(begin: Callable[[], str]) -> None:
    with FakeQueue() as queue:
        begin()

        with pytest.raises(LimitExceeded, match=r"tasks keep beginning and ending.*drain\(limit="):
            queue.run_until_idle_sync()

        assert queue.drain_sync(scheduled=True, limit=3, errors="collect") is not None


def test_so_much_time_may_pass_beside_a_task_that_loops() -> None:
    with FakeQueue() as queue:
        Poll().dispatch_sync()
        note.dispatch_sync(1)

        queue.advance_sync(minutes=5)

        queue.assert_completed(note)


def test_a_queue_goes_on_after_it_gave_up() -> None:
    with FakeQueue() as queue:
        Poll().on_queue("polls").dispatch_sync()
        with pytest.raises(LimitExceeded):
            queue.run_due_sync()

        note.dispatch_sync(1)
        queue.advance_sync(seconds=1)

        queue.assert_completed(note)


def test_a_task_that_will_not_be_stopped_is_told_of_at_the_end() -> None:
    with pytest.raises(LimitExceeded, match="this does not end"), FakeQueue() as queue:
        Swallow().dispatch_sync()
        queue.advance_sync(seconds=10)


def test_what_is_given_up_is_closed_at_once_and_in_its_own_context() -> None:
    kept: ContextVar[str] = ContextVar("kept")
    closed: list[str] = []

    @task
    async def stubborn() -> None:
        token = kept.set("its own")
        try:
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(100)
        finally:
            closed.append(kept.get())
            kept.reset(token)
            closed.append(kept.get("none"))

    with pytest.raises(LimitExceeded), FakeQueue() as queue:
        stubborn.dispatch_sync()
        queue.advance_sync(seconds=10)

    assert closed == ["its own", "none"]


def test_the_failure_of_the_test_is_the_one_to_see() -> None:
    with pytest.raises(ZeroDivisionError) as caught, FakeQueue() as queue:
        Swallow().dispatch_sync()
        queue.advance_sync(seconds=10)
        _ = 1 / 0

    assert caught.value.__notes__[0].startswith("then the FakeQueue could not be closed: this does not end")


def test_much_work_is_no_work_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_run, "STEPS_WITHOUT_PROGRESS_MAX", 2_000)
    monkeypatch.setattr(bounded_run, "STEPS_MAX", 2_000)

    with FakeQueue(concurrency=1) as queue:
        for number in range(500):
            note.dispatch_sync(number)
            note(number).delay(1 + number).dispatch_sync()

        assert queue.run_until_idle_sync().succeeded == 1_000
        assert queue._engine.loop.steps > bounded_run.STEPS_WITHOUT_PROGRESS_MAX


def test_what_is_due_at_one_instant_is_no_livelock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_run, "STALLED_STEPS_MAX", 1_000)

    with FakeQueue(concurrency=1) as queue:
        for number in range(1_000):
            note.dispatch_sync(number)

        assert queue.run_due_sync().succeeded == 1_000
        assert queue._engine.loop._stalled_steps > 1_000


def test_all_of_it_is_the_simulations_kind_of_error() -> None:
    assert issubclass(LimitExceeded, SimulationError)
    assert issubclass(Livelock, SimulationError)
