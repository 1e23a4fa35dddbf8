"""Runs the real worker on a store in memory, in virtual time, for as long as it is asked to."""

import asyncio
from collections.abc import Callable, Coroutine
from collections.abc import Set as AbstractSet
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from asynctasq.clock import Clock
from asynctasq.core.queue_order import parse_queues
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Settlements
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.testing.engine.application import application_under_test
from asynctasq.testing.engine.fence import fence_of_this_worker
from asynctasq.testing.engine.giving_up import close_loop, run_to_end
from asynctasq.testing.engine.link import Gate, WorkerLink, link_of_this_worker
from asynctasq.testing.engine.real_loop import load_in_real_loop
from asynctasq.testing.engine.store import FakeStore
from asynctasq.testing.loop import Search, SimulationLoop
from asynctasq.testing.tape import Tape

__all__ = ["Engine", "EngineOptions", "Faulting"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How many workers, and what they are like. `queues` None means all, in order of their first message."""

    workers: int = 1
    concurrency: int = 10
    queues: str | None = None
    search: Search = "fifo"
    real_executors: bool = False
    lease_s: float = 30.0
    shutdown_timeout_s: float = 30.0


class Faulting(Protocol):
    """What makes workers and their calls go wrong."""

    def driver(self, worker: str) -> Driver:
        """Return the store as this worker is to see it."""
        ...

    def clock(self, worker: str) -> Clock:
        """Return the clock as this worker is to see it."""
        ...

    def note(self, worker: str, entry: Entry) -> None:
        """Take what a worker reports into the ledger; may kill the worker, by raising too."""
        ...

    def settled(self, worker: str, settlements: Settlements, lost: AbstractSet[str]) -> None:
        """Take into the ledger what was settled past the worker's driver."""
        ...

    def restart_delay_s(self) -> float:
        """Return how long it takes to replace a worker that has ended."""
        ...

    def stop(self) -> None:
        """Let nothing go wrong any more."""
        ...


class Engine:
    """A loop, a clock, a store, workers and the ledger of what they did.

    Used from outside of its loop, a call runs the loop until it is done; from inside, it waits.
    """

    def __init__(
        self,
        options: EngineOptions,
        *,
        tape: Tape,
        loop: SimulationLoop | None = None,
        faults: "Callable[[Engine], Faulting] | None" = None,
    ) -> None:
        self.options = options
        self.owns_loop = loop is None
        self.loop = loop or SimulationLoop(tape, search=options.search, real_executors=options.real_executors)
        self.tape = self.loop.tape
        self.clock = self.loop.clock
        order = None if options.queues is None else parse_queues(options.queues, self.tape.random("weights"))
        self.store = FakeStore(clock=self.clock, served=None if order is None else frozenset(order.names))
        self.store.on_redriven = partial(self._operator, Kind.REDRIVEN)
        self.store.on_removed = partial(self._operator, Kind.REMOVED)
        self.gate = Gate()
        self.ledger: list[Entry] = []
        self.workers: dict[str, Worker] = {}
        self.links: dict[str, WorkerLink] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.listeners: list[Callable[[Entry], None]] = []
        self.stopping: set[str] = set()
        self._awaited: list[_Awaited] = []
        self._looks = False
        self._context: Context | None = None
        self._workers_made = 0
        self._coming = 0
        self._closing = False
        self.failure: BaseException | None = None
        self._faults = None if faults is None else faults(self)

    def new_id(self) -> str:
        """Return the next message id, a random UUID from the tape, put together without the cost of a UUID object."""
        digits = self.tape.bytes16("message id").hex()
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

    def record(self, entry: Entry) -> None:
        """Add an entry to the ledger and let whoever waits for a change look."""
        self.ledger.append(entry)
        self.stir()
        for listener in self.listeners:
            listener(entry)

    def stir(self) -> None:
        """Let those who wait for a change look, once all that can happen at this instant has happened."""
        if self._awaited and not self._looks:
            self._looks = True
            self.loop.call_at_rest(self._look)

    def _look(self) -> None:
        self._looks = False
        for awaited in self._awaited:
            if self.failure is not None or awaited.condition():
                awaited.finish(True)

    def _operator(self, kind: Kind, message_ids: AbstractSet[str]) -> None:
        """Note what was done to stored messages by hand."""
        now = self.clock.now()
        for message_id in sorted(message_ids):
            self.record(Entry(at=now, kind=kind, message_id=message_id, due_at=now if kind is Kind.REDRIVEN else 0.0))

    def reseed(self, seed: int, search: Search) -> None:
        """Take every choice from now on from another seed. Not while the loop runs."""
        self.tape.reseed(seed)
        self.loop.choose_by(search)

    # -- running ---------------------------------------------------------------------------------

    async def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the engine's loop: as part of it, or nested inside the loop that runs now."""
        self._check_open(what)
        if asyncio.get_running_loop() is self.loop:
            return await what
        return self._run_to_end(what)

    def run_sync(self, what: Coroutine[Any, Any, T]) -> T:
        """Do `run` from code that is not in the engine's loop."""
        if self.loop.is_running():
            what.close()
            raise RuntimeError("this runs inside the simulation's own loop; await the method without _sync instead")
        self._check_open(what)
        return self._run_to_end(what)

    def _run_to_end(self, what: Coroutine[Any, Any, T]) -> T:
        return run_to_end(self.loop, what, ledger=self.ledger, messages=self.store.size)

    def _check_open(self, what: Coroutine[Any, Any, Any]) -> None:
        if self._closing:
            what.close()
            raise RuntimeError(
                "this FakeQueue is closed: nothing runs in it any more, though what it saw can still be asserted; "
                "run tasks inside its `with` block"
            )

    async def until(self, done: Callable[[], bool], *, virtual_s_max: float) -> bool:
        """Let workers run until `done`, asked at the end of each instant with a change; False after `virtual_s_max`."""
        awaited = _Awaited(done, self.loop.create_future())
        timer = self.loop.call_later(virtual_s_max, awaited.finish, False)
        self._awaited.append(awaited)
        self.stir()
        try:
            held = await awaited.end
        finally:
            timer.cancel()
            self._awaited.remove(awaited)
        if self.failure is not None:
            raise self.failure
        return held or done()

    async def until_at_rest(self) -> None:
        """Let everything happen that can happen at this virtual instant."""
        rested = asyncio.Event()
        self.loop.call_at_rest(rested.set)
        await rested.wait()
        if self.failure is not None:
            raise self.failure

    async def until_clock(self, elapsed_s: float) -> None:
        """Let workers run until the clock shows `elapsed_s`, and all that happens at that instant."""
        reached = asyncio.Event()
        timer = self.loop.call_at(elapsed_s, reached.set)
        try:
            await reached.wait()
        finally:
            timer.cancel()
        await self.until_at_rest()

    @property
    def busy(self) -> bool:
        """Whether a living worker runs something or has something to settle."""
        return not all(worker.idle for worker in self.workers.values())

    # -- workers ---------------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start as many workers as the options say, unless they run; call from inside the loop."""
        if self._context is None:
            self._context = copy_context()
        while len(self.workers) + self._coming < self.options.workers:
            self.start_worker()

    def start_worker(self) -> str:
        """Start one worker under a name of its own and return the name."""
        self._workers_made += 1
        name, faults = f"w{self._workers_made}", self._faults
        inner = self.store if faults is None else faults.driver(name)
        link = WorkerLink(self.store, inner, self.gate, all_queues=self.options.queues is None)
        if faults is not None:
            link.on_settled = partial(faults.settled, name)
        runtime = SimulatedRuntime(
            clock=self.clock if faults is None else faults.clock(name),
            rng=self.tape.random("jitter"),
            name=name,
            record=self.record if faults is None else partial(faults.note, name),
            real_executors=self.options.real_executors,
            load_in_another_loop=load_in_real_loop,
        )
        settings = WorkerSettings(
            application=application_under_test(real_executors=self.options.real_executors),
            lease_s=self.options.lease_s,
            shutdown_timeout_s=self.options.shutdown_timeout_s,
            handle_signals=False,
        )
        worker = Worker(
            link,
            self.options.queues or ("default",),
            self.options.concurrency,
            settings=settings,
            runtime=runtime,
        )
        self.workers[name], self.links[name] = worker, link
        context = copy_context() if self._context is None else self._context.copy()
        context.run(link_of_this_worker.set, link)
        context.run(fence_of_this_worker.set, link.fence)
        task = self.tasks[name] = self.loop.create_task(worker.start(), name=f"worker {name}", context=context)
        task.add_done_callback(partial(self._worker_ended, name))
        return name

    def _worker_ended(self, name: str, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if not self.links[name].is_cut:
            self.workers.pop(name, None)
            if isinstance(error, DriverError) and self._faults is not None:
                self.crash(name, "gave up on its backend")
            elif error is not None:
                self.failure = error
            elif self._faults is not None:
                self._replace_later()
        self.stir()

    def crash(self, name: str, why: str) -> None:
        """Kill a worker: nothing of it reaches the store, no code of it runs any more; another one takes its place."""
        link = self.links[name]
        if link.is_cut:
            return
        self.record(Entry(at=self.clock.now(), kind=Kind.CRASHED, worker=name, detail=why))
        self.workers.pop(name, None)
        link.cut()
        self._replace_later()
        self.stir()

    def ask_to_stop(self, name: str, *, immediate: bool = False) -> None:
        """Ask a worker to drain; another one takes its place when it has ended."""
        if name in self.workers:
            self.stopping.add(name)
            self.workers[name].stop(immediate=immediate)

    def _replace_later(self) -> None:
        if not self._closing and self._faults is not None:
            self._coming += 1
            self.loop.call_later(self._faults.restart_delay_s(), self._replace)

    def _replace(self) -> None:
        self._coming -= 1
        if not self._closing:
            self.start_worker()

    def calm_down(self) -> None:
        """Let nothing go wrong any more."""
        if self._faults is not None:
            self._faults.stop()

    async def stop_workers(self) -> None:
        """Stop every worker at once; what runs is handed back."""
        self._closing = True
        self.calm_down()
        for name in list(self.workers):
            self.ask_to_stop(name, immediate=True)
        waiting = [task for task in self.tasks.values() if not task.done()]
        if waiting:
            await asyncio.wait(waiting)
        for link in self.links.values():
            link.fence.bury()

    def close(self, *, failed: BaseException | None = None) -> None:
        """Stop the workers and close the loop, if it is the engine's own; `failed` is why, if something failed."""
        if self.owns_loop and not self.loop.is_closed():
            close_loop(self.loop, self.stop_workers(), failed=failed)


@dataclass(slots=True, eq=False)
class _Awaited:
    """A condition that somebody waits for; `end` gives True once it held at the end of an instant, False too late."""

    condition: Callable[[], bool]
    end: asyncio.Future[bool]

    def finish(self, held: bool) -> None:
        """End the wait; whoever waits may find that others have gone on meanwhile."""
        if not self.end.done():
            self.end.set_result(held)
