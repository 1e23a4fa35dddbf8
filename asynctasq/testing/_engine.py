"""Runs the real worker on a store in memory, in virtual time, for as long as it is asked to."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from asynctasq.core.queues import parse_queues
from asynctasq.core.surroundings import SimulatedSurroundings, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.kernel.ledger import Entry
from asynctasq.tasks.registry import Application
from asynctasq.testing._link import Gate, WorkerLink, link_of_this_worker
from asynctasq.testing._store import FakeStore
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.search import Search
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
    """What injects faults between a worker and the store, and may stop it at a ledger entry."""

    def driver(self, engine: "Engine", worker: str, store: FakeStore) -> Driver:
        """Return the store as this worker is to see it."""
        ...

    def at(self, engine: "Engine", entry: Entry) -> None:
        """Look at what just happened; may crash the worker it happened to by raising."""
        ...


class Engine:
    """A loop, a clock, a store, workers and the ledger of what they did.

    Used from outside of its loop, a call runs the loop until it is done; from inside, it waits.
    """

    def __init__(
        self, options: EngineOptions, *, tape: Tape, loop: SimulationLoop | None = None, faults: Faulting | None = None
    ) -> None:
        self.options = options
        self.owns_loop = loop is None
        self.loop = loop or SimulationLoop(tape, search=options.search, real_executors=options.real_executors)
        self.tape = self.loop.tape
        self.clock = self.loop.clock
        order = None if options.queues is None else parse_queues(options.queues, self.tape.random("weights"))
        self.store = FakeStore(clock=self.clock, served=None if order is None else frozenset(order.names))
        self.gate = Gate()
        self.ledger: list[Entry] = []
        self.workers: dict[str, Worker] = {}
        self.links: dict[str, WorkerLink] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.listeners: list[Callable[[Entry], None]] = []
        self._faults = faults
        self._changed = asyncio.Event()
        self._workers_made = 0
        self._failure: BaseException | None = None

    def new_id(self) -> str:
        """Return the next message id, from the tape."""
        return str(UUID(bytes=self.tape.bytes16("message id"), version=4))

    def record(self, entry: Entry) -> None:
        """Add an entry to the ledger and let whoever waits for a change look."""
        self.ledger.append(entry)
        self._changed.set()
        for listener in self.listeners:
            listener(entry)
        if self._faults is not None:
            self._faults.at(self, entry)

    # -- running ---------------------------------------------------------------------------------

    async def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the engine's loop: as part of it, or nested inside the loop that runs now."""
        if asyncio.get_running_loop() is self.loop:
            return await what
        return self.loop.run_until_complete(what)

    def run_sync(self, what: Coroutine[Any, Any, T]) -> T:
        """Do `run` from code that is not in the engine's loop."""
        if self.loop.is_running():
            what.close()
            raise RuntimeError("this runs inside the simulation's own loop; await the method without _sync instead")
        return self.loop.run_until_complete(what)

    async def until(self, done: Callable[[], bool], *, virtual_s_max: float) -> bool:
        """Let workers run until `done`, looked at after every change; False if `virtual_s_max` passed before."""
        with _Deadline(self.loop, virtual_s_max, self._changed) as deadline:
            while not done():
                if self._failure is not None:
                    raise self._failure
                if deadline.passed:
                    return False
                self._changed.clear()
                await self._changed.wait()
        return True

    async def until_at_rest(self) -> None:
        """Let everything happen that can happen at this virtual instant."""
        rested = asyncio.Event()
        self.loop.call_at_rest(rested.set)
        await rested.wait()
        if self._failure is not None:
            raise self._failure

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
        return any(not worker.idle for worker in self.workers.values())

    # -- workers ---------------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start as many workers as the options say, unless they run; call from inside the loop."""
        while len(self.workers) < self.options.workers:
            self.start_worker()

    def start_worker(self) -> str:
        """Start one worker under a name of its own and return the name."""
        self._workers_made += 1
        name = f"w{self._workers_made}"
        inner = self.store if self._faults is None else self._faults.driver(self, name, self.store)
        link = WorkerLink(self.store, inner, self.gate, all_queues=self.options.queues is None)
        surroundings = SimulatedSurroundings(
            clock=self.clock,
            rng=self.tape.random("jitter"),
            name=name,
            record=self.record,
            real_executors=self.options.real_executors,
        )
        settings = WorkerSettings(
            application=Application(),
            lease_s=self.options.lease_s,
            shutdown_timeout_s=self.options.shutdown_timeout_s,
            handle_signals=False,
        )
        worker = Worker(
            link,
            self.options.queues or ("default",),
            self.options.concurrency,
            settings=settings,
            surroundings=surroundings,
        )
        self.workers[name], self.links[name] = worker, link
        context = copy_context()
        context.run(link_of_this_worker.set, link)
        task = self.tasks[name] = self.loop.create_task(worker.start(), name=f"worker {name}", context=context)
        task.add_done_callback(partial(self._worker_ended, name))
        return name

    def _worker_ended(self, name: str, task: "asyncio.Task[None]") -> None:
        link = self.links[name]
        self.workers.pop(name, None)
        if not link.is_cut and not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        self._changed.set()

    async def stop_workers(self) -> None:
        """Stop every worker at once; what runs is handed back."""
        for worker in list(self.workers.values()):
            worker.stop(immediate=True)
        waiting = [task for task in self.tasks.values() if not task.done()]
        if waiting:
            await asyncio.wait(waiting)

    def close(self) -> None:
        """Stop the workers and close the loop, if it is the engine's own."""
        if self.owns_loop and not self.loop.is_closed():
            self.loop.run(self.stop_workers())


class _Deadline:
    """Sets `passed`, and wakes whoever waits, when too much virtual time has gone by."""

    def __init__(self, loop: SimulationLoop, after_s: float, event: asyncio.Event) -> None:
        self.passed = False
        self._event = event
        self._timer = loop.call_later(after_s, self._pass)

    def _pass(self) -> None:
        self.passed = True
        self._event.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
