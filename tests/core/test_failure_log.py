"""What logging hears of attempts that fail, and which attempt a record of a task's code belongs to."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from asynctasq import AsyncTask, Reject, Retry, Snooze, SyncTask, task
from asynctasq.logs import AttemptFilter
from asynctasq.testing import FakeQueue
from asynctasq.testing.faults import Crash

LOGGER_NAME = "asynctasq.attempts"
logger = logging.getLogger("shop")
SNOOZED: list[str] = []


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG, LOGGER_NAME)
    caplog.set_level(logging.DEBUG, "shop")
    added = AttemptFilter()
    caplog.handler.addFilter(added)
    yield caplog
    caplog.handler.removeFilter(added)


class Charge(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 10

    async def execute(self) -> None:
        raise ValueError("card declined")


def failures(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name == LOGGER_NAME]


def test_a_retry_is_a_warning_and_a_dead_letter_an_error_with_the_exception(log: pytest.LogCaptureFixture) -> None:
    with FakeQueue() as queue:
        task_id = Charge().dispatch_sync()
        queue.run_until_idle_sync()

    first, last = failures(log)
    assert (first.levelname, last.levelname) == ("WARNING", "ERROR")
    assert "failed in attempt 1; it is run again in 10 s" in first.getMessage()
    assert "failed in attempt 2; it becomes a dead letter" in last.getMessage()
    for record, number in ((first, 1), (last, 2)):
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "card declined"
        assert (record.task_id, record.attempt, record.queue) == (task_id, number, "default")  # type: ignore[attr-defined]
        assert record.task.endswith("Charge")  # type: ignore[attr-defined]
        assert record.worker  # type: ignore[attr-defined]


@task(max_attempts=2)
async def asks(what: str) -> None:
    if what == "retry":
        raise Retry(after=5)
    if what == "reject":
        raise Reject("not for us")
    if what == "snooze" and not SNOOZED:
        SNOOZED.append(what)
        raise Snooze(60)


@pytest.mark.parametrize(
    ("what", "levels"), [("retry", ["INFO", "ERROR"]), ("reject", ["WARNING"]), ("fine", []), ("snooze", [])]
)
def test_what_the_code_asks_for_is_no_error(log: pytest.LogCaptureFixture, what: str, levels: list[str]) -> None:
    with FakeQueue() as queue:
        asks(what).dispatch_sync()
        queue.run_until_idle_sync()

    assert [record.levelname for record in failures(log)] == levels
    assert failures(log) == [] or (what == "reject") is ("not for us" in failures(log)[0].getMessage())


class Talks(AsyncTask[None]):
    async def execute(self) -> None:
        logger.info("in the loop", extra={"task": "my own"})
        logger.info("again")

    def failed(self, exception: Exception) -> None:
        logger.info("in a hook")


class TalksInThread(SyncTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        logger.info("in a thread")
        raise ValueError("once")

    def failed(self, exception: Exception) -> None:
        logger.info("in a hook")


def test_records_of_the_code_name_their_attempt_and_their_own_fields_stay(log: pytest.LogCaptureFixture) -> None:
    with FakeQueue() as queue:
        first, second = Talks().dispatch_sync(), TalksInThread().dispatch_sync()
        queue.run_until_idle_sync()
    logger.info("outside")

    found = {record.getMessage(): record for record in log.records if record.name == "shop"}
    assert (found["in the loop"].task, found["in the loop"].task_id) == ("my own", first)  # type: ignore[attr-defined]
    assert found["again"].task.endswith("Talks")  # type: ignore[attr-defined]
    assert found["in a thread"].task_id == found["in a hook"].task_id == second  # type: ignore[attr-defined]
    assert (found["outside"].task_id, found["outside"].worker) == (None, None)  # type: ignore[attr-defined]


class Kills(AsyncTask[None]):
    max_crashes = 2

    async def execute(self) -> None:
        await asyncio.sleep(1)


def test_a_dead_letter_that_no_worker_survives_is_an_error(log: pytest.LogCaptureFixture) -> None:
    with FakeQueue(faults=[Crash(at="mid_attempt", task=Kills) for _ in range(2)]) as queue:
        task_id = Kills().dispatch_sync()
        queue.run_until_idle_sync()

    (record,) = failures(log)
    assert (record.levelname, record.task_id) == ("ERROR", task_id)  # type: ignore[attr-defined]
    assert "becomes a dead letter" in record.getMessage()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task(max_attempts=1)
async def breaks() -> None:
    raise Unprintable


def test_an_exception_without_a_text_is_logged(log: pytest.LogCaptureFixture) -> None:
    with FakeQueue() as queue:
        breaks().dispatch_sync()
        queue.run_until_idle_sync()

    (record,) = failures(log)
    assert logging.Formatter().format(record)
