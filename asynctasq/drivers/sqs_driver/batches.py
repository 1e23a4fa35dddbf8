"""Send, delete and hide many copies in as few API calls as SQS allows; what a copy means is not known here."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asynctasq.drivers.batches import batches_by_size, chunks
from asynctasq.drivers.sqs_driver.client import Connection, Failure
from asynctasq.drivers.sqs_driver.errors import QueueGone
from asynctasq.drivers.sqs_driver.queues import QueueDirectory
from asynctasq.drivers.sqs_driver.wire import BATCH_ENTRIES_MAX, Outgoing
from asynctasq.errors import DispatchError, DriverError

__all__ = ["Batches", "Copy"]

REQUESTS_MAX = 8
Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A received copy: where, by which receipt; `hide_s` is used only when it is hidden."""

    queue: str
    receipt: str
    dead: bool = False
    hide_s: int = 0


class Batches:
    """The three batch operations; results stand in the order of the input."""

    def __init__(self, connection: Connection, directory: QueueDirectory, *, bytes_max: int) -> None:
        self._connection = connection
        self._directory = directory
        self._bytes_max = bytes_max

    async def send(self, outgoing: Sequence[Outgoing]) -> list[Failure | None]:
        """Send all; return for each None, or why not. Within a FIFO queue in the order given."""
        by_queue: dict[tuple[str, bool], list[int]] = {}
        for index, item in enumerate(outgoing):
            by_queue.setdefault((item.queue, item.dead), []).append(index)
        results: list[Failure | None] = [None] * len(outgoing)
        calls: list[Call] = []
        for (queue, dead), indexes in by_queue.items():
            send = functools.partial(self._send_batches, queue, dead, outgoing, results)
            batches = list(
                batches_by_size(
                    indexes,
                    size_of=lambda index: outgoing[index].bytes,
                    size_max=self._bytes_max,
                    count_max=BATCH_ENTRIES_MAX,
                )
            )
            if self._directory.names.is_fifo(queue):
                calls.append(functools.partial(send, batches))
            else:
                calls += [functools.partial(send, [batch]) for batch in batches]
        await _run_all(calls)
        return results

    async def _send_batches(
        self,
        queue: str,
        dead: bool,
        outgoing: Sequence[Outgoing],
        results: list[Failure | None],
        batches: Sequence[list[int]],
    ) -> None:
        for batch in batches:
            await self._send_batch(queue, dead, outgoing, batch, results)

    async def _send_batch(
        self, queue: str, dead: bool, outgoing: Sequence[Outgoing], chunk: list[int], results: list[Failure | None]
    ) -> None:
        entries = [outgoing[index].entry(str(index)) for index in chunk]
        try:
            failures = await self._directory.run(
                self._connection,
                queue,
                lambda url: self._connection.batch("send_message_batch", url, entries),
                dead=dead,
            )
        except (DriverError, DispatchError) as error:
            failures = _all_failed(entries, error)
        for index in chunk:
            results[index] = failures.get(str(index))

    async def delete(self, copies: Sequence[Copy]) -> list[Failure | None]:
        """Delete all; a failure is final when the receipt is no longer ours."""
        return await self._by_receipt("delete_message_batch", copies, hide=False)

    async def hide(self, copies: Sequence[Copy]) -> list[Failure | None]:
        """Let each be invisible for its `hide_s` from now; a failure is final when the receipt is no longer ours."""
        return await self._by_receipt("change_message_visibility_batch", copies, hide=True)

    async def _by_receipt(self, operation: str, copies: Sequence[Copy], *, hide: bool) -> list[Failure | None]:
        by_queue: dict[tuple[str, bool], list[int]] = {}
        for index, copy in enumerate(copies):
            by_queue.setdefault((copy.queue, copy.dead), []).append(index)
        results: list[Failure | None] = [None] * len(copies)

        async def run_chunk(queue: str, dead: bool, chunk: Sequence[int]) -> None:
            entries: list[dict[str, Any]] = [{"Id": str(i), "ReceiptHandle": copies[i].receipt} for i in chunk]
            if hide:
                for entry, i in zip(entries, chunk, strict=True):
                    entry["VisibilityTimeout"] = copies[i].hide_s
            failures = await self._run(operation, queue, dead, entries)
            for i in chunk:
                results[i] = failures.get(str(i))

        await _run_all(
            [
                functools.partial(run_chunk, queue, dead, chunk)
                for (queue, dead), indexes in by_queue.items()
                for chunk in chunks(indexes, BATCH_ENTRIES_MAX)
            ]
        )
        return results

    async def _run(self, operation: str, queue: str, dead: bool, entries: list[dict[str, Any]]) -> dict[str, Failure]:
        """Do one batch call on a queue that must exist: without it, no receipt is worth anything."""
        try:
            url = await self._directory.find(self._connection, queue, dead=dead)
            if url is None:
                raise QueueGone(f"queue {queue!r} does not exist")
            return await self._connection.batch(operation, url, entries)
        except QueueGone as error:
            self._directory.forget(queue, dead=dead)
            return {entry["Id"]: Failure(code="QueueDoesNotExist", text=str(error), final=True) for entry in entries}
        except DriverError as error:
            return _all_failed(entries, error)


async def _run_all(calls: Sequence[Call]) -> None:
    """Run the calls, some at a time: a large batch must not keep the small ones of other callers from the network."""
    if len(calls) == 1:
        await calls[0]()
        return
    waiting = iter(calls)

    async def run() -> None:
        for call in waiting:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(REQUESTS_MAX, len(calls))):
            group.create_task(run())


def _all_failed(entries: Sequence[dict[str, Any]], error: DriverError | DispatchError) -> dict[str, Failure]:
    """Return the failures of a call that failed as a whole: each entry may be tried again."""
    return {entry["Id"]: Failure(code="", text=str(error), final=False, cause=error) for entry in entries}
