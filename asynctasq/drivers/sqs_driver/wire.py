"""What a message looks like on SQS: a readable JSON header as the text, the body as one binary attribute; no I/O.

Binary, because SQS bodies are text: base64 would cost a third of the size limit and of the 64 KiB that are billed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from asynctasq.drivers.checks import ID_CHARACTERS_MAX, check_fair, check_message_id
from asynctasq.drivers.damaged import is_count, is_instant_us
from asynctasq.errors import BodyTooLarge, UnsupportedFeature
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    ErrorRecord,
    Lease,
    Message,
    Release,
    check_queue_name,
    microseconds,
)
from asynctasq.kernel.priority import NORMAL, check_priority

__all__ = [
    "BATCH_ENTRIES_MAX",
    "BODY",
    "DELAY_S_MAX",
    "HEADER_BYTES_MAX",
    "MESSAGE_BYTES_MAX",
    "SYSTEM_ATTRIBUTES",
    "Envelope",
    "NewerVersion",
    "Outgoing",
    "Received",
    "Writer",
    "check_message",
    "receipt_of",
]

MESSAGE_BYTES_MAX = 1_048_576
"""One message, and all messages of one batch together, attributes included.
Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html"""
HEADER_BYTES_MAX = 4_096
"""What we keep free beside the body: the header, and in a dead letter the reason and the end of the traceback."""
BATCH_ENTRIES_MAX = 10
DELAY_S_MAX = 900
WIRE_VERSION = 1
BODY = "body"
BODY_TYPE = "Binary"
SYSTEM_ATTRIBUTES = ["ApproximateReceiveCount", "SentTimestamp"]
SHARED_GROUP = "all"
COPY_END = ":"
TRIMMED = "[trimmed] "


class NewerVersion(Exception):
    """A message written by a newer asynctasq; it stays for a worker that can read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message as we write it. SQS bodies can't be changed, so each new count is a new copy.

    `due_in_us` counts from the instant SQS stored the copy; a copy that has it is *forwarded*: it is hidden
    or sent again until the rest fits SQS's own delay, is never leased, and its receive count means nothing.
    `copy` numbers the copies of one message, so that a later one is never mistaken for a duplicate.
    `reason` marks a dead letter. `enqueued_us` is None in the first copy: there SQS's own timestamp says it.
    """

    id: str
    body: bytes
    attempts: int = 0
    crashes: int = 0
    copy: int = 0
    enqueued_us: int | None = None
    due_in_us: int = 0
    reason: str | None = None
    error: ErrorRecord | None = None

    @classmethod
    def released(cls, lease: Lease, end: Release | Bury) -> "Envelope":
        """Return the copy that replaces a leased one, counted as its settlement says."""
        return cls(
            id=lease.message_id,
            body=lease.body,
            attempts=lease.attempt - 1 + end.counted,
            crashes=lease.crashes + end.crashed,
            copy=_copy_of(lease.token) + 1,
            enqueued_us=round(lease.enqueued_at * MICROSECONDS),
            reason=end.reason.value if isinstance(end, Bury) else None,
            error=end.error if isinstance(end, Bury) else None,
        )

    def redriven(self) -> "Envelope":
        """Return the copy whose counts start again at 0, and its age."""
        return replace(self, attempts=0, crashes=0, enqueued_us=None, reason=None, error=None)

    def header(self, bytes_max: int) -> str:
        """Return the JSON text; the error is cut, its end kept, until the message fits."""
        text = self._header(self.error)
        over = len(text) + self._attribute_bytes() - bytes_max
        if over > 0 and self.error is not None:
            text = self._header(_shorten(self.error, over))
        return text

    def _header(self, error: ErrorRecord | None) -> str:
        fields = {
            "asynctasq": WIRE_VERSION,
            "id": self.id,
            "attempts": self.attempts,
            "crashes": self.crashes,
            "copy": self.copy,
            "enqueued_us": self.enqueued_us,
            "due_in_us": self.due_in_us,
            "dead": self.reason,
            "error": [error.type, error.message, error.traceback] if error else None,
        }
        return json.dumps({name: value for name, value in fields.items() if value}, separators=(",", ":"))

    def _attribute_bytes(self) -> int:
        return len(BODY) + len(BODY_TYPE) + len(self.body) if self.body else 0


def _shorten(error: ErrorRecord, over: int) -> ErrorRecord:
    """Cut at least `over` bytes: the traceback's beginning first, then the message's end, then the type's.

    Every character is at least one byte in JSON, so as many characters are enough.
    """
    over += len(TRIMMED)
    traceback, over = _cut(error.traceback, over)
    message, over = _cut(error.message[::-1], over)
    kind, _ = _cut(error.type[::-1], over)
    traceback = TRIMMED + traceback if traceback != error.traceback else traceback
    return ErrorRecord(type=kind[::-1], message=message[::-1], traceback=traceback)


def _cut(text: str, over: int) -> tuple[str, int]:
    cut = min(len(text), max(0, over))
    return text[cut:], over - cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One entry of a send, for a queue or for its dead letters."""

    queue: str
    dead: bool
    text: str
    body: bytes
    delay_s: int
    fifo_group: str | None
    fifo_key: str | None

    @property
    def bytes(self) -> int:
        """What SQS counts against its limits."""
        return len(self.text) + (len(BODY) + len(BODY_TYPE) + len(self.body) if self.body else 0)

    def entry(self, entry_id: str) -> dict[str, Any]:
        """Return the parameters of one entry of SendMessageBatch."""
        entry: dict[str, Any] = {"Id": entry_id, "MessageBody": self.text}
        if self.body:  # an attribute may not be empty
            entry["MessageAttributes"] = {BODY: {"DataType": BODY_TYPE, "BinaryValue": self.body}}
        if self.fifo_group is not None:
            entry["MessageGroupId"] = self.fifo_group
            entry["MessageDeduplicationId"] = self.fifo_key
        else:
            # Said even when 0: the queue's own default delay must not apply.
            entry["DelaySeconds"] = self.delay_s
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """How this driver writes envelopes. `ordered`: a FIFO queue is one group, else each message is its own."""

    is_fifo: Callable[[str], bool]
    ordered: bool
    bytes_max: int

    def build(self, envelope: Envelope, queue: str, *, delay_us: int = 0, key: str = "") -> Outgoing:
        """Return the entry; a delay that SQS can't do in one step, or at all (FIFO), goes into the envelope.

        `key` is what SQS's FIFO deduplication compares: the id for a first copy, the receipt for a later one.
        """
        fifo = self.is_fifo(queue)
        delay_s = -(-delay_us // MICROSECONDS)
        forwarded = delay_us > 0 and (fifo or delay_s > DELAY_S_MAX)
        envelope = replace(envelope, due_in_us=delay_us if forwarded else 0)
        shared = self.ordered and not delay_us  # a message that waits must not hold up those behind it
        return Outgoing(
            queue=queue,
            dead=envelope.reason is not None,
            text=envelope.header(self.bytes_max),
            body=envelope.body,
            delay_s=0 if fifo else min(delay_s, DELAY_S_MAX),
            fifo_group=(SHARED_GROUP if shared else _digest(envelope.id)) if fifo else None,
            fifo_key=_digest(key or envelope.id) if fifo else None,
        )


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(slots=True, kw_only=True)
class Received:
    """One copy as SQS gave it. Instants are seconds on SQS's clock; `ends_at` is never later than the true end."""

    queue: str
    envelope: Envelope
    sqs_id: str
    receipt: str
    receives: int
    sent_us: int
    taken_at: float
    ends_at: float
    lease_s: int
    arrived_at: float
    """On the event loop's clock."""

    @classmethod
    def parse(
        cls, queue: str, reply: dict[str, Any], *, taken_at: float, lease_s: int, arrived_at: float = 0.0
    ) -> "Received":
        """Read one message of a ReceiveMessage reply; a text that is not ours becomes a body of its own.

        Raises: NewerVersion
        """
        attributes = reply.get("Attributes", {})
        return cls(
            queue=queue,
            envelope=_read_envelope(reply),
            sqs_id=reply["MessageId"],
            receipt=reply["ReceiptHandle"],
            receives=max(1, int(attributes.get("ApproximateReceiveCount", 1))),
            sent_us=int(attributes.get("SentTimestamp", round(taken_at * 1000))) * 1000,
            taken_at=taken_at,
            ends_at=taken_at + lease_s,
            lease_s=lease_s,
            arrived_at=arrived_at,
        )

    @property
    def enqueued_us(self) -> int:
        """When the message was first stored."""
        return self.sent_us if self.envelope.enqueued_us is None else self.envelope.enqueued_us

    @property
    def is_leasable(self) -> bool:
        """Whether the receive count counts leases: neither forwarded nor a dead letter that a console moved back."""
        return not self.envelope.due_in_us and self.envelope.reason is None

    def lease(self) -> Lease:
        """Return the lease; every receive before this one was a lease that ended without settling."""
        return Lease(
            message_id=self.envelope.id,
            queue=self.queue,
            body=self.envelope.body,
            token=f"{self.envelope.copy}{COPY_END}{self.receipt}",
            attempt=self.envelope.attempts + 1,
            crashes=self.envelope.crashes + self.receives - 1,
            enqueued_at=self.enqueued_us / MICROSECONDS,
            expires_at=self.ends_at,
        )

    def next_copy(self) -> Envelope:
        """Return the envelope of a copy that replaces this one, with its present counts.

        This receive granted no lease; those of a leasable copy before it did, and ended as crashes.
        """
        crashed = self.receives - 1 if self.is_leasable else 0
        return replace(
            self.envelope,
            crashes=self.envelope.crashes + crashed,
            copy=self.envelope.copy + 1,
            enqueued_us=self.enqueued_us,
            due_in_us=0,
        )


def _read_envelope(reply: dict[str, Any]) -> Envelope:
    text: str = reply["Body"]
    body: bytes = reply.get("MessageAttributes", {}).get(BODY, {}).get("BinaryValue", b"")
    foreign = Envelope(id=reply["MessageId"], body=text.encode(errors="surrogatepass"))
    try:
        header = json.loads(text)
        version, message_id = int(header["asynctasq"]), str(header["id"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return foreign
    if version > WIRE_VERSION:
        raise NewerVersion(f"message {message_id} has wire version {version}; this asynctasq reads {WIRE_VERSION}")
    try:
        read = Envelope(
            id=message_id,
            body=body,
            attempts=int(header.get("attempts", 0)),
            crashes=int(header.get("crashes", 0)),
            copy=int(header.get("copy", 0)),
            enqueued_us=int(header["enqueued_us"]) if "enqueued_us" in header else None,
            due_in_us=int(header.get("due_in_us", 0)),
            reason=header.get("dead"),
        )
    except (ValueError, TypeError, OverflowError):
        return foreign
    enqueued_us = 0 if read.enqueued_us is None else read.enqueued_us
    numbers = is_count(read.attempts) and is_count(read.crashes) and is_count(read.copy)
    instants = is_instant_us(enqueued_us) and is_instant_us(read.due_in_us)
    return read if numbers and instants and 0 < len(read.id) <= ID_CHARACTERS_MAX else foreign


def receipt_of(token: str) -> str:
    """Return the receipt handle in a lease's token."""
    copy, separator, receipt = token.partition(COPY_END)
    return receipt if separator else copy


def _copy_of(token: str) -> int:
    copy = token.partition(COPY_END)[0]
    return int(copy) if copy.isdecimal() else 0


def check_message(message: Message, *, body_bytes_max: int) -> None:
    """Raise what forbids to store this message, before anything is stored.

    Raises: InvalidQueueName, BodyTooLarge, DispatchError, UnsupportedFeature
    """
    check_queue_name(message.queue)
    check_message_id(message.id)
    if message.priority != NORMAL and check_priority(message.priority):
        raise UnsupportedFeature(
            f"message {message.id} has priority {message.priority!r}, and SQS has no priorities: an SQS queue has one "
            "line; send what is to go first to a queue of its own"
        )
    if message.fair_key:
        check_fair(message, fair=False)
    if len(message.body) > body_bytes_max:
        raise BodyTooLarge(
            f"message {message.id} has a body of {len(message.body)} bytes; SQS takes {body_bytes_max}: "
            "store large data elsewhere and pass its address"
        )
    microseconds(message.delay_s)
