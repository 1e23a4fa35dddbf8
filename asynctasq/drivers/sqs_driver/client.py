"""The connection to SQS of one event loop, and the server's clock as its replies show it; knows no messages."""

import asyncio
import io
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar, cast

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from asynctasq.clock import Clock
from asynctasq.drivers.sqs_driver.errors import QueueGone, Refused, mapped_errors
from asynctasq.drivers.sqs_driver.wire import BATCH_ENTRIES_MAX
from asynctasq.errors import AsyncTasqError, DriverError, DriverUnavailable
from asynctasq.logs import get_logger

__all__ = ["Connection", "Endpoint", "Failure", "Reply", "ServerClock"]

logger = get_logger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 10
POLL_TIMEOUT_S = 30
"""The longest long poll, 20 s, and what its reply may take."""
ATTEMPTS = 4
BATCH_ROUNDS = 4
BATCH_PAUSE_S = 0.05
CLOSE_S = 1.0
STREAM_FROM_BYTES = 1 << 20


class ServerClock:
    """SQS's time, derived from the `Date` of its replies; shared by all loops of a driver.

    A date has whole seconds, so each reply only bounds the difference to our clock; many replies bound it well.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_min = -math.inf
        self._offset_max = math.inf

    def local(self) -> float:
        """Return our own clock's time."""
        return self._clock.now()

    def now(self) -> float:
        """Return the earliest that SQS's time can be, so that nothing that waits for it is early."""
        return self.at(self._clock.now())

    def at(self, local: float) -> float:
        """Return the earliest that SQS's time can have been when ours was `local`."""
        return local + self._offset_min if math.isfinite(self._offset_min) else local

    def observe(self, date: str, asked_at: float, answered_at: float) -> float | None:
        """Narrow the bounds by a reply; return its date, if it has one."""
        try:
            server = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return None
        offset_min, offset_max = server - answered_at, server + 1 - asked_at
        self._offset_min, self._offset_max = max(self._offset_min, offset_min), min(self._offset_max, offset_max)
        if self._offset_min > self._offset_max:  # a clock was set: the earlier bounds are wrong
            self._offset_min, self._offset_max = offset_min, offset_max
        return server


class SqsClient(Protocol):
    """What we use of botocore's client, which has no types of its own."""

    async def get_queue_url(self, **parameters: Any) -> dict[str, Any]: ...
    async def create_queue(self, **parameters: Any) -> dict[str, Any]: ...
    async def get_queue_attributes(self, **parameters: Any) -> dict[str, Any]: ...
    async def send_message_batch(self, **parameters: Any) -> dict[str, Any]: ...
    async def receive_message(self, **parameters: Any) -> dict[str, Any]: ...
    async def delete_message_batch(self, **parameters: Any) -> dict[str, Any]: ...
    async def change_message_visibility_batch(self, **parameters: Any) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which SQS to talk to. What is None is found by botocore's own chain."""

    region: str | None
    endpoint_url: str | None
    profile: str | None
    label: str
    """For texts, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a call returned. `asked_at` and `answered_at` bound, on SQS's clock and from below, when it took effect."""

    data: dict[str, Any]
    asked_at: float
    answered_at: float

    def text(self, name: str) -> str:
        """Return a field that must be there.

        Raises: DriverUnavailable for a reply that is none of SQS's.
        """
        value = self.data.get(name)
        if not isinstance(value, str):
            raise DriverUnavailable(f"a reply without {name!r} came; check that endpoint_url leads to SQS")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one entry of a batch was not done. `final`: trying again would not help."""

    code: str
    text: str
    final: bool
    cause: AsyncTasqError | None = None


class Connection:
    """Two clients, since a long poll may take 20 s and nothing else may; and the tasks that own their calls."""

    def __init__(self, endpoint: Endpoint, clock: ServerClock, calls: "Counter[str]") -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.create_lock = asyncio.Lock()
        self._calls = calls
        self._background: dict[asyncio.Task[Any], None] = {}
        self._lifetime: AsyncGenerator[None, None] | None = None
        self._commands: SqsClient
        self._polls: SqsClient

    async def open(self) -> None:
        """Make the clients. asyncio closes them with the loop if nobody does before."""
        self._lifetime = self._keep_open()
        await anext(self._lifetime)

    async def _keep_open(self) -> AsyncGenerator[None, None]:
        # An async generator, because a loop that shuts down finishes those that are still open.
        async with AsyncExitStack() as stack:
            with mapped_errors(self.endpoint.label, "the set-up of a client"):
                session = AioSession(profile=self.endpoint.profile)
                self._commands = await stack.enter_async_context(self._client(session, COMMAND_TIMEOUT_S))
                self._polls = await stack.enter_async_context(self._client(session, POLL_TIMEOUT_S))
                cast("Any", self._commands).meta.events.register("request-created.sqs", _stream_large)
            yield

    def _client(self, session: Any, read_timeout: float) -> Any:
        retries: dict[str, Any] = {}
        if session.get_config_variable("retry_mode") in {None, "legacy"}:
            retries["mode"] = "standard"
        if session.get_config_variable("max_attempts") is None:
            retries["total_max_attempts"] = ATTEMPTS
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S, read_timeout=read_timeout, retries=retries, max_pool_connections=100
        )
        return session.create_client(
            "sqs", region_name=self.endpoint.region, endpoint_url=self.endpoint.endpoint_url, config=config
        )

    async def close(self) -> None:
        """End the background tasks, then the clients."""
        if self._background:
            await asyncio.wait(list(self._background), timeout=CLOSE_S)
            late = list(self._background)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CLOSE_S)
        lifetime, self._lifetime = self._lifetime, None
        if lifetime is not None:
            await lifetime.aclose()

    def spawn(self, coroutine: Coroutine[Any, Any, None], title: str) -> None:
        """Run a coroutine in the background; it belongs to this connection, and its failure is only logged."""
        task = asyncio.ensure_future(coroutine)
        self._background[task] = None
        task.add_done_callback(lambda done: self._background.pop(done, None))
        task.add_done_callback(lambda done: _log_failure(done, title))

    async def run_to_end(self, work: Coroutine[Any, Any, T], title: str, after: Callable[[], None] | None = None) -> T:
        """Await work that goes on to its end when its caller is cancelled: half of it would leave two copies.

        `after` is called when it has ended, with or without an error.
        Raises: DriverUnavailable if `close` ended it.
        """
        task = asyncio.ensure_future(work)
        self._background[task] = None
        task.add_done_callback(lambda done: self._background.pop(done, None))
        if after is not None:
            task.add_done_callback(lambda _: after())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and current is not None and not current.cancelling():
                raise DriverUnavailable(f"{self.endpoint.label}: the driver was closed during {title}") from None
            task.add_done_callback(lambda done: _log_failure(done, title))
            raise

    async def call(self, operation: str, **parameters: Any) -> Reply:
        """Do one API call; botocore repeats it when SQS is busy or unreachable.

        Raises: QueueGone, Refused, DriverError
        """
        return await self._call(self._commands, operation, parameters)

    async def receive(self, **parameters: Any) -> Reply:
        """Do one ReceiveMessage call, which may be a long poll."""
        return await self._call(self._polls, "receive_message", parameters)

    async def _call(self, client: SqsClient, operation: str, parameters: dict[str, Any]) -> Reply:
        self._calls[operation] += 1
        asked_at = self.clock.local()
        with mapped_errors(self.endpoint.label, operation):
            data = cast("dict[str, Any]", await getattr(client, operation)(**parameters))
        answered_at = self.clock.local()
        date = data.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        dated = self.clock.observe(date, asked_at, answered_at)
        earliest = self.clock.at(asked_at)
        return Reply(data=data, asked_at=earliest, answered_at=max(earliest, dated or earliest))

    async def batch(self, operation: str, url: str, entries: Sequence[dict[str, Any]]) -> dict[str, Failure]:
        """Do one batch call, again for entries whose failure may pass; return the failures that remain, by Id.

        An entry that the reply does not mention counts as failed.
        """
        assert len(entries) <= BATCH_ENTRIES_MAX
        pending = {str(entry["Id"]): entry for entry in entries}
        failed: dict[str, Failure] = {}
        final: dict[str, Failure] = {}
        for round_ in range(BATCH_ROUNDS):
            if round_:
                await asyncio.sleep(BATCH_PAUSE_S * 2**round_)
            try:
                reply = await self.call(operation, QueueUrl=url, Entries=list(pending.values()))
            except Refused as error:
                return final | await self._one_by_one(operation, url, list(pending.values()), error)
            except (DriverError, QueueGone) as error:
                if isinstance(error, QueueGone) and not round_:
                    raise  # nothing was done yet: the caller may create the queue
                return final | _all_failed(pending, error)
            failed = _failures(reply.data, pending)
            final |= {entry_id: failure for entry_id, failure in failed.items() if failure.final}
            pending = {entry_id: pending[entry_id] for entry_id, failure in failed.items() if not failure.final}
            if not pending:
                break
        return final | {entry_id: failed[entry_id] for entry_id in pending}

    async def _one_by_one(
        self, operation: str, url: str, entries: list[dict[str, Any]], error: Refused
    ) -> dict[str, Failure]:
        """One bad entry may make SQS refuse the whole call: give each its own."""
        if len(entries) == 1:
            code = "InvalidParameterValue"
            return {str(entries[0]["Id"]): Failure(code=code, text=str(error), final=True, cause=error)}
        failures: dict[str, Failure] = {}
        for entry in entries:
            failures |= await self.batch(operation, url, [entry])
        return failures


def _stream_large(request: Any, **_: Any) -> None:
    """Let the HTTP library read a large request piece by piece; it warns of those it gets in one."""
    if isinstance(request.data, bytes) and len(request.data) > STREAM_FROM_BYTES:
        request.data = io.BytesIO(request.data)


def _log_failure(task: "asyncio.Task[Any]", title: str) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("%s failed: %s; the messages come back when their visibility timeout ends", title, error)


def _all_failed(pending: Iterable[str], error: DriverError | QueueGone) -> dict[str, Failure]:
    cause = error if isinstance(error, DriverError) else None
    return {entry_id: Failure(code="", text=str(error), final=False, cause=cause) for entry_id in pending}


def _failures(data: dict[str, Any], pending: dict[str, dict[str, Any]]) -> dict[str, Failure]:
    failures = {entry_id: Failure(code="", text="SQS said nothing about it", final=False) for entry_id in pending}
    for done in data.get("Successful", []):
        failures.pop(done.get("Id", ""), None)
    for failed in data.get("Failed", []):
        failures[failed.get("Id", "")] = Failure(
            code=str(failed.get("Code", "")).rsplit("#", 1)[-1],
            text=f"{failed.get('Code', '')} {failed.get('Message', '')}".strip(),
            final=bool(failed.get("SenderFault", False)),
        )
    return failures
