"""Runs the real worker on a store in memory, in virtual time, for as long as it is asked to."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

from asynctasq.core.queue_order import parse_queues
from asynctasq.core.runtime import SharedLoopRuntime, SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import random_id
from asynctasq.tasks.application import Application
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.engine.bounded_run import PROGRESS, close_loop, run_to_end
from asynctasq.testing.engine.options import EngineOptions, FaultHooks
from asynctasq.testing.engine.process import WorkerKilled, current_process, install_task_factory
from asynctasq.testing.engine.real_loop import load_in_real_loop
from asynctasq.testing.engine.refusals import error_of_test, refusal_in
from asynctasq.testing.engine.store import FakeStore, current_holder
from asynctasq.testing.engine.waits import Waits
from asynctasq.testing.engine.worker_driver import ReserveGate, WorkerDriver, current_worker_driver
from asynctasq.testing.errors import SimulationError
from asynctasq.testing.loop import Limits, Search, SharedLoop, SimulationLoop, asyncio_loop_for
from asynctasq.testing.tape import Tape
from asynctasq.testing.transactions import Transactions

__all__ = ["Engine"]

T = TypeVar("T")

END_TIMEOUT_S = 60.0
"""Virtual seconds in which a stopped worker hands back: longer than any latency, so that only an outage ends it."""


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
        faults: "Callable[[Engine], FaultHooks] | None" = None,
    ) -> None:
        self.options = options
        self.owns_loop = loop is None
        self._loop: SimulationLoop | SharedLoop | None = loop
        self.tape = tape if loop is None else loop.tape
        self.clock = VirtualClock(options.start) if loop is None else loop.clock
        order = None if options.queues is None else parse_queues(options.queues, self.tape.random("weights"))
        self.store = FakeStore(clock=self.clock, served=None if order is None else frozenset(order.names))
        self.store.has_own_messages = options.schedules != ()
        self.store.on_redriven = partial(self._record_operator_action, Kind.REDRIVEN)
        self.store.on_removed = partial(self._record_operator_action, Kind.REMOVED)
        self.store.on_cancelled = self._record_cancelled
        self.transactions = Transactions()
        self.store.on_look = self.transactions.refresh
        self.stands_for: Callable[[], Driver | None] = _no_driver
        """Returns the driver whose transactions workers claim and check; None stands for any."""
        self.gate = ReserveGate()
        self.ledger: list[Entry] = []
        self.workers: dict[str, Worker] = {}
        self.worker_drivers: dict[str, WorkerDriver] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.listeners: list[Callable[[Entry], None]] = []
        self.stopping: set[str] = set()
        self.waits = Waits(lambda: self.loop)
        self._refused: set[str] = set()
        self.performing = False
        self._context: Context | None = None
        self._workers_made = 0
        self._replacements_due = 0
        self._closing = False
        self._faults = None if faults is None else faults(self)
        if loop is not None:
            self._prepare(loop)

    @property
    def loop(self) -> SimulationLoop | SharedLoop:
        """The loop that workers run in: one of its own, unless code on an ordinary loop was first to run something."""
        if self._loop is None:
            options = self.options
            self._loop = loop = SimulationLoop(
                self.tape,
                clock=self.clock,
                search=options.search,
                real_executors=options.real_executors,
                limits=Limits(real_s_max=options.real_s_max),
                real_io=True,
            )
            loop.may_wait_outside = self._may_wait_outside
            self._prepare(loop)
        return self._loop

    def _prepare(self, loop: SimulationLoop | SharedLoop) -> None:
        if isinstance(loop, SimulationLoop):
            loop.on_refusal = self._on_refusal
        if self._faults is not None:
            install_task_factory(loop)

    @property
    def limits(self) -> Limits:
        """When a run of the simulation's loop is given up."""
        assert isinstance(self.loop, SimulationLoop), "another loop has no limits"
        return self.loop.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        assert isinstance(self.loop, SimulationLoop), "another loop has no limits"
        self.loop.limits = limits

    def _share(self, running: asyncio.AbstractEventLoop) -> SharedLoop:
        """Return the loop that runs now as one for this queue's workers."""
        shared = self._loop
        if shared is None or (isinstance(shared, SharedLoop) and shared.is_closed()):
            self.options.check_needs_no_simulation()
            self._loop = shared = SharedLoop(self.tape, clock=self.clock, real_s_max=self.options.real_s_max)
            shared.on_stuck = self.waits.fail
            self._prepare(shared)
        if not isinstance(shared, SharedLoop) or shared.loop is not running:
            raise RuntimeError(
                "this FakeQueue has run tasks on another event loop; use one FakeQueue on one loop "
                "(with pytest-asyncio, a fixture and its tests share a loop by loop_scope)"
            )
        return shared

    def new_id(self) -> str:
        """Return the next message id, a random UUID from the tape."""
        return random_id(self.tape.bytes16("message id"))

    def record(self, entry: Entry) -> None:
        """Add an entry to the ledger and notify those who wait for a change."""
        if entry.kind is Kind.ENDED and entry.error is not None and self.options.on_refusal == "fail_test":
            foreign = refusal_in(entry.error)
            if foreign is not None:
                self._refuse(foreign, entry.worker)
        if entry.worker in self._refused:
            raise WorkerKilled(f"{entry.worker} was stopped: what its task asked for was refused")
        self.ledger.append(entry)
        if isinstance(self._loop, SharedLoop) and entry.kind in PROGRESS:
            self._loop.progress += 1
        self.waits.notify_change()
        for listener in self.listeners:
            listener(entry)

    def _record_operator_action(self, kind: Kind, message_ids: AbstractSet[str]) -> None:
        """Record what an operator did to stored messages."""
        now = self.clock.now()
        for message_id in sorted(message_ids):
            self.record(Entry(at=now, kind=kind, message_id=message_id, due_at=now if kind is Kind.REDRIVEN else 0.0))

    def _record_cancelled(self, tokens: Mapping[str, str]) -> None:
        """Record which messages were cancelled, and under which leases."""
        now = self.clock.now()
        for message_id, token in tokens.items():
            self.record(Entry(at=now, kind=Kind.REMOVED, message_id=message_id, token=token, detail="cancelled"))

    def reseed(self, seed: int, search: Search) -> None:
        """Take every choice from now on from another seed. Not while the loop runs."""
        assert isinstance(self.loop, SimulationLoop), "on another loop nothing is chosen"
        self.tape.reseed(seed)
        self.loop.choose_by(search)

    # -- running ---------------------------------------------------------------------------------

    async def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the engine's loop: as part of it, or nested inside the loop that runs now."""
        self._check_open(what)
        running = asyncio_loop_for(what)
        if running is self._loop:
            return await what
        try:
            loop = self._share(running)
        except (RuntimeError, ValueError):
            what.close()
            raise
        with loop.running():
            try:
                return await what
            except asyncio.CancelledError:  # the test's: what runs for it ends with it
                await self.end_workers()
                raise

    def run_sync(self, what: Coroutine[Any, Any, T]) -> T:
        """Do `run` from code that is not in the engine's loop."""
        self._check_open(what)
        if isinstance(self._loop, SharedLoop) or self.loop.is_running():
            what.close()
            raise RuntimeError("this runs inside the FakeQueue's own loop; await the method without _sync instead")
        return self._run_to_end(what)

    def _run_to_end(self, what: Coroutine[Any, Any, T]) -> T:
        assert isinstance(self.loop, SimulationLoop), "another loop runs already"
        return run_to_end(self.loop, what, ledger=self.ledger, messages=self.store.size)

    def _check_open(self, what: Coroutine[Any, Any, Any]) -> None:
        if self._closing:
            what.close()
            raise RuntimeError(
                "this FakeQueue is closed: nothing runs in it any more, though its records can still be asserted; "
                "run tasks inside its `with` block"
            )

    async def perform(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine as a task of this engine's loop, where virtual time stands still while it works."""
        self.performing = True
        try:
            result: T = await self.loop.create_task(make(), name="perform")
        finally:
            self.performing = False
        self.waits.raise_failure()
        return result

    def _on_refusal(self, error: SimulationError) -> None:
        """Let the test fail by what its loop refuses to a task; code of the test itself just gets the error."""
        driver = current_worker_driver.get()
        if self.options.on_refusal == "raise_in_task" or (driver is None and not self.performing):
            return
        self._refuse(error_of_test(error), "" if driver is None else driver.worker)

    def _refuse(self, error: SimulationError, worker: str) -> None:
        """End a worker whose task was refused something: that is no attempt, no hook is asked, nothing is settled."""
        if self.workers.pop(worker, None) is not None:
            self._refused.add(worker)
            self.loop.call_at_instant_end(self.tasks[worker].cancel)
        self.waits.fail(error)

    def _may_wait_outside(self) -> bool:
        return self.performing or self.busy

    @property
    def busy(self) -> bool:
        """Whether a living worker runs something or has something to settle."""
        return not all(worker.idle for worker in self.workers.values())

    # -- workers ---------------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start as many workers as the options say, unless they run; call from inside the loop."""
        if self._context is None:
            self._context = copy_context()
        while len(self.workers) + self._replacements_due < self.options.workers:
            self.start_worker()

    def start_worker(self) -> str:
        """Start one worker under a name of its own and return the name."""
        self._workers_made += 1
        name, faults = f"w{self._workers_made}", self._faults
        context = copy_context() if self._context is None else self._context.copy()
        inner = self.store if faults is None else faults.driver(name)
        driver = WorkerDriver(
            self.store,
            inner,
            self.gate,
            self.transactions,
            worker=name,
            all_queues=self.options.queues is None,
            stands_for=self.stands_for(),
        )
        if faults is not None:
            driver.on_settled = partial(faults.record_settled, name)
        shared = isinstance(self.loop, SharedLoop)
        runtime = (SharedLoopRuntime if shared else SimulatedRuntime)(
            clock=self.clock if faults is None else faults.clock(name),
            rng=self.tape.random("jitter"),
            name=name,
            record=self.record if faults is None else partial(faults.record_entry, name),
            real_executors=self.options.real_executors,
            load_in_another_loop=None if shared else load_in_real_loop,
        )
        settings = WorkerSettings(
            application=Application(),
            lease_s=self.options.lease_s,
            shutdown_timeout_s=self.options.shutdown_timeout_s,
            end_timeout_s=END_TIMEOUT_S,
            handle_signals=False,
            fetch_values=True,
            schedules=self.options.schedules,
            schedule_check_s=self.options.schedule_check_s,
            pause_check_s=math.inf,  # its store has no operator
            middleware=self.options.surroundings.middleware(),
            lifespans=context.run(self.options.surroundings.lifespans),
        )
        worker = Worker(
            driver,
            self.options.queues or ("default",),
            self.options.concurrency,
            settings=settings,
            runtime=runtime,
        )
        self.workers[name], self.worker_drivers[name] = worker, driver
        context.run(current_worker_driver.set, driver)
        context.run(current_process.set, driver.process)
        context.run(current_holder.set, name)
        task = self.tasks[name] = self.loop.create_task(worker.start(), name=f"worker {name}", context=context)
        task.add_done_callback(partial(self._worker_ended, name))
        return name

    def _worker_ended(self, name: str, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if not self.worker_drivers[name].is_killed:
            self.workers.pop(name, None)
            if isinstance(error, DriverError) and self._faults is not None:
                self.crash(name, "gave up on its backend")
            elif error is not None:
                self.waits.failure = error
            elif self._faults is not None:
                self._replace_later()
        self.waits.notify_change()

    def crash(self, name: str, why: str) -> None:
        """Kill a worker: nothing of it reaches the store, no code of it runs any more; another one takes its place."""
        driver = self.worker_drivers[name]
        if driver.is_killed:
            return
        self.record(Entry(at=self.clock.now(), kind=Kind.CRASHED, worker=name, detail=why))
        self.workers.pop(name, None)
        driver.kill()
        self._replace_later()
        self.waits.notify_change()

    def request_stop(self, name: str, *, immediate: bool = False) -> None:
        """Request a worker to drain; another one takes its place when it has ended."""
        if name in self.workers:
            self.stopping.add(name)
            self.workers[name].stop(immediate=immediate)

    def _replace_later(self) -> None:
        if not self._closing and self._faults is not None:
            self._replacements_due += 1
            self.loop.call_later(self._faults.restart_delay_s(), self._replace)

    def _replace(self) -> None:
        self._replacements_due -= 1
        if not self._closing:
            self.start_worker()

    def stop_faults(self) -> None:
        """Let no fault happen any more."""
        if self._faults is not None:
            self._faults.stop()

    async def stop_workers(self) -> None:
        """Stop every worker at once and for good; what runs is handed back."""
        self._closing = True
        self.stop_faults()
        await self.end_workers()
        for driver in self.worker_drivers.values():
            driver.process.close_suspended()

    async def end_workers(self) -> None:
        """Stop every worker at once; what runs is handed back."""
        for name in list(self.workers):
            self.request_stop(name, immediate=True)
        waiting = [task for task in self.tasks.values() if not task.done()]
        if waiting:
            await asyncio.wait(waiting)

    def close(self, *, failed: BaseException | None = None) -> None:
        """Stop the workers and close the loop, if it is the engine's own; `failed` is why, if something failed."""
        self.transactions.close()
        loop = self._loop
        if isinstance(loop, SharedLoop):
            self._closing = True
            loop.abandon()
        elif self.owns_loop and loop is not None and not loop.is_closed():
            close_loop(loop, self.stop_workers(), failed=failed)
        self._closing = True

    async def leave(self) -> None:
        """Stop the workers, and leave the loop to those it belongs to."""
        self.transactions.close()
        loop = self._loop
        if not isinstance(loop, SharedLoop):
            await self.stop_workers()
            return
        with loop.running():
            await self.stop_workers()
        await loop.close()


def _no_driver() -> Driver | None:
    return None
