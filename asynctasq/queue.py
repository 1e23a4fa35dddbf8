"""The queue as applications see it: turns tasks into messages and dispatches them to their drivers."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from asynctasq.clock import Clock, SystemClock
from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.codec.values import register_text
from asynctasq.drivers.base import Driver, Enqueued, Transactional
from asynctasq.errors import DELAY_S_MAX, DispatchError, UnsupportedFeature
from asynctasq.kernel.envelope import NO_HEADERS, Envelope
from asynctasq.kernel.messages import Message, random_id
from asynctasq.kernel.priority import NORMAL
from asynctasq.tasks.base import RESERVED, BaseTask
from asynctasq.tasks.configured import middleware_of
from asynctasq.tasks.definition import (
    TaskDefinition,
    arguments_of,
    check_unchanged,
    definition_of,
    options_of,
    set_dispatched,
    set_living,
)
from asynctasq.tasks.dispatching import Dispatcher
from asynctasq.tasks.handle import TaskHandle
from asynctasq.tasks.middleware import DispatchContext, around_dispatch
from asynctasq.tasks.options import FairKey, Options
from asynctasq.tasks.task_status import TaskStatus

if TYPE_CHECKING:
    from asynctasq.tasks.cancellation import Cancellation

__all__ = [
    "MessageFactory",
    "Queue",
    "background_loop",
    "check_supported",
    "check_transactional",
    "living_ids",
    "refuse_running_loop",
]

T = TypeVar("T")

register_text(TaskHandle)  # here, where every dispatch passes: importing the package alone imports no codec


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFactory:
    """Turns tasks into messages: checks, encodes, gives ids. Stores nothing.

    With `keys` bodies are signed; the signature is good for `signing_ttl_s` seconds after the message is due.
    """

    clock: Clock = field(default_factory=SystemClock)
    new_id: Callable[[], str] = lambda: random_id(os.urandom(16))
    keys: SigningKeys | None = None
    signing_ttl_s: float | None = None
    limits: Limits = DEFAULT_LIMITS

    @contextmanager
    def within(self, middleware: Sequence[object], tasks: Sequence[BaseTask[Any]]) -> Generator[list[DispatchContext]]:
        """Enter the middleware for the dispatch of these tasks; their messages are to be made and stored inside.

        Raises: ConfigError for middleware that can't be imported, and what it raises.
        """
        made, contexts = middleware_of(middleware), list(map(self._context, tasks))
        with around_dispatch(made, contexts):
            yield contexts

    def _context(self, task: BaseTask[Any]) -> DispatchContext:
        options = options_of(task)
        return DispatchContext(task=task, task_id=options.task_id or self.new_id(), queue=options.queue)

    def message(self, task: BaseTask[Any], context: DispatchContext | None = None) -> Message:
        """Return the message that runs `task`, with what middleware put into `context`; set id and instant on the task.

        Raises: UnserializableValue, BodyTooLarge, DispatchError.
        """
        options, definition = options_of(task), definition_of(type(task))
        _check_attributes(task, definition)
        given, annotations = arguments_of(task), definition.signature.annotations
        if definition.validate:
            _validate(given, definition)
        arguments = pack_arguments(definition.name, given, annotations, self.limits)
        check_unchanged(task, definition, given)
        now = self.clock.now()
        plain = options.at is None and options.expires_s is None
        delay_s = options.delay_s if plain else _delay_s(options, now, definition)
        envelope = Envelope(
            task=definition.name,
            arguments=arguments,
            max_attempts=options.max_attempts,
            retry=options.retry,
            dispatched_at=now,
            timeout_s=options.timeout_s,
            keep_result_s=options.keep_result_s,
            max_crashes=options.max_crashes,
            missing=options.missing,
            expires_s=options.expires_s,
            headers=NO_HEADERS if context is None else context.headers,
            limits=_texts_of_limits(task, definition, given) if definition.limits else None,
        )
        unique = None
        if options.unique is not None:
            from asynctasq.tasks.unique_keys import unique_key_of  # few tasks are unique

            unique = unique_key_of(options.unique, task, definition, given, self.limits)
        task_id = options.task_id or self.new_id() if context is None else context.task_id
        set_dispatched(task, task_id, datetime.fromtimestamp(now, UTC))
        return Message(
            id=task_id,
            queue=options.queue,
            body=encode_envelope(
                envelope,
                key=self.keys,
                limits=self.limits,
                belongs_to=(task_id, options.queue),
                expires_at=None if self.signing_ttl_s is None else now + delay_s + self.signing_ttl_s,
            ),
            delay_s=delay_s,
            unique=unique,
            priority=options.priority,
            fair_key="" if options.fair_key is None else _fair_key(options.fair_key, task, definition, given),
        )


def _fair_key(source: FairKey, task: BaseTask[Any], definition: TaskDefinition, given: Mapping[str, object]) -> str:
    from asynctasq.tasks.fair_keys import fair_key_of  # few tasks have one

    return fair_key_of(source, task, definition, given)


def _delay_s(options: Options, now: float, definition: TaskDefinition) -> float:
    """Return by how many seconds the message is delayed.

    Raises: DispatchError for a delay that no driver stores, or in which the message expires.
    """
    delay_s = options.delay_s if options.at is None else max(0.0, options.at - now)
    if delay_s > DELAY_S_MAX:
        raise DispatchError(f"{definition.name}: at() names an instant that is more than a hundred years away")
    if options.expires_s is not None and delay_s >= options.expires_s:
        raise DispatchError(
            f"{definition.name} is to run {delay_s:g} s after its dispatch at the soonest and expires "
            f"{options.expires_s:g} s after it, so it could never run; give it a longer `expires` or a shorter delay"
        )
    return delay_s


def _texts_of_limits(
    task: BaseTask[Any], definition: TaskDefinition, given: Mapping[str, object]
) -> Mapping[str, str] | None:
    """Return what the names of the task's limits are for this dispatch.

    Raises: DispatchError.
    """
    from asynctasq.tasks.limits import texts_of  # few tasks need it

    defaults: Mapping[str, object] = definition.signature.defaults() if definition.defaults is None else {}
    return texts_of(definition.limits, task, {**defaults, **given}, definition.name) or None


def _check_attributes(task: BaseTask[Any], definition: TaskDefinition) -> None:
    hidden = RESERVED.intersection(vars(task))
    if hidden:
        raise DispatchError(
            f"{definition.name} sets self.{min(hidden)}, which hides an attribute or method of every task; rename it"
        )


def _validate(arguments: Mapping[str, object], definition: TaskDefinition) -> None:
    from asynctasq.codec.validation import InvalidArguments, validate_arguments  # few tasks need it

    try:
        validate_arguments(arguments, definition.signature.annotations)
    except InvalidArguments as error:
        raise DispatchError(f"{definition.name}: {error}") from None


class Queue(Dispatcher[BaseTask[Any]]):
    """Dispatches tasks to their drivers.

    `driver` is where tasks go that name no other; `find_driver` returns the driver for a `_driver_override` by name.
    `middleware` is what `init` takes: middleware, or names that are imported by the first dispatch.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        find_driver: Callable[[str], Driver] | None = None,
        factory: MessageFactory | None = None,
        middleware: Sequence[object] = (),
    ) -> None:
        self.driver = driver
        self._find_driver = find_driver
        self.factory = factory or MessageFactory()
        self.middleware = middleware

    def _driver(self, definition: TaskDefinition) -> Driver:
        override = definition.driver
        if override is None:
            return self.driver
        if not isinstance(override, str):
            return override
        if self._find_driver is None:
            raise DispatchError(f"no driver named {override!r} is configured for this queue")
        return self._find_driver(override)

    async def dispatch(
        self,
        tasks: Sequence[BaseTask[Any]],
        *,
        connection: Any = None,
        contexts: Sequence[DispatchContext] | None = None,
    ) -> list[str]:
        """Do what `Dispatcher` says; with `contexts`, inside middleware that was entered already."""
        if self.middleware and contexts is None:
            with self.factory.within(self.middleware, tasks) as made:
                return await self.dispatch(tasks, connection=connection, contexts=made)
        ids, batches = self._prepare(tasks, contexts)
        if connection is None:
            stored = [await driver.enqueue(messages) for driver, messages in batches]
        else:
            checked = _all_transactional(batches)
            stored = [await transactional.enqueue_in(connection, messages) for transactional, messages in checked]
        return living_ids(tasks, ids, stored)

    def dispatch_sync(
        self,
        tasks: Sequence[BaseTask[Any]],
        *,
        connection: Any = None,
        contexts: Sequence[DispatchContext] | None = None,
    ) -> list[str]:
        """Do `dispatch` from code that has no event loop; middleware runs in the thread of the caller."""
        if connection is None:
            refuse_running_loop()
        if self.middleware and contexts is None:
            with self.factory.within(self.middleware, tasks) as made:
                return self.dispatch_sync(tasks, connection=connection, contexts=made)
        if connection is None:
            return background_loop.run(lambda: self.dispatch(tasks, contexts=contexts))
        ids, batches = self._prepare(tasks, contexts)
        checked = _all_transactional(batches)
        stored = [transactional.enqueue_in_sync(connection, messages) for transactional, messages in checked]
        return living_ids(tasks, ids, stored)

    async def result(
        self, task_id: str, *, task: type[BaseTask[Any]] | None = None, timeout_s: float | None = None
    ) -> Any:
        """Return what a task returned, once it has ended; see `TaskHandle.result`.

        Of `task`, its class, the driver is asked that has it; without it the default one.

        Raises: BadSignature if there are signing keys and the result is not signed with one of them, as that of this
        message; UnknownTask if the result is rebuilt from a class that is neither given nor imported.
        """
        from asynctasq.results import wait_for_result  # few dispatching processes need it

        factory = self.factory
        return await wait_for_result(
            self.driver_for(task), task_id, task=task, timeout_s=timeout_s, keys=factory.keys, limits=factory.limits
        )

    async def status(self, task_id: str, *, task: type[BaseTask[Any]] | None = None) -> TaskStatus:
        """Return what is known of a task; see `TaskHandle.status`."""
        from asynctasq.results import fetch_status

        return await fetch_status(self.driver_for(task), task_id, limits=self.factory.limits)

    async def cancel(self, task_id: str, *, task: type[BaseTask[Any]] | None = None) -> "Cancellation":
        """Cancel a task; see `TaskHandle.cancel`."""
        from asynctasq.results import cancel_task

        return await cancel_task(self.driver_for(task), task_id)

    def call_sync(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a call of this queue from code that has no event loop.

        Raises: RuntimeError inside a running event loop.
        """
        refuse_running_loop("this would block the running event loop; await result(), status() or cancel() here")
        return background_loop.run(make)

    def driver_for(self, task: type[BaseTask[Any]] | None) -> Driver:
        """Return where the tasks of a class go; those of None go to the default driver."""
        return self.driver if task is None else self._driver(definition_of(task))

    async def close(self) -> None:
        """Close the default driver's connections of the running loop."""
        await self.driver.close()

    def _prepare(
        self, tasks: Sequence[BaseTask[Any]], contexts: Sequence[DispatchContext] | None
    ) -> tuple[list[str], list[tuple[Driver, list[Message]]]]:
        """Encode everything before anything is stored; one batch per driver, order kept."""
        ids: list[str] = []
        batches: dict[int, tuple[Driver, list[Message]]] = {}
        for number, task in enumerate(tasks):
            definition = definition_of(type(task))
            driver = self._driver(definition)
            _check_reachable(task, definition, driver)
            message = self.factory.message(task, contexts[number] if contexts else None)
            ids.append(message.id)
            batches.setdefault(id(driver), (driver, []))[1].append(message)
        return ids, list(batches.values())


def living_ids(tasks: Sequence[BaseTask[Any]], ids: list[str], stored: Sequence[list[str]]) -> list[str]:
    """Return the ids of the messages that live for these tasks, and tell it to those that are not stored.

    That is another one's id for a task whose unique key is held. `stored` is what the drivers have returned.
    """
    holders = {key: holder for new in stored if isinstance(new, Enqueued) for key, holder in new.holders.items()}
    if not holders:
        return ids
    for task, task_id in zip(tasks, ids, strict=True):
        if task_id in holders:
            set_living(task, task_id, holders[task_id])
    return [holders.get(task_id, task_id) for task_id in ids]


def check_supported(task: BaseTask[Any], definition: TaskDefinition, driver: Driver) -> None:
    """Raise UnsupportedFeature for a task that needs what the driver lacks: results, keys, limits, levels."""
    options = options_of(task)
    if options.keep_result_s is not None and not driver.capabilities.keeps_results:
        raise UnsupportedFeature(f"{definition.name} has keep_result set, but {driver} keeps no results")
    if options.unique is not None and not driver.capabilities.unique:
        raise UnsupportedFeature(f"{definition.name} has unique set, but {driver} can't keep a task unique")
    if definition.limits and not driver.capabilities.reserves_released:
        raise UnsupportedFeature(
            f"{definition.name} has limits set, but {driver} can't keep any: it has no tokens that are taken in order; "
            "use sqlite, redis, postgres or mysql, or limit the concurrency of one worker"
        )
    if options.priority != NORMAL and not driver.capabilities.priorities:
        raise UnsupportedFeature(
            f"{definition.name} has priority {options.priority!r}, but {driver} has no priorities; use a queue of its "
            "own for it"
        )
    if options.fair_key is not None and not driver.capabilities.fair:
        raise UnsupportedFeature(
            f"{definition.name} has fair_key set, but {driver} gives no key its turn; use a queue for each key and "
            "let the worker weight them (-q a:1,b:1), or sqlite, redis or postgres"
        )


def _check_reachable(task: BaseTask[Any], definition: TaskDefinition, driver: Driver) -> None:
    """Raise now what would otherwise fail in a worker of another process."""
    name = definition.name
    check_supported(task, definition, driver)
    if not driver.capabilities.cross_process:
        return
    if "<locals>" in name:
        raise DispatchError(
            f"{name} is defined inside a function, where no worker can find it; move it to module level"
        )
    if name.startswith("__main__:"):
        raise DispatchError(
            f"{name} is defined in an interactive session, where no worker can find it; put it in a file"
        )


def _all_transactional(batches: Sequence[tuple[Driver, list[Message]]]) -> list[tuple[Transactional, list[Message]]]:
    """Check all drivers before the first one stores anything."""
    return [(check_transactional(driver), messages) for driver, messages in batches]


def check_transactional(driver: Driver) -> Transactional:
    """Return a driver that stores in callers' transactions; raise UnsupportedFeature for one that does not."""
    if not driver.capabilities.transactional or not isinstance(driver, Transactional):
        raise UnsupportedFeature(
            f"{driver} can't store messages in a transaction of yours; dispatch after the commit, with on_commit of "
            "asynctasq.integrations.django or asynctasq.integrations.sqlalchemy"
        )
    return driver


def refuse_running_loop(
    why: str = "dispatch_sync() would block the running event loop; use `await task.dispatch()` here",
) -> None:
    """Raise RuntimeError that says `why` inside a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(why)


class _BackgroundLoop:
    """An event loop in a daemon thread, for callers that have none; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(make(), self._running()).result()

    def run_if_started(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine there if the loop was started; wait at most 5 seconds."""
        if self._loop is not None and self._pid == os.getpid():
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(make(), self._loop).result(timeout=5.0)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a forked child has the loop but not its thread
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="asynctasq-dispatch", daemon=True).start()
            return self._loop


background_loop = _BackgroundLoop()
"""The loop that `dispatch_sync` runs in."""
