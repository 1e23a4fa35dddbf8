"""Traces by OpenTelemetry: a span for each dispatch and each attempt, tied together by headers of the message."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Final

from asynctasq import __version__
from asynctasq.errors import MissingExtra, Reject, Retry, Snooze
from asynctasq.tasks.definition import definition_of, options_of
from asynctasq.tasks.middleware import AttemptContext, DispatchContext, Middleware

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:
    raise MissingExtra(
        "asynctasq.integrations.opentelemetry needs OpenTelemetry; "
        "install it with: pip install 'asynctasq[opentelemetry]'"
    ) from error

__all__ = ["Tracing"]

LINKED_HEADER: Final = "asynctasq-trace"
"""Its value `link` says that the attempts are not to be part of the trace of the dispatch."""
SIGNALS: Final = {Retry: "retry requested", Snooze: "snoozed", Reject: "rejected"}


class Tracing(Middleware):
    """Middleware that makes a producer span for each dispatch and a consumer span for each attempt.

    The attempts of a task are children of the span of its dispatch, so that a request and all that it led to are one
    trace. Those of a task with a delay begin a trace of their own, with a link to the dispatch: it may have ended hours
    ago. Names and attributes follow OpenTelemetry's conventions for messaging; arguments and results are never among
    them. An attempt that fails has its exception, and those that follow from `Retry`, `Snooze` and `Reject` say so.

    `tracer_provider`: what makes the spans, the global one by default; context travels as the global propagator says.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("asynctasq", __version__, tracer_provider)

    def dispatching(self, context: DispatchContext) -> AbstractContextManager[None]:
        """Return what a dispatch happens in: its span, whose context travels in the message's headers."""
        return self._dispatching(context)

    @contextmanager
    def _dispatching(self, context: DispatchContext) -> Generator[None]:
        options = options_of(context.task)
        attributes = _attributes(definition_of(type(context.task)).name, context.task_id, context.queue, "send")
        # Not the current span: the tasks of one dispatch_many are side by side.
        span = self._tracer.start_span(f"send {context.queue}", kind=SpanKind.PRODUCER, attributes=attributes)
        try:
            propagate.inject(context.headers, trace.set_span_in_context(span))
            if options.delay_s > 0 or options.at is not None:
                context.headers[LINKED_HEADER] = "link"
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def attempting(self, context: AttemptContext) -> AbstractAsyncContextManager[None]:
        """Return what an attempt runs in: its span."""
        return self._attempting(context)

    @asynccontextmanager
    async def _attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        name = definition_of(context.task_class).name
        attributes = _attributes(name, context.task_id, context.queue, "process")
        origin = propagate.extract(context.headers)
        parent, links = origin, None
        if context.headers.get(LINKED_HEADER) == "link":
            parent, links = Context(), [Link(trace.get_current_span(origin).get_span_context())]
        span = self._tracer.start_span(
            f"process {context.queue}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**attributes, "asynctasq.attempt": context.attempt},
            links=links,
        )
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except BaseException as error:
                _end(span, error)
                raise
            span.set_attribute("asynctasq.outcome", "succeeded")


def _attributes(task: str, task_id: str, queue: str, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "asynctasq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        "asynctasq.task": task,
    }


def _end(span: Span, error: BaseException) -> None:
    """Say how an attempt ended that raised; `Snooze` is no failure, a cancellation is none of the task's."""
    outcome = next((text for kind, text in SIGNALS.items() if isinstance(error, kind)), None)
    if outcome is None:
        outcome = "failed" if isinstance(error, Exception) else "cancelled"
    span.set_attribute("asynctasq.outcome", outcome)
    if outcome not in ("snoozed", "cancelled"):
        _fail(span, error)


def _fail(span: Span, error: BaseException) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, name))
