"""The worker's line for an attempt: how long it ran, and when a message that is not done will run again."""

import io
import json
import logging

import pytest

from asynctasq.cli.output import AttemptLines, JsonFormatter, TextFormatter
from asynctasq.kernel.ledger import Entry, Kind

RAN_S = 0.013
SETTLED_AT = 1_700_000_000.0


def line(settlement: str, *, delay_s: float | None = None, kind: Kind = Kind.SETTLED, as_json: bool = False) -> str:
    """Return what is shown of an attempt; a delay counts from the request to settle, 5 ms before its answer."""
    stream = io.StringIO()
    write = AttemptLines(stream, as_json=as_json)
    started_at = SETTLED_AT - RAN_S
    due_at = 0.0 if delay_s is None else SETTLED_AT - 0.005 + delay_s

    write(Entry(at=started_at, kind=Kind.STARTED, message_id="m", detail="shop:Charge"))
    write(Entry(at=SETTLED_AT, kind=Kind.ENDED, message_id="m", detail="failed: ValueError: boom"))
    write(Entry(at=SETTLED_AT, kind=kind, message_id="m", attempt=1, detail=settlement, due_at=due_at))
    return stream.getvalue().removesuffix("\n")


@pytest.mark.parametrize(
    ("settlement", "delay_s", "text"),
    [
        ("complete", None, "completed in 13 ms: "),
        ("retry", 60.0, "failed, will be retried in 60 s, ran 13 ms: ValueError: boom"),
        ("retry", 1.5, "will be retried in 1.5 s, ran 13 ms"),
        ("retry", 0.2, "will be retried in 195 ms, ran 13 ms"),
        ("retry", 5400.0, "will be retried in 1:30:00, ran 13 ms"),
        ("retry", None, "failed, will be retried, ran 13 ms"),
        ("retry", 0.0, "failed, will be retried at once, ran 13 ms"),
        ("snooze", 300.0, "snoozed, will be run again in 0:05:00, ran 13 ms"),
        ("crash", 5.0, "crashed, will be run again in 5 s, ran 13 ms"),
        ("hand back", 0.0, "handed back, ran 13 ms"),
        ("hand back", 20.0, "handed back, will be run again in 20 s, ran 13 ms"),
        ("bury: failed", None, "failed for good, dead letter, ran 13 ms"),
        ("bury: rejected", None, "failed for good, dead letter (rejected), ran 13 ms"),
    ],
)
def test_the_line_tells_when_it_runs_again_and_how_long_it_ran(
    settlement: str, delay_s: float | None, text: str
) -> None:
    assert text in line(settlement, delay_s=delay_s)


def test_a_lost_lease_promises_no_retry() -> None:
    assert "lost its lease, ran 13 ms" in line("retry", delay_s=60.0, kind=Kind.LOST)


def test_json_tells_the_instant_it_runs_again() -> None:
    retried, done = (json.loads(line(*case, as_json=True)) for case in [("retry",), ("complete",)])
    later = json.loads(line("retry", delay_s=60.005, as_json=True))
    lost = json.loads(line("retry", delay_s=60.0, kind=Kind.LOST, as_json=True))

    assert later["due_at"] == "2023-11-14T22:14:20+00:00"
    assert later["duration_s"] == pytest.approx(RAN_S, abs=1e-6)
    assert [one["due_at"] for one in (retried, done, lost)] == [None, None, None]


def record_with(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "sold", **fields})


def test_a_record_of_an_attempt_names_it_and_others_do_not() -> None:
    inside = TextFormatter().format(record_with(task="shop:Charge", task_id="m-1", attempt=2))
    outside = TextFormatter().format(record_with(task_id=None))

    assert inside.endswith("INFO shop sold [shop:Charge m-1 attempt 2]")
    assert outside.endswith("INFO shop sold")


def test_json_has_the_attempt_and_what_else_the_record_has() -> None:
    found = json.loads(JsonFormatter().format(record_with(task_id="m-1", order={"id": 7}, queue=None)))

    assert (found["task_id"], found["order"], found["message"]) == ("m-1", {"id": 7}, "sold")
    assert "queue" not in found


class NoText:
    def __repr__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("value", [{1, 2}, b"\xff", {(1, 2): 3}, "loop", NoText()])
def test_what_json_does_not_have_is_a_text(value: object) -> None:
    if value == "loop":
        value = loop = list[object]()
        loop.append(loop)

    found = json.loads(JsonFormatter().format(record_with(odd=value, fine=7)))

    assert isinstance(found["odd"], str)
    assert found["fine"] == 7


def test_a_field_can_not_replace_the_records_own() -> None:
    assert json.loads(JsonFormatter().format(record_with(event="forged", level="none")))["event"] == "log"
