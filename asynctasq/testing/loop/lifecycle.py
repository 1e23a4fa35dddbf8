"""How a simulation loop begins and ends: runs nested in others, unfinished tasks, generators, unawaited errors."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import sys
import threading
import weakref
from asyncio import events
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from asynctasq.testing.errors import UnhandledErrors
from asynctasq.testing.loop.asyncio_internals import BaseLoop, enter_task, leave_task
from asynctasq.testing.loop.tasks import close_unfinished, pending_tasks

__all__ = ["LoopLifecycle"]

T = TypeVar("T")


class LoopLifecycle(BaseLoop):
    """The part of `SimulationLoop` that does not schedule."""

    _closed = True  # until it is made, so that one whose arguments are refused is not one left open

    def __init__(self) -> None:
        asyncio.BaseEventLoop.__init__(self)  # a selector is made when it is needed, see RealWorld
        self._selector = self._ssock = self._csock = None
        self._internal_fds = 0
        self._signal_handlers: dict[int, Any] = {}
        self._unix_server_sockets: dict[Any, Any] = {}
        self.unhandled: list[dict[str, Any]] = []
        self._generators: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}

    @cached_property
    def _transports(self) -> weakref.WeakValueDictionary[int, Any]:
        return weakref.WeakValueDictionary()

    def _run_all(self) -> None:
        """Run until stopped."""
        raise NotImplementedError

    def _has_ready(self) -> bool:
        """Tell whether something could run at this instant."""
        raise NotImplementedError

    def close(self) -> None:
        if self._selector is None:
            asyncio.BaseEventLoop.close(self)
        else:
            super().close()

    # -- running ---------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end, cancel unfinished tasks in order of creation, close; works inside a running loop too.

        Raises: UnhandledErrors if `main` ended well, but errors went to the exception handler.
        """
        if self.is_running() or self.is_closed():
            main.close()
            raise RuntimeError("a simulation loop runs once at a time, and not after it was closed; make another")
        try:
            result = self.run_until_complete(main)
            self._end_unfinished()
        except BaseException as error:
            self._end_unfinished_after(error)
            raise
        finally:
            self.close()
        self.raise_unhandled()
        return result

    def run_forever(self) -> None:
        """Run until stopped. Another loop that runs in this thread is suspended meanwhile."""
        self._check_closed()
        self._check_running()
        hooks = sys.get_asyncgen_hooks()
        with _suspending(events._get_running_loop()):
            try:
                self._thread_id = threading.get_ident()
                sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
                events._set_running_loop(self)
                self._run_all()
            finally:
                self._stopping = False
                self._thread_id = None
                sys.set_asyncgen_hooks(*hooks)

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")

    # -- ending ----------------------------------------------------------------------------------

    def _end_unfinished(self) -> None:
        unfinished = pending_tasks(self)
        for task in unfinished:
            task.cancel()
        if unfinished:
            self.run_until_complete(_ended(unfinished))
        for task in unfinished:
            if not task.cancelled() and (error := task.exception()) is not None:
                message = f"{task.get_name()} failed while it was cancelled"
                self.call_exception_handler({"message": message, "exception": error, "task": task})
        if self._generators:
            self.run_until_complete(self.shutdown_asyncgens())
        if self._default_executor is not None:
            self.run_until_complete(self.shutdown_default_executor())
        if self._has_ready():
            self.run_until_complete(asyncio.sleep(0))  # the done-callbacks of the last tasks

    def _end_unfinished_after(self, error: BaseException) -> None:
        try:
            self._end_unfinished()
        except Exception as further:  # noqa: BLE001 - the first error is the one to report
            error.add_note(f"then ending the unfinished tasks failed: {further!r}")
            close_unfinished(pending_tasks(self))

    def raise_unhandled(self) -> None:
        """Raise, once, what went to the exception handler so far."""
        contexts, self.unhandled = self.unhandled, []
        if contexts:
            first = next((context["exception"] for context in contexts if "exception" in context), None)
            lines = [f"{context.get('message')}: {context.get('exception')!r}" for context in contexts]
            raise UnhandledErrors("errors that nobody awaited:\n  " + "\n  ".join(lines), contexts) from first

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the error for `raise_unhandled`, unless the program set a handler of its own."""
        if self._exception_handler is not None:
            super().call_exception_handler(context)
        else:
            self.unhandled.append(context)

    # -- asynchronous generators, in order of their first step; asyncio keeps them by address -------

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        key, generators = id(agen), self._generators
        generators[key] = weakref.ref(agen, lambda _: generators.pop(key, None))

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._generators.pop(id(agen), None)
        if not self.is_closed():
            self.call_soon_threadsafe(self._close_generator, agen)

    def _close_generator(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Close one that was collected; not made before it runs, since Python warns of what is never awaited."""
        self.create_task(agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that are still open, one after the other."""
        generators = [agen for ref in self._generators.values() if (agen := ref()) is not None]
        self._generators.clear()
        for agen in generators:
            try:
                await agen.aclose()
            except Exception as error:  # noqa: BLE001 - user code; asyncio reports it the same way
                message = f"an error occurred during closing of asynchronous generator {agen!r}"
                self.call_exception_handler({"message": message, "exception": error, "asyncgen": agen})


@contextmanager
def _suspending(outer: asyncio.AbstractEventLoop | None) -> Generator[None]:
    """Let another loop run inside `outer` and its current task, and put both back afterwards."""
    task = asyncio.current_task(outer) if outer is not None else None
    if outer is not None and task is not None:
        leave_task(outer, task)
    try:
        yield
    finally:
        events._set_running_loop(outer)
        if outer is not None and task is not None:
            enter_task(outer, task)


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
