"""Traces, as the in-memory exporter of OpenTelemetry's own SDK gets them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import asynctasq
from asynctasq import AsyncTask, Reject, Snooze, SyncProcessTask, SyncTask, dispatch_many_sync
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import UnserializableValue
from asynctasq.integrations.opentelemetry import Tracing
from asynctasq.testing import FakeQueue
from tests.patience import SOON_S

SECRET = "4111-1111"


class Receipt(SyncTask[None]):
    card: str

    def execute(self) -> None:
        return None


class Charge(AsyncTask[None]):
    card: str
    max_attempts = 2
    retry_delay = 0

    async def execute(self) -> None:
        if self.attempt == 1:
            raise ConnectionError("the bank is away")
        await Receipt(card=self.card).dispatch()


class Ends(AsyncTask[None]):
    how: str
    max_attempts = 1

    async def execute(self) -> None:
        match self.how:
            case "snoozed" if self.attempt == 1 and not SNOOZED:
                SNOOZED.append(1)
                raise Snooze(1)
            case "rejected":
                raise Reject("no")
            case "failed":
                raise ValueError("no")
            case _:
                return


class InChild(SyncProcessTask[int]):
    number: int

    def execute(self) -> int:
        return self.number


SNOOZED: list[int] = []


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    return Tracing(provider_of(spans))


def provider_of(spans: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


def children(spans: InMemorySpanExporter, parent: ReadableSpan | None) -> list[ReadableSpan]:
    """Return the spans below one, or those without a parent, in the order in which they began."""
    wanted = None if parent is None else parent.get_span_context().span_id
    found = [each for each in spans.get_finished_spans() if (each.parent.span_id if each.parent else None) == wanted]
    return sorted(found, key=lambda each: each.start_time or 0)


def about(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_request_its_task_the_retry_and_what_that_led_to_are_one_tree(
    spans: InMemorySpanExporter, tracing: Tracing, tmp_path: Path
) -> None:
    tracer = provider_of(spans).get_tracer("web")
    asynctasq.init(driver="sqlite", sqlite_path=str(tmp_path / "queue.db"), middleware=[tracing])
    app = FastAPI()

    @app.post("/orders")
    async def order() -> None:
        with tracer.start_as_current_span("POST /orders", kind=SpanKind.SERVER):
            await Charge(card=SECRET).dispatch()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        assert (await client.post("/orders")).is_success
    assert trace.get_current_span() is trace.INVALID_SPAN, "the worker must not have it from the request"
    driver = SQLiteDriver(tmp_path / "queue.db")
    async with asyncio.timeout(SOON_S):
        await Worker(driver, settings=WorkerSettings(handle_signals=False, burst=True)).start()

    (request,) = children(spans, None)
    (sent,) = children(spans, request)
    first, second = children(spans, sent)
    (receipt,) = children(spans, second)
    (ran,) = children(spans, receipt)
    assert [each.name for each in (request, sent, first, second, receipt, ran)] == [
        "POST /orders",
        "send default",
        "process default",
        "process default",
        "send default",
        "process default",
    ]
    assert {each.get_span_context().trace_id for each in spans.get_finished_spans()} == {
        request.get_span_context().trace_id
    }
    assert (sent.kind, first.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert [about(each)["asynctasq.outcome"] for each in (first, second, ran)] == ["failed", "succeeded", "succeeded"]
    assert [about(each)["asynctasq.attempt"] for each in (first, second)] == [1, 2]
    assert (first.status.status_code, about(first)["error.type"]) == (StatusCode.ERROR, "ConnectionError")
    assert about(sent)["messaging.message.id"] == about(second)["messaging.message.id"]
    assert about(sent)["asynctasq.task"] == f"{__name__}:Charge"
    assert SECRET not in "".join(each.to_json() for each in spans.get_finished_spans())
    await asynctasq.close()


def test_what_has_a_delay_begins_a_trace_with_a_link_to_its_dispatch(
    spans: InMemorySpanExporter, tracing: Tracing
) -> None:
    with FakeQueue(middleware=[tracing]) as queue:
        Receipt(card="").delay(3600).dispatch_sync()
        queue.run_until_idle_sync()

    sent, ran = children(spans, None)
    (link,) = ran.links
    assert (sent.name, ran.name) == ("send default", "process default")
    dispatched = sent.get_span_context()
    assert (link.context.trace_id, link.context.span_id) == (dispatched.trace_id, dispatched.span_id)
    assert ran.get_span_context().trace_id != sent.get_span_context().trace_id


def test_the_tasks_of_one_dispatch_are_side_by_side(spans: InMemorySpanExporter, tracing: Tracing) -> None:
    with FakeQueue(middleware=[tracing]) as queue:
        dispatch_many_sync([Receipt(card="1"), Receipt(card="2")])
        queue.run_until_idle_sync()

    sent = children(spans, None)
    assert [each.name for each in sent] == ["send default"] * 2
    assert [len(children(spans, each)) for each in sent] == [1, 1]


@pytest.mark.parametrize(
    ("how", "outcomes", "status"),
    [
        ("done", ["succeeded"], StatusCode.UNSET),
        ("failed", ["failed"], StatusCode.ERROR),
        ("rejected", ["rejected"], StatusCode.ERROR),
        ("snoozed", ["snoozed", "succeeded"], StatusCode.UNSET),
    ],
)
def test_how_an_attempt_ended_is_told(
    how: str, outcomes: list[str], status: StatusCode, spans: InMemorySpanExporter, tracing: Tracing
) -> None:
    SNOOZED.clear()
    with FakeQueue(middleware=[tracing]) as queue:
        Ends(how=how).dispatch_sync()
        queue.run_until_idle_sync()

    (sent,) = children(spans, None)
    ran = children(spans, sent)
    assert [about(each)["asynctasq.outcome"] for each in ran] == outcomes
    assert ran[0].status.status_code is status


def test_a_dispatch_that_is_refused_is_an_error(spans: InMemorySpanExporter, tracing: Tracing) -> None:
    with FakeQueue(middleware=[tracing]), pytest.raises(UnserializableValue):
        Receipt(card=object()).dispatch_sync()  # type: ignore[arg-type]

    (sent,) = children(spans, None)
    assert sent.status.status_code is StatusCode.ERROR


def test_the_attempt_of_a_process_task_has_a_span(spans: InMemorySpanExporter, tracing: Tracing) -> None:
    with FakeQueue(middleware=[tracing]) as queue:
        InChild(number=3).dispatch_sync()
        queue.run_until_idle_sync()

    (sent,) = children(spans, None)
    assert [about(each)["asynctasq.outcome"] for each in children(spans, sent)] == ["succeeded"]


def test_without_the_library_the_import_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import asynctasq.integrations.opentelemetry"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=SOON_S, check=False
    )
    assert "pip install 'asynctasq[opentelemetry]'" in done.stderr
