"""What happens outside a simulation loop: functions for executors, and threads that report back."""

# ruff: noqa: SLF001 - the loop is made of asyncio's private parts; a test watches each of them
# pyright: reportPrivateUsage=false

import asyncio
import contextvars
import sys
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from asynctasq.testing._loop_private import Notice

if TYPE_CHECKING:
    from asynctasq.testing.loop import SimulationLoop

__all__ = ["OutsideWork"]

_GLANCE_S: Final = 0.05
_ANYIO: Final = "anyio._backends._asyncio"


class OutsideWork:
    """Counts what is under way in other threads; while there is any, virtual time must stand still."""

    def __init__(self, loop: "SimulationLoop", *, real: bool, grace_s: float) -> None:
        self.real = real
        self.arrived: deque[events.Handle] = deque()
        self._loop = loop
        self._grace_s = grace_s
        self._in_flight = 0
        self._wake_up = threading.Lock()
        self._wake_up.acquire()
        self._threads_before = set(threading.enumerate())

    # -- called by other threads -----------------------------------------------------------------

    def deliver(self, handle: events.Handle) -> None:
        """Hand a callback to the loop's thread."""
        self.arrived.append(handle)
        with suppress(RuntimeError):  # it is awake, or has been woken, already
            self._wake_up.release()

    def _landed(self, _: object = None) -> None:
        if not self._loop.is_closed():
            self.deliver(Notice(self.end, (), self._loop, contextvars.Context()))

    # -- called by the loop ----------------------------------------------------------------------

    def begin(self) -> None:
        """Count one more piece of work that is under way."""
        self._in_flight += 1

    def end(self) -> None:
        """Count one piece of work less."""
        self._in_flight -= 1

    def collect(self) -> None:
        """Make ready what other threads have sent."""
        ready = self._loop._ready
        while self.arrived:
            ready.append((None, self.arrived.popleft(), ()))

    def wait(self) -> bool:
        """If work is under way, wait in real time until something arrives; False if there is none."""
        while not self.arrived:
            if not self._in_flight and not self._waits_elsewhere():
                return bool(self.arrived)
            self._wake_up.acquire(timeout=_GLANCE_S)
        return True

    def wait_in_grace(self) -> bool:
        """Give a thread that was started during the run, and may yet report, some real time; tell whether one did."""
        if any(thread not in self._threads_before for thread in threading.enumerate()):
            # The lock may be open still from what was collected already.
            while not self.arrived and self._wake_up.acquire(timeout=self._grace_s):
                pass
        return bool(self.arrived)

    def _waits_elsewhere(self) -> bool:
        return (_ANYIO in sys.modules and self._anyio_works()) or (self.real and self._awaits_a_pool())

    def _anyio_works(self) -> bool:
        """Tell whether a worker thread of anyio has a function of this loop: it does not ask the loop's executor."""
        for thread in threading.enumerate() if threading.active_count() > 1 else ():
            if type(thread).__module__ == _ANYIO:
                worker: Any = thread
                if worker.loop is self._loop and not worker.stopping and worker not in worker.idle_workers:
                    return True
        return False

    def _awaits_a_pool(self) -> bool:
        """Tell whether a task awaits `asyncio.wrap_future(...)` of a pool that this loop knows nothing of."""
        for task in asyncio.all_tasks(self._loop):
            waiter: Any = getattr(task, "_fut_waiter", None)
            for callback, _ in getattr(waiter, "_callbacks", None) or ():
                if getattr(callback, "__qualname__", "") == "_chain_future.<locals>._call_check_cancel":
                    return True
        return False

    # -- executors -------------------------------------------------------------------------------

    def run_inline(self, func: Callable[..., Any], args: tuple[Any, ...], order: int) -> asyncio.Future[Any]:
        """Schedule the function as a step of its own, which the search may choose early or late."""
        call = InlineCall(self._loop, func, args, order)
        # An empty context, as a pool's thread has.
        self._loop._ready.append((contextvars.Context(), call.run, ()))
        return call.future

    def submit(self, executor: Any, func: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Run the function in a real pool and count it until its result has arrived."""
        loop = self._loop
        if executor is None:
            loop._check_default_executor()
            executor = loop._default_executor
            if executor is None:
                executor = loop._default_executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
        source: Future[Any] = executor.submit(func, *args)
        self.begin()
        result = asyncio.wrap_future(source, loop=loop)
        # Registered after wrap_future's own callback: the result arrives first.
        source.add_done_callback(self._landed)
        return result

    async def in_thread(self, func: Callable[[], object]) -> None:
        """Run a function in a thread of its own and wait for it."""
        done: asyncio.Future[None] = self._loop.create_future()

        def work() -> None:
            try:
                func()
            finally:
                self._loop.call_soon_threadsafe(done.set_result, None)
                self._landed()

        thread = threading.Thread(target=work, name="asynctasq simulation")
        self.begin()
        thread.start()
        await asyncio.shield(done)
        thread.join()


class InlineCall:
    """One function for an executor, run in the loop's thread as if it were in another."""

    __slots__ = ("_args", "_func", "_loop", "future", "order")

    def __init__(self, loop: "SimulationLoop", func: Callable[..., Any], args: tuple[Any, ...], order: int) -> None:
        self._loop = loop
        self._func = func
        self._args = args
        self.order = order
        self.future: asyncio.Future[Any] = loop.create_future()

    def get_name(self) -> str:
        return f"executor call {getattr(self._func, '__qualname__', self._func)}"

    def run(self) -> None:
        if self.future.done():
            return
        result: Any = None
        failure: BaseException | None = None
        # A thread of a pool sees no running loop: code that calls asyncio.run there must work here.
        events._set_running_loop(None)
        try:
            result = self._func(*self._args)
        except KeyboardInterrupt:
            raise
        except StopIteration as error:
            failure = RuntimeError("the function raised StopIteration, which a future cannot hold")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - a pool hands every exception to the caller
            failure = error
        finally:
            events._set_running_loop(self._loop)
        if self.future.done():
            return
        if failure is not None:
            self.future.set_exception(failure)
        else:
            self.future.set_result(result)
