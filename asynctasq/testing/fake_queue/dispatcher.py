"""Where dispatches go while a FakeQueue is open: into its store, through the real codec, whatever their driver."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from asynctasq.codec.envelope import decode_envelope
from asynctasq.drivers.base import Driver
from asynctasq.errors import CodecError, DriverUnavailable, ResultTimeoutError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.limits import runs_no_task
from asynctasq.kernel.messages import Message
from asynctasq.queue import MessageFactory, Queue, living_ids, refuse_running_loop
from asynctasq.results import cancel_task, fetch_status, wait_for_result
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.cancellation import Cancellation
from asynctasq.tasks.definition import definition_of, options_of
from asynctasq.tasks.dispatching import Dispatcher, default_dispatcher
from asynctasq.tasks.middleware import DispatchContext
from asynctasq.tasks.task_status import TaskStatus
from asynctasq.testing.engine import Engine
from asynctasq.testing.engine.worker_driver import current_worker_driver
from asynctasq.testing.fake_queue.like_driver import LikeDriver
from asynctasq.testing.fake_queue.recording import Dispatched
from asynctasq.testing.loop import SharedLoop
from asynctasq.testing.transactions.watches import Watch

__all__ = ["FakeDispatcher", "Filter", "task_of"]

T = TypeVar("T")


class Filter:
    """Which tasks are faked: all, only some, or all but some."""

    def __init__(self, only: Sequence[type[BaseTask[Any]]] | None, except_: Sequence[type[BaseTask[Any]]]) -> None:
        if only is not None and except_:
            raise ValueError("give only= or except_=, not both")
        self._only = None if only is None else tuple(only)
        self._except = tuple(except_)

    def part(self, tasks: Sequence[BaseTask[Any]]) -> tuple[Sequence[BaseTask[Any]], list[BaseTask[Any]]]:
        """Part the tasks that stay in the FakeQueue from those that are let through."""
        if self._only is None and not self._except:
            return tasks, []
        faked = [task for task in tasks if self._fakes(task)]
        return faked, [task for task in tasks if not self._fakes(task)]

    def _fakes(self, task: BaseTask[Any]) -> bool:
        return self.fakes_class(type(task))

    def fakes_class(self, cls: type[BaseTask[Any]]) -> bool:
        """Say whether the tasks of this class stay in the FakeQueue."""
        if self._only is not None:
            return issubclass(cls, self._only)
        return not issubclass(cls, self._except)

    def check_faked(self, cls: type[BaseTask[Any]]) -> None:
        """Raise ValueError for a class all of whose dispatches are let through: of it nothing is known here."""
        if self._only is None:
            passes, choice = issubclass(cls, self._except), "except_"
        else:
            faked = any(issubclass(cls, some) or issubclass(some, cls) for some in self._only)
            passes, choice = not faked, "only"
        if passes:
            names = ", ".join(some.__qualname__ for some in (self._except if self._only is None else self._only))
            raise ValueError(
                f"{cls.__qualname__} is not faked by FakeQueue({choice}=[{names}]): it goes to the configured queue, "
                f"and nothing is known of it here; ask that queue, or fake it too"
            )


class FakeDispatcher(Dispatcher[BaseTask[Any]]):
    """Records dispatches and stores their messages; lets through what is not faked."""

    def __init__(
        self,
        engine: Engine,
        chosen: Filter,
        add: Callable[[Dispatched], None],
        like: LikeDriver | None = None,
        skip: Callable[[Dispatched], None] | None = None,
    ) -> None:
        self.engine = engine
        self._like = like or LikeDriver()
        self._chosen = chosen
        self._add = add
        self._skip = skip or add
        self._factory = MessageFactory(clock=engine.clock, new_id=engine.new_id)
        self._given = engine.options.surroundings.given
        self._blocks_loop = False
        self._unstored: dict[str, tuple[type[BaseTask[Any]], Message, int]] = {}
        engine.store.on_stored = self._record
        engine.store.on_skipped = self._record_skipped
        engine.store.on_forgotten = self._forget
        engine.store.describe = self._describe

    async def dispatch(self, tasks: Sequence[BaseTask[Any]], *, connection: Any = None) -> list[str]:
        faked, passed = self._chosen.part(tasks)
        queue = self._like.queue
        middleware = self._given if self._given is not None or queue is None else queue.middleware
        if middleware and faked:
            with self._factory.within(middleware, faked) as contexts:
                ids = await self._store(faked, connection, queue, contexts)
        else:
            ids = await self._store(faked, connection, queue, None)
        if not passed:
            return ids
        return _in_order(tasks, faked, ids, passed, await default_dispatcher().dispatch(passed, connection=connection))

    def dispatch_sync(self, tasks: Sequence[BaseTask[Any]], *, connection: Any = None) -> list[str]:
        """Do `dispatch`; inside a running loop refused as the application's own queue refuses it.

        Raises: RuntimeError there.
        """
        if connection is None:
            refuse_running_loop()
        faked, passed = self._chosen.part(tasks)
        queue = self._like.queue
        middleware = self._given if self._given is not None or queue is None else queue.middleware
        if middleware and faked:
            with self._factory.within(middleware, faked) as contexts:
                ids = self._store_now(faked, connection, queue, contexts)
        else:
            ids = self._store_now(faked, connection, queue, None)
        if not passed:
            return ids
        return _in_order(tasks, faked, ids, passed, default_dispatcher().dispatch_sync(passed, connection=connection))

    async def result(self, task_id: str, *, task: type[BaseTask[Any]] | None, timeout_s: float | None) -> Any:
        """Return what a task returned; wait for that only while workers run, since nothing else would end it.

        Raises: ResultTimeoutError at once where nothing runs it.
        """
        if self._passes(task):
            return await default_dispatcher().result(task_id, task=task, timeout_s=timeout_s)
        runs = self.engine.gate.is_open and not self._blocks_loop
        try:
            return await wait_for_result(
                self.engine.store,
                task_id,
                task=task,
                timeout_s=timeout_s if runs else 0,
                keys=None,
                limits=self._factory.limits,
            )
        except ResultTimeoutError as error:
            if not runs:
                error.add_note(
                    "nothing runs in a FakeQueue until the test says so, nor while synchronous code runs in the loop "
                    "of a simulation: `await queue.drain()` first, or await the result while that runs"
                )
            raise

    async def status(self, task_id: str, *, task: type[BaseTask[Any]] | None) -> TaskStatus:
        """Return what is known of a task."""
        if self._passes(task):
            return await default_dispatcher().status(task_id, task=task)
        return await fetch_status(self.engine.store, task_id, limits=self._factory.limits)

    async def cancel(self, task_id: str, *, task: type[BaseTask[Any]] | None) -> Cancellation:
        """Cancel a task.

        Raises: UnsupportedFeature if the driver that the task would go to can't.
        """
        if self._passes(task):
            return await default_dispatcher().cancel(task_id, task=task)
        self._like.check_cancels(task)
        self.engine.transactions.refuse_settling([task_id])
        return await cancel_task(current_worker_driver.get() or self.engine.store, task_id)

    def call_sync(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a call of synchronous code; that of a task which a simulation runs in its loop can't wait for others."""
        refuse_running_loop("this would block the running event loop; await result(), status() or cancel() here")
        loop = self.engine.loop
        if isinstance(loop, SharedLoop):
            return asyncio.run(make())
        if not loop.is_running():
            return self.engine.run_sync(make())
        self._blocks_loop = True
        try:
            return asyncio.run(make())
        finally:
            self._blocks_loop = False

    def _passes(self, task: type[BaseTask[Any]] | None) -> bool:
        """Say whether a task's dispatches are let through to the configured queue."""
        return task is not None and not self._chosen.fakes_class(task)

    async def _store(
        self,
        tasks: Sequence[BaseTask[Any]],
        connection: Any,
        queue: Queue | None,
        contexts: Sequence[DispatchContext] | None,
    ) -> list[str]:
        """Store the messages, through the line of the worker that dispatches them if one does; return their ids."""
        worker = current_worker_driver.get()
        if not tasks or (worker is None and connection is None):
            return self._store_now(tasks, None, queue, contexts)
        messages, drivers = self._messages(tasks, queue, contexts, in_transaction=connection is not None)
        if connection is None:
            assert worker is not None, "decided above"
            stored = await worker.enqueue(messages)
        else:
            watches = [await self.engine.transactions.begin(connection, driver) for driver in _each_once(drivers)]
            if worker is None:
                stored = self._store_on(watches[0], messages)
            else:
                stored = await worker.enqueue_on(watches[0], messages)
        return living_ids(tasks, [message.id for message in messages], [stored])

    def _store_now(
        self,
        tasks: Sequence[BaseTask[Any]],
        connection: Any,
        queue: Queue | None,
        contexts: Sequence[DispatchContext] | None,
    ) -> list[str]:
        if not tasks:
            return []
        worker = current_worker_driver.get()
        if worker is not None and worker.is_killed:
            raise DriverUnavailable("this simulated worker has crashed; nothing of it reaches the queue")
        messages, drivers = self._messages(tasks, queue, contexts, in_transaction=connection is not None)
        if connection is None:
            stored = self.engine.store.enqueue_now(messages)
        else:
            watches = [self.engine.transactions.begin_sync(connection, driver) for driver in _each_once(drivers)]
            if worker is None:
                stored = self._store_on(watches[0], messages)
            else:
                stored = worker.enqueue_on_sync(watches[0], messages)
        return living_ids(tasks, [message.id for message in messages], [stored])

    def _store_on(self, watch: Watch, messages: Sequence[Message]) -> list[str]:
        """Store the messages when the transaction commits that `watch` follows."""
        engine = self.engine
        with engine.store.deferring(lambda change: engine.transactions.add(watch, change)):
            return engine.store.enqueue_now(messages)

    def _messages(
        self,
        tasks: Sequence[BaseTask[Any]],
        queue: Queue | None,
        contexts: Sequence[DispatchContext] | None,
        *,
        in_transaction: bool,
    ) -> tuple[list[Message], list[Driver | None]]:
        """Encode all of them before any is stored: an error leaves nothing behind. Return their drivers, too."""
        drivers = self._like.drivers_of(tasks, queue)
        self._like.check(tasks, drivers, in_transaction=in_transaction)
        limits = self._like.limits(queue)
        if limits is not self._factory.limits:
            self._factory = replace(self._factory, limits=limits)
        if contexts is None:
            messages = [self._factory.message(task) for task in tasks]
        else:
            messages = list(map(self._factory.message, tasks, contexts))
        self._like.check_messages(drivers, messages)
        for task, message in zip(tasks, messages, strict=True):
            self._unstored[message.id] = (type(task), message, options_of(task).max_attempts)
        return messages, drivers

    def _enqueued(self, message_id: str) -> tuple[type[BaseTask[Any]], Message, int]:
        """Return what a message says of itself that was stored by `queue.driver.enqueue`, past this dispatcher."""
        message = self.engine.store.message(message_id)
        assert message is not None, "the store has just taken it"
        cls, max_attempts = task_of(message.body)
        return cls, message, max_attempts

    def _describe(self, message_id: str) -> object:
        cls, message, _ = self._unstored[message_id]
        return Dispatched(task=cls, message=message, at_s=self.engine.clock.monotonic())

    def _forget(self, message_ids: Sequence[str]) -> None:
        for message_id in message_ids:
            self._unstored.pop(message_id, None)

    def _record_skipped(self, messages: Sequence[Message]) -> None:
        """Note what the store has not taken because another message holds its unique key."""
        for message in messages:
            known = self._unstored.pop(message.id, None)
            cls = task_of(message.body)[0] if known is None else known[0]
            self._skip(Dispatched(task=cls, message=message, at_s=self.engine.clock.monotonic()))

    def _record(self, stored: Sequence[str]) -> None:
        """Note what the store has just taken, at that instant: the reply may be lost."""
        now, at_s = self.engine.clock.now(), self.engine.clock.monotonic()
        has_own_messages = self.engine.store.has_own_messages
        for message_id in stored:
            if has_own_messages and runs_no_task(message_id):
                continue
            known = message_id in self._unstored
            cls, message, max_attempts = self._unstored.pop(message_id) if known else self._enqueued(message_id)
            self._add(Dispatched(task=cls, message=message, at_s=at_s))
            self.engine.record(
                Entry(
                    now,
                    Kind.DISPATCHED,
                    message_id,
                    detail="" if cls is BaseTask else definition_of(cls).name,
                    due_at=now + message.delay_s,
                    max_attempts=max_attempts,
                )
            )


def task_of(body: bytes) -> tuple[type[BaseTask[Any]], int]:
    """Return the task that a body names and how often it may run; `BaseTask` and 0 if it names none that is known."""
    try:
        envelope = decode_envelope(body)
        return Application().resolve(envelope.task), envelope.max_attempts
    except CodecError:
        return BaseTask, 0


def _in_order(
    tasks: Sequence[BaseTask[Any]],
    faked: Sequence[BaseTask[Any]],
    faked_ids: Sequence[str],
    passed: Sequence[BaseTask[Any]],
    passed_ids: Sequence[str],
) -> list[str]:
    """Return the ids in the order of `tasks`; one instance may be dispatched twice in a batch."""
    found: dict[int, list[str]] = {}
    for task, task_id in zip([*faked, *passed], [*faked_ids, *passed_ids], strict=True):
        found.setdefault(id(task), []).append(task_id)
    return [found[id(task)].pop(0) for task in tasks]


def _each_once(drivers: Sequence[Driver | None]) -> list[Driver | None]:
    return list({id(driver): driver for driver in drivers}.values())
