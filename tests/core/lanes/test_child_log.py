"""What a task logs in a child process reaches the worker's logging: level, fields, exception and attempt."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from asynctasq.core.lanes.child import ChildSettings, Request
from asynctasq.core.lanes.child_log import FRAME_BYTES_MAX, LENGTH
from asynctasq.core.lanes.process_pool import ChildCrashed, ProcessPool
from asynctasq.logs import AttemptFilter, running_attempt, worker_name
from asynctasq.queue import MessageFactory
from asynctasq.tasks.base import BaseTask
from tests.core.lanes.logging_tasks import (
    DiesAfterIt,
    Forges,
    Logs,
    LogsInLoop,
    LogsOddly,
    LogsWhereItWants,
)
from tests.patience import until

ROOT = Path(__file__).parents[3]
SETTINGS = ChildSettings(modules=("tests.core.lanes.logging_tasks",), path=(str(ROOT),))


class Attempt:
    """An attempt as log records see it."""

    def __init__(self, task: str, task_id: str) -> None:
        self.fields = {"task": task, "task_id": task_id, "attempt": 2, "queue": "q"}

    def log_fields(self) -> dict[str, object]:
        return dict(self.fields)


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    made = ProcessPool(SETTINGS, size=1)
    yield made
    await made.stop()
    made.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    added = AttemptFilter()
    caplog.handler.addFilter(added)
    yield caplog
    caplog.handler.removeFilter(added)


async def run(pool: ProcessPool, task: BaseTask[None]) -> str:
    """Run a task in a child, as a worker does; return its message's id."""
    message = MessageFactory().message(task)
    running_attempt.set(Attempt(type(task).__name__, message.id))
    worker_name.set("w1")
    request = Request(message_id=message.id, attempt=2, body=message.body)
    await pool.run(request.encode(), timeout_s=None, message_id=message.id)
    return message.id


def of(log: pytest.LogCaptureFixture, text: str) -> logging.LogRecord:
    return next(record for record in log.records if record.getMessage() == text)


async def test_records_arrive_with_level_fields_exception_and_attempt(
    pool: ProcessPool, log: pytest.LogCaptureFixture
) -> None:
    task_id = await run(pool, Logs(order=7))

    await until(lambda: any(record.getMessage() == "it failed" for record in log.records))
    info, failed, thread = of(log, "order 7"), of(log, "it failed"), of(log, "in a thread")
    assert (info.levelname, info.name, info.funcName) == ("INFO", "shop.children", "execute")
    assert (info.order, info.tags) == (7, "['a']")  # type: ignore[attr-defined]
    assert (info.task, info.task_id, info.attempt, info.queue, info.worker) == ("Logs", task_id, 2, "q", "w1")  # type: ignore[attr-defined]
    assert thread.task_id == task_id  # type: ignore[attr-defined]
    assert failed.exc_info is not None
    assert str(failed.exc_info[1]) == "boom"
    assert "raise ValueError" in logging.Formatter().format(failed)
    assert "not wanted" not in {record.getMessage() for record in log.records}


async def test_each_record_belongs_to_the_attempt_it_was_made_in(
    pool: ProcessPool, log: pytest.LogCaptureFixture
) -> None:
    ids = [await run(pool, Logs(order=number)) for number in range(5)]

    await until(lambda: sum(record.getMessage() == "it failed" for record in log.records) == 5)
    for number, task_id in enumerate(ids):
        assert of(log, f"order {number}").task_id == task_id  # type: ignore[attr-defined]


async def test_a_task_in_the_loop_of_a_child_logs_too(pool: ProcessPool, log: pytest.LogCaptureFixture) -> None:
    await run(pool, LogsInLoop())

    await until(lambda: any(record.getMessage() == "in a loop" for record in log.records))


async def test_the_levels_of_the_workers_loggers_hold(pool: ProcessPool, log: pytest.LogCaptureFixture) -> None:
    log.set_level(logging.DEBUG, "shop.children")

    await run(pool, Logs(order=1))

    await until(lambda: any(record.getMessage() == "not wanted" for record in log.records))


async def test_what_can_hardly_be_sent_loses_no_other_record(pool: ProcessPool, log: pytest.LogCaptureFixture) -> None:
    await run(pool, LogsOddly())

    await until(lambda: any(record.getMessage() == "fine" for record in log.records))
    huge = next(record for record in log.records if record.getMessage().startswith("huge"))
    assert len(huge.getMessage()) < FRAME_BYTES_MAX
    odd = next(record for record in log.records if record.getMessage() == "extra")
    assert (odd.odd, odd.big, odd.half) == ("<NoText that has no text>", str(1 << 80), "\\ud800")  # type: ignore[attr-defined]


async def test_an_application_that_configures_logging_in_the_child_has_it_there(
    pool: ProcessPool, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "log"

    await run(pool, LogsWhereItWants(file=str(file)))

    assert file.read_text() == "into the file\n"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 40,
        LENGTH.pack(FRAME_BYTES_MAX + 1),
        LENGTH.pack(4) + b"\xc1\xc1\xc1\xc1",
        LENGTH.pack(1) + b"\x90",
        LENGTH.pack(5) + b"\x94\xa1m\x80\x80",
    ],
)
async def test_bytes_that_are_no_record_end_the_log_and_nothing_else(
    pool: ProcessPool, log: pytest.LogCaptureFixture, data: bytes
) -> None:
    await run(pool, Forges(data=data))
    await run(pool, LogsInLoop())


async def test_the_last_words_of_a_child_that_dies_arrive(pool: ProcessPool, log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ChildCrashed):
        await run(pool, DiesAfterIt())

    await until(lambda: any(record.getMessage() == "my last words" for record in log.records))


async def test_a_handler_that_raises_is_told_and_the_next_record_arrives(
    pool: ProcessPool, log: pytest.LogCaptureFixture
) -> None:
    class Refuses(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage().startswith("order"):
                raise OSError("disk full")
            return True

    shop, refuses = logging.getLogger("shop.children"), Refuses()
    shop.addFilter(refuses)
    try:
        await run(pool, Logs(order=1))
        await until(lambda: any(record.getMessage() == "it failed" for record in log.records))
    finally:
        shop.removeFilter(refuses)

    assert any("could not be handled" in record.getMessage() for record in log.records)
