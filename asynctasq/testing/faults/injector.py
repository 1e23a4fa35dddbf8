"""Applies a plan's faults to a simulation: at driver calls, at the steps of an attempt, and while user code awaits."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

from asynctasq.clock import Clock
from asynctasq.codec.envelope import decode_envelope
from asynctasq.core.settling import released_until, settlement_detail
from asynctasq.drivers.base import Driver, Settlements
from asynctasq.errors import CodecError
from asynctasq.kernel.envelope import MAX_CRASHES_DEFAULT
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.limits import runs_no_task
from asynctasq.kernel.messages import Lease
from asynctasq.testing.engine import Engine
from asynctasq.testing.engine.process import ProcessCoroutine, WorkerKilled
from asynctasq.testing.engine.store import deferred_to
from asynctasq.testing.faults.faulty_driver import FaultyDriver
from asynctasq.testing.faults.kinds import FaultChoice, Faults, as_list
from asynctasq.testing.faults.plan import FaultPlan, FiredFault

__all__ = ["FaultInjector", "seed_of"]

RESTART_S: Final = (0.5, 0.0, 2.0, 40.0)
SUSPENSIONS: Final = (1.0, 2.0, 3.0, 5.0)
"""After how many awaits of the attempt a fault happens inside it."""
LEASE_SHARES: Final = (0.0, 0.0, 0.1, 0.9, 1.5)
"""How long after that, in leases."""
PAUSE_LEASES: Final = 1.5

RECORDED_BY_STORE: Final = frozenset({Kind.RESERVED, Kind.EXTENDED, Kind.SETTLED})
"""These are recorded when the store does them, whatever the worker learns of them, and when."""


def seed_of(choice: FaultChoice | None) -> int:
    """Return the seed of the faults; 0 if they need none."""
    return next((fault.seed for fault in as_list(choice or []) if isinstance(fault, Faults)), 0)


class FaultInjector:
    """Stands between an engine and its workers and does what the plan decides."""

    def __init__(self, engine: Engine, plan: FaultPlan) -> None:
        self.plan = plan
        self._engine = engine
        self._skews: dict[str, float] = {}
        self._scheduled: dict[tuple[str, str], _ScheduledFault] = {}
        self._task_names: dict[str, str] = {}
        self._at_crash_limit: dict[str, set[str]] = {}

    # -- for the engine --------------------------------------------------------------------------

    def driver(self, worker: str) -> Driver:
        return FaultyDriver(self._engine.store, self.plan, name=worker, host=self)

    def clock(self, worker: str) -> Clock:
        skew_s = self._skews[worker] = self.plan.skew_s(worker)
        if not skew_s:
            return self._engine.clock
        self._record_note(worker, f"clock is wrong by {skew_s:+g} s")
        return self._engine.clock.skewed(skew_s)

    def restart_delay_s(self) -> float:
        return 0.0 if self.plan.stopped else self.plan.draw("restart", RESTART_S)

    def stop(self) -> None:
        self.plan.stop()
        for driver in self._engine.worker_drivers.values():
            driver.process.resume()

    def record_entry(self, worker: str, entry: Entry) -> None:
        if self._engine.worker_drivers[worker].is_killed:
            raise WorkerKilled(f"{worker} is dead")
        skew_s = self._skews[worker]
        if skew_s:
            entry = entry._replace(at=entry.at - skew_s, due_at=entry.due_at and entry.due_at - skew_s)
        match entry.kind:
            case kind if kind in RECORDED_BY_STORE:
                self._engine.waits.notify_change()
            case Kind.STARTED:
                self._task_names[entry.message_id] = entry.detail
                self._step("before_start", entry)
                self._engine.record(entry)
                self._schedule_mid_attempt(entry)
            case Kind.ENDED:
                self._cancel_mid_attempt(entry)
                self._engine.record(entry)
                self._step("before_settle", entry)
            case Kind.HOOK if entry.detail == "failed":
                self._step("in_failed_hook", entry)
                self._engine.record(entry)
            case _:
                self._engine.record(entry)

    # -- for the driver --------------------------------------------------------------------------

    def crash_at_call(self, worker: str, point: str) -> None:
        self._engine.crash(worker, f"at {point}")

    def record_fault(self, worker: str, text: str) -> None:
        self._engine.record(Entry(at=self._engine.clock.now(), kind=Kind.FAULT, worker=worker, detail=text))

    def _record_note(self, worker: str, text: str) -> None:
        self._engine.record(Entry(at=self._engine.clock.now(), kind=Kind.NOTE, worker=worker, detail=text))

    def is_stopping(self, worker: str) -> bool:
        return worker in self._engine.stopping

    def record_settled(self, worker: str, settlements: Settlements, lost: AbstractSet[str]) -> None:
        self.record_effect(worker, settlements, lost, (), 0.0)

    def record_effect(
        self, worker: str, settlements: Settlements, lost: AbstractSet[str], leases: Sequence[Lease], lease_s: float
    ) -> None:
        engine = self._engine
        now = engine.clock.now()
        if deferred_to.get() is not None:  # the commit of the task's own transaction settles, and is recorded then
            settlements = ()
        for lease, end in settlements:
            self._update_exempt(worker, lease, last=False)
            if lease.message_id not in lost:
                due_at = released_until(end, now)
                engine.record(_entry(Kind.SETTLED, now, worker, lease, due_at=due_at, detail=settlement_detail(end)))
        for lease in leases:
            if lease.crashes and not self.plan.gives_up and not runs_no_task(lease.message_id):
                self._update_exempt(worker, lease, last=lease.crashes + 1 >= _max_crashes(lease))
            engine.record(_entry(Kind.RESERVED, now, worker, lease, due_at=now + lease_s))

    def _update_exempt(self, worker: str, lease: Lease, *, last: bool) -> None:
        """Exempt a worker from random faults while it holds a message that one more crash would make a dead letter."""
        if last:
            self._at_crash_limit.setdefault(worker, set()).add(lease.message_id)
            self.plan.exempt.add(worker)
        elif (message_ids := self._at_crash_limit.get(worker)) is not None:
            message_ids.discard(lease.message_id)
            if not message_ids:
                del self._at_crash_limit[worker]
                self.plan.exempt.discard(worker)

    def record_extended(self, worker: str, leases: Sequence[Lease], lost: AbstractSet[str], lease_s: float) -> None:
        now = self._engine.clock.now()
        for lease in leases:
            if lease.message_id not in lost:
                self._engine.record(_entry(Kind.EXTENDED, now, worker, lease, due_at=now + lease_s))

    # -- in attempts -----------------------------------------------------------------------------

    def _step(self, step: str, entry: Entry) -> None:
        task = self._task_names.get(entry.message_id, "")
        fault = self.plan.at_step(entry.worker, step, task=task, attempt=entry.attempt)
        if fault is not None:
            self._apply(fault, entry, step)
            if fault.kind == "crash":
                raise WorkerKilled(f"{entry.worker} died {step}")

    def _schedule_mid_attempt(self, entry: Entry) -> None:
        """Choose whether, and when, a fault happens while this attempt's code awaits."""
        fault = self.plan.at_step(entry.worker, "mid_attempt", task=entry.detail, attempt=entry.attempt)
        if fault is None:
            return
        task = asyncio.current_task()
        coroutine = None if task is None else task.get_coro()
        assert isinstance(coroutine, ProcessCoroutine), "every task of a worker belongs to its process"
        directed = fault.directed
        after = 1 if directed else int(self.plan.draw(f"{entry.worker} awaits", SUSPENSIONS))
        later_s = 0.0 if directed else self.plan.draw(f"{entry.worker} later", LEASE_SHARES) * self._lease_s
        scheduled = _ScheduledFault(coroutine, fault, after, later_s, partial(self._apply, fault, entry, "mid_attempt"))
        self._scheduled[entry.message_id, entry.token] = scheduled

    def _cancel_mid_attempt(self, entry: Entry) -> None:
        scheduled = self._scheduled.pop((entry.message_id, entry.token), None)
        if scheduled is not None and not scheduled.cancel():
            self.plan.unfire(scheduled.fault)

    def _apply(self, fault: FiredFault, entry: Entry, point: str) -> None:
        engine, worker = self._engine, entry.worker
        if engine.worker_drivers[worker].is_killed:
            return
        if worker in self.plan.exempt and fault.directed is None:
            self.plan.unfire(fault)
            return
        match fault.kind:
            case "crash":
                engine.crash(worker, f"at {point} of {entry.message_id[:8]} attempt {entry.attempt}")
            case "duplicate":
                if engine.store.deliver_twice(entry.message_id):
                    engine.record(entry._replace(at=engine.clock.now(), kind=Kind.FAULT, detail="delivered twice"))
            case "lease_expiry":
                seconds = fault.seconds or PAUSE_LEASES * self._lease_s
                self.record_fault(worker, f"is paused for {seconds:g} s at {point}")
                engine.worker_drivers[worker].process.pause()
                engine.loop.call_later(seconds, engine.worker_drivers[worker].process.resume)
            case "stop":
                if fault.immediate or worker in engine.stopping:
                    self.record_fault(worker, "is asked to stop at once")
                else:
                    self._record_note(worker, "is asked to stop")
                engine.request_stop(worker, immediate=fault.immediate)
            case _:
                raise AssertionError(f"{fault.kind} can't happen in an attempt")

    @property
    def _lease_s(self) -> float:
        return self._engine.options.lease_s


class _ScheduledFault:
    """Applies a fault once: after so many awaits of an attempt and so many seconds, unless the attempt ends before."""

    def __init__(
        self, coroutine: ProcessCoroutine, fault: FiredFault, awaits: int, later_s: float, apply: Callable[[], None]
    ) -> None:
        self.fault = fault
        self._coroutine = coroutine
        self._awaits = awaits
        self._later_s = later_s
        self._apply = apply
        self._is_applied = False
        self._timer: asyncio.TimerHandle | None = None
        coroutine.on_suspended = self._count

    def cancel(self) -> bool:
        """Cancel it; return whether it was applied already."""
        self._coroutine.on_suspended = None
        if self._timer is not None:
            self._timer.cancel()
        return self._is_applied

    def _count(self) -> None:
        self._awaits -= 1
        if self._awaits <= 0:
            self._coroutine.on_suspended = None
            self._timer = asyncio.get_running_loop().call_later(self._later_s, self._fire)

    def _fire(self) -> None:
        self._is_applied = True
        self._apply()


def _max_crashes(lease: Lease) -> int:
    try:
        return decode_envelope(lease.body).max_crashes
    except CodecError:
        return MAX_CRASHES_DEFAULT


def _entry(kind: Kind, at: float, worker: str, lease: Lease, *, due_at: float, detail: str = "") -> Entry:
    return Entry(at, kind, lease.message_id, worker, lease.attempt, lease.token, detail, due_at)
