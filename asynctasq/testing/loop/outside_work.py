"""The work that goes on outside a simulation loop: functions in executors, and threads that call back."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import contextvars
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from asynctasq.logs import get_logger
from asynctasq.testing.loop.asyncio_internals import THREADS, BaseLoop, PlainHandle
from asynctasq.testing.loop.threads import (
    ExecutorCall,
    OutsideActivity,
    WorkState,
    closure_variable,
    describe_function,
    outside_activities,
)

__all__ = ["OutsideWork"]

logger = get_logger(__name__)

_POLL_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_WRAP_FUTURE: Final = "_chain_future.<locals>._call_check_cancel"
_BLOCKED: Final = (WorkState.WAITS_FOR_LOOP, WorkState.WAITS_FOR_THREAD)


class OutsideWork:
    """Tracks what is under way in other threads; while there is any, virtual time must stand still.

    What certainly works for the program stops time for as long as it takes: executor calls, and work that
    was declared. What possibly works for it stops time until nothing was received for `grace_s` of real time:
    a thread that the program started, an executor call that waits for a thread other than the loop's.
    What waits for this loop does not stop time.
    """

    def __init__(self, loop: BaseLoop, *, real: bool, grace_s: float) -> None:
        self.real = real
        self.received: deque[events.Handle] = deque()
        self._loop = loop
        self._grace_s = grace_s
        self._declared = 0
        self._calls: dict[Future[Any], ExecutorCall] = {}
        self._ignored: frozenset[object] = frozenset()
        self._wake_up = threading.Lock()
        self._wake_up.acquire()
        self._threads_before = frozenset(THREADS.values())

    # -- called by other threads -----------------------------------------------------------------

    def deliver(self, handle: events.Handle) -> None:
        """Send a callback to the loop's thread."""
        self.received.append(handle)
        with suppress(RuntimeError):  # the loop is awake, or has been woken, already
            self._wake_up.release()
        self._loop._write_to_self()

    def _on_call_done(self, call: "Future[Any]") -> None:
        if not self._loop.is_closed():
            self.deliver(PlainHandle(self._calls.pop, (call, None), self._loop, contextvars.Context()))

    # -- called by the loop ----------------------------------------------------------------------

    def begin(self) -> None:
        """Count one more piece of work that is under way."""
        self._declared += 1

    def end(self) -> None:
        """Count one piece of work less."""
        self._declared -= 1

    def collect(self) -> None:
        """Make ready what other threads sent."""
        ready = self._loop._ready
        while self.received:
            ready.append((None, self.received.popleft(), ()))

    def wait(self) -> bool:
        """Wait in real time for a callback, while something works or may work outside; False if nothing does."""
        if not (self._declared or self._calls or self.real) and self._threads_before.issuperset(THREADS.values()):
            return bool(self.received)
        silence_s, polls, poll_s = 0.0, iter(_POLL_S), 0.0
        while not self.received:
            certain, possible = self._working()
            if certain:
                silence_s = 0.0
            elif not possible:
                return bool(self.received)
            elif silence_s >= self._grace_s:
                self._ignore(possible)
                continue
            # Counted, not measured: the program may have frozen the clock.
            poll_s = next(polls, poll_s)
            if not self._wake_up.acquire(timeout=poll_s):
                silence_s += poll_s
        return True

    def wait_in_grace(self) -> bool:
        """Wait up to `grace_s` of real time for threads started during the run; tell whether one called back."""
        if self._new_threads():
            # The lock may still be open because of a callback that was collected already.
            while not self.received and self._wake_up.acquire(timeout=self._grace_s):
                pass
        return bool(self.received)

    def is_working(self) -> bool:
        """Say whether something certainly works for the program."""
        return self._working()[0]

    def describe(self) -> list[str]:
        """Say what each thread and executor call outside is doing."""
        found = [one for one in self._activities() if one.state is not WorkState.IDLE]
        return [f"{one.name} {one.state.value}" for one in found]

    # -- who works ---------------------------------------------------------------------------------

    def _working(self) -> tuple[bool, list[OutsideActivity]]:
        """Tell whether something certainly works, and else what possibly does."""
        if self._declared:
            return True, []
        found = self._activities()
        certain = [one.state for one in found if one.certain]
        # Queued behind a call that is blocked, a call may wait for ever; otherwise its turn comes.
        if WorkState.RUNNING in certain or (
            WorkState.QUEUED in certain and not any(each in certain for each in _BLOCKED)
        ):
            return True, []
        stops_time = {True: (WorkState.WAITS_FOR_THREAD, WorkState.QUEUED), False: (WorkState.RUNNING,)}
        return False, [one for one in found if one.state in stops_time[one.certain] and one.source not in self._ignored]

    def _ignore(self, silent: list[OutsideActivity]) -> None:
        self._ignored |= {one.source for one in silent}
        names = ", ".join(f"{one.name}, which {one.state.value}" for one in silent)
        logger.warning("virtual time goes on without %s: nothing was received for %s s", names, self._grace_s)

    def _activities(self) -> list[OutsideActivity]:
        threads = self._new_threads()
        calls = self._calls_awaited() | self._calls if self.real else self._calls
        return [*outside_activities(self._loop, calls, threads, self._loop._thread_id)] if threads or calls else []

    def _new_threads(self) -> list[threading.Thread]:
        """Return the threads that were started since the loop was made."""
        return [thread for thread in threading.enumerate() if thread not in self._threads_before]

    def _calls_awaited(self) -> "dict[Future[Any], ExecutorCall]":
        """Return what tasks await by `asyncio.wrap_future(...)`, of pools that this loop knows nothing of."""
        found: dict[Future[Any], ExecutorCall] = {}
        for task in asyncio.all_tasks(self._loop):
            waiter: Any = getattr(task, "_fut_waiter", None)
            for callback, _ in getattr(waiter, "_callbacks", None) or ():
                if getattr(callback, "__qualname__", "") == _WRAP_FUTURE:
                    found[closure_variable(callback, "source")] = ExecutorCall(
                        f"call to a pool that {task.get_name()} awaits"
                    )
        return found

    # -- executors -------------------------------------------------------------------------------

    def submit(self, executor: Any, func: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Run the function in a real pool and count it until its result has arrived."""
        loop = self._loop
        if executor is None:
            loop._check_default_executor()
            executor = loop._default_executor
            if executor is None:
                executor = loop._default_executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
        source: Future[Any] = executor.submit(func, *args)
        self._calls[source] = ExecutorCall(f"executor call {describe_function(func)}", executor)
        result = asyncio.wrap_future(source, loop=loop)
        # Registered after wrap_future's own callback: the result arrives first.
        source.add_done_callback(self._on_call_done)
        return result

    async def shut_down(self, executor: ThreadPoolExecutor) -> None:
        """End the executor and wait for its threads, unless one is blocked and no longer waited for."""
        if any(call in self._ignored for call in self._calls):
            executor.shutdown(wait=False, cancel_futures=True)
            return
        done: asyncio.Future[None] = self._loop.create_future()

        def work() -> None:
            try:
                executor.shutdown()
            finally:
                self._loop.call_soon_threadsafe(done.set_result, None)
                self._loop.call_soon_threadsafe(self.end)

        thread = threading.Thread(target=work, name="asynctasq simulation")
        self.begin()
        thread.start()
        await asyncio.shield(done)
        thread.join()
