"""What an operator sees of queues and their messages, and does to them; works without the application's code."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import cast

from asynctasq.clock import Clock
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limits import Limits
from asynctasq.codec.values import Decoding
from asynctasq.core.paused_queues import pause_note, paused_in
from asynctasq.core.worker_register import WorkerEntry, forget_gone, registered_workers
from asynctasq.drivers.base import CancelsRunning, Driver, Inspectable
from asynctasq.errors import CodecError, TaskNotFoundError, UnsupportedFeature
from asynctasq.kernel.messages import Depth, State, StoredMessage, bounded_text, check_queue_name
from asynctasq.tasks.task_status import TaskStatus, status_of

__all__ = ["QueueOperator", "ShownTask", "TaskFilter", "TaskPage"]

OWN_PREFIX = "asynctasq."
"""How the names of queues begin that asynctasq keeps for itself, such as that of the notes about schedules."""
SCAN = 100
"""How many messages are read at once. Nothing holds more of them, however many a queue has."""
REDRIVEN_AT_ONCE = 100
ARGUMENT_BYTES_MAX = 2_000
"""How much of an argument is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTask:
    """A message as an operator sees it. `arguments` are `repr` texts by name; None where the body can't be read.

    `unreadable` says why it can't; `size` is the body's, in bytes.
    """

    status: TaskStatus
    arguments: Mapping[str, str] | None
    size: int
    unreadable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which messages are meant: those that all given parts fit.

    task: its name, or the part of it behind the last ':' or '.'. older_than_s: enqueued at least so many seconds ago.
    arguments: the value of each, as `str` or `repr` shows it.
    """

    queue: str | None = None
    task: str | None = None
    state: State | None = None
    older_than_s: float | None = None
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some of the messages that are meant; give `cursor` back for the next ones, None at the end."""

    tasks: Sequence[ShownTask]
    cursor: str | None


class QueueOperator:
    """The queues of a driver. What needs to look at messages raises UnsupportedFeature where the driver can't."""

    def __init__(self, driver: Driver, *, limits: Limits, clock: Clock) -> None:
        self._driver = driver
        self._limits = limits
        self._clock = clock

    @property
    def _store(self) -> Inspectable:
        driver = self._driver
        if driver.capabilities.inspects and isinstance(driver, Inspectable):
            return driver
        raise UnsupportedFeature(
            f"{driver} can't look at its messages, so there are none to list, show or remove, and no queue to pause"
        )

    async def depths(
        self, known: Sequence[str] = (), *, own: bool = False, most: int | None = None
    ) -> dict[str, Depth]:
        """Return the depth of each queue that holds a message, and of the `known` ones; `own`: of asynctasq's too.

        Where there are more than `most` queues, the known ones are among those that are told.

        Raises: DriverError.
        """
        names = {*(await self._store.queues() if self._driver.capabilities.inspects else ()), *known}
        told = [name for name in names if own or not name.startswith(OWN_PREFIX)]
        chosen = sorted(told, key=lambda name: (name not in known, name))[:most]
        return {name: await self._driver.depth(name) for name in sorted(chosen)}

    async def paused(self) -> AbstractSet[str]:
        """Return the names of the paused queues; there are none where the driver can't look at its messages.

        Raises: DriverError.
        """
        return await paused_in(self._store) if self._driver.capabilities.inspects else frozenset()

    async def pause(self, queues: Sequence[str]) -> AbstractSet[str]:
        """Let no worker take messages of queues, within a second; what runs goes on. Return those that were open.

        Raises: InvalidQueueName, and then pauses none; DriverError.
        """
        notes = {queue: pause_note(queue) for queue in queues}
        _ = self._store  # refuses a driver in which no worker could look for the notes
        new = set(await self._driver.enqueue(list(notes.values())))
        return {queue for queue, note in notes.items() if note.id in new}

    async def resume(self, queues: Sequence[str]) -> AbstractSet[str]:
        """Let workers take messages of queues again, within a second; return those that were paused.

        Raises: InvalidQueueName, and then resumes none; DriverError.
        """
        ids = {queue: pause_note(queue).id for queue in queues}
        removed = await self._store.cancel(list(ids.values()))
        return {queue for queue, note_id in ids.items() if note_id in removed}

    async def workers(self) -> list[WorkerEntry]:
        """Return the workers that have entered themselves, by name; those that have been gone for a day no more.

        Raises: DriverError.
        """
        entries = await forget_gone(self._store, await registered_workers(self._store), most=SCAN)
        return [entry for entry in entries if entry.entered]

    async def running(self) -> list[TaskStatus]:
        """Return the tasks that workers have now, queues by name.

        Raises: DriverError.
        """
        wanted = TaskFilter(state=State.RESERVED)
        return [shown.status async for page in self._pages(wanted) for _, shown in page.meant]

    async def show(self, message_id: str) -> ShownTask:
        """Return one message.

        Raises: TaskNotFoundError if there is none of this id, DriverError.
        """
        stored = await self._store.find(message_id)
        if stored is None:
            raise TaskNotFoundError(
                f"there is no message {message_id!r} in {self._driver}: it has completed, was cancelled or discarded, "
                "or never was"
            )
        return self._shown(stored)

    async def search(self, wanted: TaskFilter, *, limit: int, cursor: str | None = None) -> TaskPage:
        """Return the first `limit` messages that are meant: queues by name, within one in the order of arrival.

        Raises: ValueError for a cursor that is none, DriverError.
        """
        queue, _, inner = (cursor or "").partition(" ")
        found: list[ShownTask] = []
        async for page in self._pages(wanted, queue, inner or None):
            for index, shown in page.meant:
                if len(found) == limit:
                    return TaskPage(tasks=found, cursor=await self._cursor(page, wanted.state, index))
                found.append(shown)
        return TaskPage(tasks=found, cursor=None)

    async def count(self, wanted: TaskFilter) -> int:
        """Return how many messages are meant.

        Raises: DriverError.
        """
        return sum([len(page.meant) async for page in self._pages(wanted)])

    async def cancel(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Remove those that are no dead letters, and end their attempts; return their ids.

        A driver that can't end attempts leaves what a worker has.

        Raises: DriverError.
        """
        driver = self._driver
        if driver.capabilities.cancels_running and isinstance(driver, CancelsRunning):
            return frozenset(await driver.cancel_running(message_ids))
        return await self._store.cancel(message_ids)

    async def discard(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Remove those that are dead letters; return their ids.

        Raises: DriverError.
        """
        return await self._store.discard(message_ids)

    async def retry(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Make those that are dead letters ready again, as a redrive does; return their ids.

        Raises: DriverError.
        """
        return await self._store.redrive_ids(message_ids)

    async def discard_all(self, wanted: TaskFilter, on_progress: Callable[[int], None]) -> int:
        """Remove the dead letters that are meant, some at a time; return how many, and tell so meanwhile.

        Safe to repeat after an error. Raises: DriverError.
        """
        removed = 0
        async for page in self._pages(replace(wanted, state=State.DEAD)):
            removed += len(await self._store.discard([shown.status.id for _, shown in page.meant]))
            on_progress(removed)
        return removed

    async def redrive(
        self, queue: str, *, limit: int | None, rate: float | None, on_progress: Callable[[int], None]
    ) -> int:
        """Make dead letters of a queue ready again, oldest death first; `rate` bounds how many in a second.

        No more of them than there are at the start: one that dies again meanwhile is not driven for ever.
        Each goes in one step, so it is safe to repeat after an error. Raises: DriverError.
        """
        dead = (await self._driver.depth(queue)).dead
        total = dead if limit is None else min(limit, dead)
        at_once = REDRIVEN_AT_ONCE if rate is None else max(1, min(REDRIVEN_AT_ONCE, int(rate)))
        moved = 0
        while moved < total and (count := await self._driver.redrive(queue, limit=min(at_once, total - moved))):
            moved += count
            on_progress(moved)
            if rate is not None and moved < total:
                await asyncio.sleep(count / rate)
        return moved

    async def _pages(self, wanted: TaskFilter, first: str = "", cursor: str | None = None) -> AsyncIterator["_Page"]:
        """Read the messages of the queues that are meant, from `cursor` in queue `first` on."""
        names = [name for name in await self._names(wanted) if name >= first]
        for name in names:
            start = cursor if name == first else None
            while True:
                page = await self._store.list_messages(name, state=wanted.state, limit=SCAN, cursor=start)
                meant = [
                    (index, shown) for index, one in enumerate(page.messages) if (shown := self._meant(one, wanted))
                ]
                yield _Page(name, start, meant)
                if (start := page.cursor) is None:
                    break

    async def _names(self, wanted: TaskFilter) -> list[str]:
        if wanted.queue is not None:
            return [check_queue_name(wanted.queue)]
        return [name for name in await self._store.queues() if not name.startswith(OWN_PREFIX)]

    def _meant(self, stored: StoredMessage, wanted: TaskFilter) -> ShownTask | None:
        if wanted.older_than_s is not None and self._clock.now() - stored.enqueued_at < wanted.older_than_s:
            return None
        shown = self._shown(stored)
        if wanted.task is not None and wanted.task not in _names_of(shown.status.task):
            return None
        return shown if _has_arguments(shown, wanted.arguments) else None

    async def _cursor(self, page: "_Page", state: State | None, index: int) -> str:
        """Return where the message at `index` of a page comes next."""
        inner = page.start
        if index:
            inner = (await self._store.list_messages(page.queue, state=state, limit=index, cursor=page.start)).cursor
        return f"{page.queue} {inner or ''}"

    def _shown(self, stored: StoredMessage) -> ShownTask:
        try:
            envelope = decode_envelope(stored.body, limits=self._limits)
            arguments = Decoding(self._limits).decode(envelope.arguments)
        except CodecError as error:
            status = status_of(stored, task="", max_attempts=None)
            return ShownTask(status=status, arguments=None, size=stored.size, unreadable=str(error))
        status = status_of(stored, task=envelope.task, max_attempts=envelope.max_attempts)
        named = cast("dict[object, object]", arguments) if isinstance(arguments, dict) else {}
        texts = {str(name): bounded_text(repr(value), ARGUMENT_BYTES_MAX) for name, value in named.items()}
        return ShownTask(status=status, arguments=texts, size=stored.size)


@dataclass(frozen=True, slots=True)
class _Page:
    """What of a page of a queue, read from the cursor `start`, is meant, with its place in the page."""

    queue: str
    start: str | None
    meant: Sequence[tuple[int, ShownTask]]


def _names_of(task: str) -> tuple[str, str, str]:
    return task, task.rpartition(":")[2], task.rpartition(".")[2]


def _has_arguments(shown: ShownTask, wanted: Mapping[str, str]) -> bool:
    """Return whether each argument is shown as wanted; a text may be given with or without its quotes."""
    arguments = shown.arguments or {}
    return all(arguments.get(name) in {text, repr(text)} for name, text in wanted.items())
