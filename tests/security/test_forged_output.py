"""Texts of messages and exceptions reach terminal and log without what moves a cursor, begins a line or hides text."""

import ast
import asyncio
import io
import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asynctasq
from asynctasq.cli.exit_codes import exit_on_error
from asynctasq.cli.output import AttemptLines, TextFormatter
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Message
from asynctasq.logs import get_logger
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncTask
from tests.patience import SOON_S

LINE_CHARS_MAX = 6_000
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of controls (C0, DEL, C1), formats (bidi), half characters, line and paragraph separators."""
FORGERIES = [
    "\x1b]0;PWNED\x07\x1b[2K\x1b[1A\x1b[32m06:00:00 ✓ tasks:Pay all good",
    "x\n06:00:00 ✓ tasks:Pay completed",
    "x\r06:00:00 ✓ tasks:Pay completed",
    "a\x85b\u2028c\u2029d\x0be\x0cf\x1cg\x1dh\x1ei\x7fj\x9b31mk",
    "\u202egnp.exe\u2066\u200f\ufeff",
    "\ud800half",
]
hostile_texts = st.one_of(
    st.sampled_from(FORGERIES),
    st.text(st.sampled_from("\x1b\x07\n\r\x85\x9b\u2028\u2029\u202e\u2066\x7f\x00\ud800\udfffab :%{}[]")),
    st.text(st.characters(categories=None, exclude_categories=())),
    st.sampled_from([text * 40 for text in FORGERIES]),
)


def harmful(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in HARMFUL}


def assert_one_harmless_line(text: str) -> None:
    assert text.endswith("\n")
    assert not harmful(text[:-1])
    assert len(text) <= LINE_CHARS_MAX


class Kept(logging.Handler):
    """Every record that a handler of the application would have."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> list[logging.LogRecord]:
        logging.getLogger().addHandler(self)
        return self.records

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


@given(name=hostile_texts, message_id=hostile_texts, error=hostile_texts, reason=hostile_texts)
@pytest.mark.parametrize("settlement", ["retry", "bury", "complete"])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_text_of_an_attempt_controls_its_line(
    settlement: str, as_json: bool, name: str, message_id: str, error: str, reason: str
) -> None:
    stream = io.StringIO()
    lines = AttemptLines(stream, as_json=as_json)

    lines(Entry(at=1.0, kind=Kind.STARTED, message_id=message_id, detail=name))
    lines(Entry(at=2.0, kind=Kind.ENDED, message_id=message_id, detail=f"failed: ValueError: {error}"))
    lines(Entry(at=2.0, kind=Kind.SETTLED, message_id=message_id, attempt=1, detail=f"{settlement}: {reason}"))

    text = stream.getvalue()
    if as_json:
        assert json.loads(text)["event"] == "attempt"
        assert not harmful(text[:-1])
    else:
        assert_one_harmless_line(text)


@given(texts=st.lists(hostile_texts, min_size=1, max_size=2))
def test_no_argument_of_a_log_record_of_ours_controls_its_line(texts: list[str]) -> None:
    logger = get_logger("asynctasq.test_forged_output")

    with Kept() as records:
        logger.error("told: %d, " + "%s " * len(texts), 1, *texts[:-1], DriverError(texts[-1]))

    [record] = records
    assert_one_harmless_line(f"{record.getMessage()}\n")
    assert record.msg.startswith("told: %d, %s"), "handlers that group records do so by the template"


@given(text=hostile_texts, raised=hostile_texts)
def test_no_record_of_anybodys_forges_a_line_of_the_commands_log(text: str, raised: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    try:
        raise ValueError(raised)
    except ValueError as error:
        record = logging.LogRecord("shop", logging.ERROR, "shop.py", 1, "sold %s", (text,), (ValueError, error, None))

    handler.handle(record)

    first, *more = stream.getvalue()[:-1].split("\n")
    assert not harmful(first + "".join(more))
    assert " ERROR shop sold " in first
    assert all(line.startswith("    ") for line in more), "what continues a record does not look like a record"
    assert len(stream.getvalue()) < 100_000


@given(text=hostile_texts)
def test_the_error_that_ends_a_command_forges_no_line(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stream := io.StringIO())
        with pytest.raises(SystemExit), exit_on_error():
            raise DriverError(text)

    first, *more = stream.getvalue()[:-1].split("\n")
    assert first.startswith("asynctasq: ")
    assert not harmful(first + "".join(more))
    assert all(line.startswith("    ") for line in more)


def test_every_logger_of_the_package_escapes() -> None:
    root = Path(asynctasq.__file__).parent
    allowed = {root / "logs.py", root / "testing" / "simulation" / "run.py"}  # the latter sets a level
    allowed.add(root / "core" / "lanes" / "child_log.py")  # hands on records that were made elsewhere

    plain = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if path not in allowed
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "getLogger"
    }

    assert plain == set(), "use asynctasq.logs.get_logger"


# -- with a worker -------------------------------------------------------------------------------


class Forges(AsyncTask[None]):
    """Raises, in `execute` and in its hooks, what a user of the application wrote."""

    max_attempts = 2
    retry_delay = 0.0

    def __init__(self, text: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.text = text

    async def execute(self) -> None:
        raise ValueError(f"bad {self.text}")

    def should_retry(self, exception: Exception) -> bool:
        raise ValueError(self.text)

    async def failed(self, exception: Exception) -> None:
        raise ValueError(self.text)


async def test_no_record_and_no_line_of_a_worker_is_forged() -> None:
    driver, stream = MemoryDriver(), io.StringIO()
    bodies = [MessageFactory().message(Forges(text)).body for text in FORGERIES[:-1]] + [b"no task \x1b[2K"]
    ids = [f"{number}{''.join(FORGERIES)}" for number in range(len(bodies))]
    await driver.enqueue([Message(id=one, queue="default", body=body) for one, body in zip(ids, bodies, strict=True)])
    worker = Worker(
        driver,
        settings=WorkerSettings(burst=True, handle_signals=False),
        runtime=ProductionRuntime(record=AttemptLines(stream, as_json=False)),
    )

    with Kept() as records:
        async with asyncio.timeout(SOON_S):
            await worker.start()

    lines = stream.getvalue().splitlines(keepends=True)
    assert len(lines) == 2 * len(bodies) - 1
    for line in lines:
        assert_one_harmless_line(line)
    assert len(records) >= len(bodies)
    for record in records:
        assert_one_harmless_line(f"{record.getMessage()}\n")
