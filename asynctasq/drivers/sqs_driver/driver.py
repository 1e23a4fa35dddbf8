"""The driver for Amazon SQS, which claims only what SQS can promise. `wire` has its format, `client` its calls.

Why it works as it does: docs/decisions/sqs-delivery.md.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Self

from asynctasq.clock import Clock, SystemClock
from asynctasq.drivers.base import YES, Capabilities, Driver, Settlements, Support, partial
from asynctasq.drivers.batches import unique_messages
from asynctasq.drivers.checks import check_queue_names, refuse_keys
from asynctasq.drivers.loops import PerLoop
from asynctasq.drivers.sqs_driver.batches import Batches
from asynctasq.drivers.sqs_driver.client import Connection, Endpoint, Failure, ServerClock
from asynctasq.drivers.sqs_driver.errors import QueueGone
from asynctasq.drivers.sqs_driver.forwarding import Forwarder
from asynctasq.drivers.sqs_driver.leases import LeaseRegistry
from asynctasq.drivers.sqs_driver.names import QueueNames
from asynctasq.drivers.sqs_driver.queues import QueueDirectory
from asynctasq.drivers.sqs_driver.receiver import Receiver
from asynctasq.drivers.sqs_driver.redrive import read_depth, redrive
from asynctasq.drivers.sqs_driver.settle import Settler, first_copy
from asynctasq.drivers.sqs_driver.wire import DELAY_S_MAX, HEADER_BYTES_MAX, MESSAGE_BYTES_MAX, Writer, check_message
from asynctasq.drivers.tls import describe
from asynctasq.drivers.urls import ServerAddress, read_address, read_options, redact
from asynctasq.errors import ConfigError, DriverError, DriverUnavailable
from asynctasq.kernel.messages import Complete, Depth, Lease, Message, check_queue_name

__all__ = ["SQSDriver"]

PROBE_QUEUE = "asynctasq-probe"
NAMED_IDS_MAX = 50

CAPABILITIES = Capabilities(
    durable=YES,
    cross_process=YES,
    ordered=Support("no", "a standard queue has no strict order; FIFO queues go by arrival"),
    atomic_enqueue=partial("ten messages a call: when a call fails, the error says which ids were stored"),
    idempotent_enqueue=Support("no", "a standard queue stores the same id twice; FIFO queues drop it for 5 minutes"),
    atomic_settle=partial("send, then delete: what fails in between leaves a second copy, never none"),
    fenced=partial("SQS has no compare-and-set; a stale lease is refused where this driver or SQS can tell"),
    exact_depth=partial("SQS's counts are approximate, and it does not tell the age of the oldest message"),
    clock_offset=Support("no", "SQS's clock can't be shifted"),
    redrive=YES,
    wakes_waiting=Support("no", "a long poll takes the messages it waits for; reserve(wait_s=...) long-polls"),
    inspects=Support("no", "SQS can't look up or list messages"),
    keeps_results=Support("no", "SQS keeps messages only"),
    reports_progress=Support("no", "SQS keeps messages only"),
    cancels_running=Support("no", "SQS can't look up messages"),
    reserves_released=Support("no", "SQS has no way to a message that is delayed"),
    transactional=Support("no", "SQS takes part in no transaction"),
    unique=Support("no", "SQS can't look for another message with the same key"),
    priorities=Support("no", "an SQS queue has one line; what is to go first needs a queue of its own"),
    fair=Support("no", "SQS alone decides in which order the messages of a standard queue come"),
    body_bytes_max=MESSAGE_BYTES_MAX - HEADER_BYTES_MAX,
    delay_s_max=float(DELAY_S_MAX),
)
OPTIONS: dict[str, type] = {
    "region": str,
    "queue_url_prefix": str,
    "endpoint_url": str,
    "queue_name_prefix": str,
    "create_queues": bool,
    "fifo": bool,
    "fifo_ordered": bool,
    "profile": str,
    "message_bytes_max": int,
    "clock": Clock,
    "clock_offset": float,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _LoopResources:
    """What the driver opens for one event loop."""

    connection: Connection
    batches: Batches
    receiver: Receiver
    forwarder: Forwarder
    settler: Settler


class SQSDriver(Driver):
    """Keep messages in Amazon SQS.

    Region and credentials come from botocore's own chain (environment, profile, role) unless `region` or
    `profile` say otherwise. `queue_url_prefix` saves looking queues up: everything of their URL before the
    name. `fifo` makes all queues FIFO queues, else those whose name ends in `.fifo`; a FIFO queue is one
    message group, or, without `fifo_ordered`, one per message. `api_calls` counts what was asked of SQS.
    """

    capabilities = CAPABILITIES

    def __init__(  # noqa: PLR0913 - each is one setting of the public constructor
        self,
        *,
        region: str | None = None,
        queue_url_prefix: str | None = None,
        endpoint_url: str | None = None,
        queue_name_prefix: str = "",
        create_queues: bool = True,
        fifo: bool = False,
        fifo_ordered: bool = True,
        profile: str | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        clock: Clock | None = None,
        clock_offset: float = 0.0,
    ) -> None:
        endpoint = _read_url("endpoint_url", endpoint_url or "https://aws")
        if queue_url_prefix is not None:
            _read_url("queue_url_prefix", queue_url_prefix)
        if not 2 * HEADER_BYTES_MAX <= message_bytes_max <= MESSAGE_BYTES_MAX:
            raise ConfigError(
                f"message_bytes_max must be from {2 * HEADER_BYTES_MAX} to {MESSAGE_BYTES_MAX}, not {message_bytes_max}"
            )
        hosts = [endpoint.host_and_port(host, 443)[0] for host in endpoint.hosts]
        self.tls = describe(
            hosts, encrypted=endpoint.scheme == "https", checked="certificate and host name are", by="endpoint_url"
        )
        names = QueueNames(prefix=queue_name_prefix, all_fifo=fifo)
        self.clock_offset = clock_offset
        self.api_calls: Counter[str] = Counter()
        self._body_bytes_max = message_bytes_max - HEADER_BYTES_MAX
        self.capabilities = replace(CAPABILITIES, body_bytes_max=self._body_bytes_max)
        self._bytes_max = message_bytes_max
        self._endpoint = Endpoint(
            region=region,
            endpoint_url=endpoint_url,
            profile=profile,
            label=f"SQS at {redact(endpoint_url)}" if endpoint_url else f"SQS in {region or 'the default region'}",
        )
        self._directory = QueueDirectory(names, url_prefix=queue_url_prefix, create=create_queues)
        self._writer = Writer(is_fifo=names.is_fifo, ordered=fifo_ordered, bytes_max=message_bytes_max)
        self._clock = ServerClock(clock or SystemClock())
        self._registry = LeaseRegistry()
        self._resources = PerLoop(self._open_resources, self._close_resources)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "clock_offset" and value:
            raise ConfigError(f"clock_offset must be 0 with SQS, not {value!r}: its clock can't be shifted")
        super().__setattr__(name, value)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        parts = read_address("SQS driver", url)
        if parts.user is not None or parts.password is not None:
            raise ConfigError(
                "an sqs:// URL takes no credentials: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile "
                "or a role"
            )
        [region, *more] = parts.hosts
        if parts.path or more or ":" in region:
            raise ConfigError("the SQS address is not valid: use sqs://REGION?option=value, or sqs://")
        given: dict[str, Any] = {**parts.options, **options}
        if region:
            given.setdefault("region", region)
        return cls(**read_options("SQS driver", given, OPTIONS))

    def __str__(self) -> str:
        prefix = self._directory.names.prefix
        return self._endpoint.label + (f", queues {prefix}*" if prefix else "")

    # -- connecting ------------------------------------------------------------------------------

    async def _open_resources(self) -> _LoopResources:
        connection = Connection(self._endpoint, self._clock, self.api_calls)
        await connection.open()
        batches = Batches(connection, self._directory, bytes_max=self._bytes_max)
        forwarder = Forwarder(batches, self._writer, self._clock)
        return _LoopResources(
            connection=connection,
            batches=batches,
            forwarder=forwarder,
            receiver=Receiver(connection, self._directory, batches, forwarder, self._registry),
            settler=Settler(connection, batches, self._writer, self._registry),
        )

    async def _close_resources(self, resources: _LoopResources) -> None:
        await resources.receiver.close()
        await resources.connection.close()

    async def open(self) -> None:
        """Ask for a queue that need not exist: any reply but a refusal of the credentials is good."""
        if self._resources.get_if_open() is None:
            resources = await self._resources.get()
            try:
                await resources.connection.call("get_queue_url", QueueName=self._directory.names.prefix + PROBE_QUEUE)
            except QueueGone:
                pass
            except DriverError:
                await self._resources.close()
                raise

    async def close(self) -> None:
        await self._resources.close()

    # -- storing ---------------------------------------------------------------------------------

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        self._check(messages)
        unique = unique_messages(messages)
        resources = await self._resources.get()
        for queue in dict.fromkeys(message.queue for message in unique):
            await self._directory.address(resources.connection, queue)
        outgoing = [first_copy(self._writer, message) for message in unique]
        failures = await resources.connection.run_to_end(resources.batches.send(outgoing), "enqueueing")
        if any(failures):
            raise _partly_stored(unique, failures)
        return [message.id for message in unique]

    def _check(self, messages: Sequence[Message]) -> None:
        refuse_keys(messages, self)
        for message in messages:
            check_message(message, body_bytes_max=self._body_bytes_max)

    # -- reserving and settling ------------------------------------------------------------------

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        resources = await self._resources.get()
        check_queue_names(queues)
        return await resources.receiver.reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        return await (await self._resources.get()).settler.extend(leases, lease_s=lease_s)

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        for _, settlement in settlements:
            self._check(settlement.follow_ups)
        return await (await self._resources.get()).settler.settle(settlements)

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        """Settle and receive at the same time, if the settlements can't change what is received."""
        if not settlements or not limit or not self._are_independent(settlements):
            return await super().turn(settlements, queues, limit=limit, lease_s=lease_s)
        resources = await self._resources.get()
        check_queue_names(queues)
        asked_at = asyncio.get_running_loop().time()
        with resources.receiver.claiming(queues):
            settled, fetched = await asyncio.gather(
                resources.settler.settle(settlements),
                resources.receiver.fetch(queues, limit=limit, lease_s=lease_s),
                return_exceptions=True,
            )
            if isinstance(settled, BaseException):
                raise settled  # the messages received meanwhile wait for the next reserve
            if isinstance(fetched, BaseException):
                return settled, []  # the next reserve raises the error; these settlements are done
            leases = await resources.receiver.claim(queues, limit=limit, lease_s=lease_s, asked_at=asked_at)
            return settled, leases

    def _are_independent(self, settlements: Settlements) -> bool:
        return all(
            isinstance(end, Complete) and not end.follow_ups and not self._directory.names.is_fifo(lease.queue)
            for lease, end in settlements
        )

    # -- inspecting ---------------------------------------------------------------------------------

    async def depth(self, queue: str) -> Depth:
        check_queue_name(queue)
        resources = await self._resources.get()
        return await read_depth(resources.connection, self._directory, queue)

    async def redrive(self, queue: str, *, limit: int) -> int:
        check_queue_name(queue)
        resources = await self._resources.get()
        return await redrive(
            resources.connection, self._directory, resources.forwarder, self._writer, queue=queue, limit=limit
        )


def _read_url(name: str, url: str) -> ServerAddress:
    try:
        parts = read_address(name, url)
    except ConfigError as error:
        raise ConfigError(f"{name} must be an http:// or https:// address: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hosts[0]:
        raise ConfigError(f"{name} must be an http:// or https:// address")
    if parts.user is not None or parts.password is not None:
        raise ConfigError(f"{name} takes no user and password: requests are signed with AWS credentials")
    return parts


def _partly_stored(messages: Sequence[Message], failures: Sequence[Failure | None]) -> DriverError:
    stored = [message.id for message, failure in zip(messages, failures, strict=True) if failure is None]
    first = next(failure for failure in failures if failure is not None)
    kind = type(first.cause) if isinstance(first.cause, DriverError) else DriverUnavailable
    named = ", ".join(stored[:NAMED_IDS_MAX]) or "none"
    more = f" and {len(stored) - NAMED_IDS_MAX} more" if len(stored) > NAMED_IDS_MAX else ""
    return kind(
        f"{len(messages) - len(stored)} of {len(messages)} messages were not stored: {first.text}; "
        f"stored: {named}{more}; repeat only the others, or messages run twice"
    )
