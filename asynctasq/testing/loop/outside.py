"""What happens outside a simulation loop: functions for executors, and threads that report back."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import contextvars
import logging
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from asynctasq.testing.loop.asyncio_internals import THREADS, BaseLoop, Notice
from asynctasq.testing.loop.threads import Call, Outsider, Standing, closed_over, describe_function, outsiders

__all__ = ["OutsideWork"]

logger = logging.getLogger(__name__)

_GLANCES_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_CHAINED: Final = "_chain_future.<locals>._call_check_cancel"
_BLOCKED: Final = (Standing.ASKS, Standing.PARKED)


class OutsideWork:
    """Knows what is under way in other threads; while there is any, virtual time must stand still.

    What surely works for the program holds time for as long as it takes: executor calls, and work that
    was declared. What may work for it holds time until nothing has arrived for `grace_s` of real time:
    a thread that the program started, an executor call that waits for a thread other than the loop's.
    What waits for this loop holds nothing.
    """

    def __init__(self, loop: BaseLoop, *, real: bool, grace_s: float) -> None:
        self.real = real
        self.arrived: deque[events.Handle] = deque()
        self._loop = loop
        self._grace_s = grace_s
        self._declared = 0
        self._calls: dict[Future[Any], Call] = {}
        self._given_up: frozenset[object] = frozenset()
        self._wake_up = threading.Lock()
        self._wake_up.acquire()
        self._threads_before = frozenset(THREADS.values())

    # -- called by other threads -----------------------------------------------------------------

    def deliver(self, handle: events.Handle) -> None:
        """Hand a callback to the loop's thread."""
        self.arrived.append(handle)
        with suppress(RuntimeError):  # it is awake, or has been woken, already
            self._wake_up.release()

    def _landed(self, call: "Future[Any]") -> None:
        if not self._loop.is_closed():
            self.deliver(Notice(self._calls.pop, (call, None), self._loop, contextvars.Context()))

    # -- called by the loop ----------------------------------------------------------------------

    def begin(self) -> None:
        """Count one more piece of work that is under way."""
        self._declared += 1

    def end(self) -> None:
        """Count one piece of work less."""
        self._declared -= 1

    def collect(self) -> None:
        """Make ready what other threads have sent."""
        ready = self._loop._ready
        while self.arrived:
            ready.append((None, self.arrived.popleft(), ()))

    def wait(self) -> bool:
        """If something is or may be at work, wait in real time until something arrives; False if nothing is."""
        if not (self._declared or self._calls or self.real) and self._threads_before.issuperset(THREADS.values()):
            return bool(self.arrived)
        silent_s, glances, glance_s = 0.0, iter(_GLANCES_S), 0.0
        while not self.arrived:
            sure, perhaps = self._at_work()
            if sure:
                silent_s = 0.0
            elif not perhaps:
                return bool(self.arrived)
            elif silent_s >= self._grace_s:
                self._give_up(perhaps)
                continue
            # Counted, not measured: the program may have frozen the clock.
            glance_s = next(glances, glance_s)
            if not self._wake_up.acquire(timeout=glance_s):
                silent_s += glance_s
        return True

    def wait_in_grace(self) -> bool:
        """Give a thread that was started during the run, and may yet report, some real time; tell whether one did."""
        if self._new_threads():
            # The lock may be open still from what was collected already.
            while not self.arrived and self._wake_up.acquire(timeout=self._grace_s):
                pass
        return bool(self.arrived)

    def describe(self) -> list[str]:
        """Say who is alive outside, and what each is doing."""
        found = [one for one in self._outsiders() if one.standing is not Standing.IDLE]
        return [f"{one.name} {one.standing.value}" for one in found]

    # -- who is at work --------------------------------------------------------------------------

    def _at_work(self) -> tuple[bool, list[Outsider]]:
        """Tell whether something surely works, and else what may."""
        if self._declared:
            return True, []
        found = self._outsiders()
        firm = [one.standing for one in found if one.firm]
        # Behind one that is blocked a call may wait for ever; otherwise its turn comes.
        if Standing.WORKS in firm or (Standing.QUEUED in firm and not any(each in firm for each in _BLOCKED)):
            return True, []
        held = {True: (Standing.PARKED, Standing.QUEUED), False: (Standing.WORKS,)}
        return False, [one for one in found if one.standing in held[one.firm] and one.who not in self._given_up]

    def _give_up(self, silent: list[Outsider]) -> None:
        self._given_up |= {one.who for one in silent}
        names = ", ".join(f"{one.name}, which {one.standing.value}" for one in silent)
        logger.warning("virtual time goes on without %s: nothing was heard for %s s", names, self._grace_s)

    def _outsiders(self) -> list[Outsider]:
        threads = self._new_threads()
        calls = self._calls_awaited() | self._calls if self.real else self._calls
        return [*outsiders(self._loop, calls, threads, self._loop._thread_id)] if threads or calls else []

    def _new_threads(self) -> list[threading.Thread]:
        """Return the threads that were started since the loop was made."""
        return [thread for thread in threading.enumerate() if thread not in self._threads_before]

    def _calls_awaited(self) -> "dict[Future[Any], Call]":
        """Return what tasks await by `asyncio.wrap_future(...)`, of pools that this loop knows nothing of."""
        found: dict[Future[Any], Call] = {}
        for task in asyncio.all_tasks(self._loop):
            waiter: Any = getattr(task, "_fut_waiter", None)
            for callback, _ in getattr(waiter, "_callbacks", None) or ():
                if getattr(callback, "__qualname__", "") == _CHAINED:
                    found[closed_over(callback, "source")] = Call(f"call to a pool that {task.get_name()} awaits")
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
        self._calls[source] = Call(f"executor call {describe_function(func)}", executor)
        result = asyncio.wrap_future(source, loop=loop)
        # Registered after wrap_future's own callback: the result arrives first.
        source.add_done_callback(self._landed)
        return result

    async def shut_down(self, executor: ThreadPoolExecutor) -> None:
        """End the executor and wait for its threads, unless one is blocked and was given up."""
        if any(call in self._given_up for call in self._calls):
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
