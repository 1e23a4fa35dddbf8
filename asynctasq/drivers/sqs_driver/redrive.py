"""Count a queue, and move its dead letters back; both use the queue of dead letters beside it."""

from asynctasq.drivers.sqs_driver.client import Connection
from asynctasq.drivers.sqs_driver.errors import QueueGone
from asynctasq.drivers.sqs_driver.forwarding import Forwarder
from asynctasq.drivers.sqs_driver.queues import QueueDirectory
from asynctasq.drivers.sqs_driver.wire import (
    BATCH_ENTRIES_MAX,
    BODY,
    SYSTEM_ATTRIBUTES,
    NewerVersion,
    Received,
    Writer,
)
from asynctasq.kernel.messages import Depth

__all__ = ["read_depth", "redrive"]

COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)
REDRIVE_LEASE_S = 60
REDRIVE_WAIT_S = 1
"""A long poll, however short, asks all of SQS's servers: a short one may miss what is there."""


async def read_depth(connection: Connection, directory: QueueDirectory, queue: str) -> Depth:
    """Return SQS's approximate counts; creates nothing."""
    ready, scheduled, reserved = await _counts(connection, directory, queue, dead=False)
    dead = sum(await _counts(connection, directory, queue, dead=True))
    return Depth(ready=ready, scheduled=scheduled, reserved=reserved, dead=dead)


async def _counts(connection: Connection, directory: QueueDirectory, queue: str, *, dead: bool) -> tuple[int, int, int]:
    url = await directory.find(connection, queue, dead=dead)
    if url is None:
        return 0, 0, 0
    try:
        reply = await connection.call("get_queue_attributes", QueueUrl=url, AttributeNames=list(COUNTS))
    except QueueGone:
        directory.forget(queue, dead=dead)
        return 0, 0, 0
    ready, delayed, hidden = (int(reply.data.get("Attributes", {}).get(name, 0)) for name in COUNTS)
    return ready, delayed, hidden


async def redrive(
    connection: Connection, directory: QueueDirectory, forwarder: Forwarder, writer: Writer, *, queue: str, limit: int
) -> int:
    """Send dead letters again, then delete them, until the limit or until SQS returns no more; return how many."""

    async def move(count: int) -> int:
        dead = await _receive_dead(connection, directory, queue, count)
        moves = [(copy, writer.build(copy.next_copy().redriven(), queue, key=copy.receipt)) for copy in dead]
        return await forwarder.replace(moves, dead=True)

    moved = 0
    while moved < limit:
        step = await connection.run_to_end(move(min(BATCH_ENTRIES_MAX, limit - moved)), "redriving")
        moved += step
        if not step:
            break
    return moved


async def _receive_dead(connection: Connection, directory: QueueDirectory, queue: str, count: int) -> list[Received]:
    url = await directory.find(connection, queue, dead=True)
    if url is None:
        return []
    try:
        reply = await connection.receive(
            QueueUrl=url,
            MaxNumberOfMessages=count,
            VisibilityTimeout=REDRIVE_LEASE_S,
            WaitTimeSeconds=REDRIVE_WAIT_S,
            MessageAttributeNames=[BODY],
            MessageSystemAttributeNames=SYSTEM_ATTRIBUTES,
        )
    except QueueGone:
        directory.forget(queue, dead=True)
        return []
    dead: list[Received] = []
    for raw in reply.data.get("Messages", ()):
        try:
            dead.append(Received.parse(queue, raw, taken_at=reply.answered_at, lease_s=REDRIVE_LEASE_S))
        except (NewerVersion, KeyError):
            continue
    return dead
