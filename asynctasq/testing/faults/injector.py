"""Lets a plan's faults strike a simulation: at driver calls, at the steps of an attempt, and while user code awaits."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

from asynctasq.clock import Clock
from asynctasq.codec.envelope import decode_envelope
from asynctasq.core.worker import settlement_detail
from asynctasq.drivers.base import Driver, Settlements
from asynctasq.errors import CodecError
from asynctasq.kernel.envelope import MAX_CRASHES_DEFAULT
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease, Release
from asynctasq.testing.engine import Engine
from asynctasq.testing.engine.fence import Fenced, Killed, fence_tasks
from asynctasq.testing.faults.faulty_driver import FaultyDriver
from asynctasq.testing.faults.kinds import FaultChoice, Faults, as_list
from asynctasq.testing.faults.plan import FaultPlan, Strike

__all__ = ["Injector", "seed_of"]

RESTART_S: Final = (0.5, 0.0, 2.0, 40.0)
SUSPENSIONS: Final = (1.0, 2.0, 3.0, 5.0)
"""After how many awaits of the attempt a fault strikes in the midst of it."""
LEASE_SHARES: Final = (0.0, 0.0, 0.1, 0.9, 1.5)
"""How long after that, in leases."""
STANDSTILL_LEASES: Final = 1.5

SEEN_BY_THE_STORE: Final = frozenset({Kind.RESERVED, Kind.EXTENDED, Kind.SETTLED})
"""These are noted when they take effect; what a worker hears of them, and when, is another matter."""


def seed_of(choice: FaultChoice | None) -> int:
    """Return the seed that the faults bring with them; 0 if they need none."""
    return next((fault.seed for fault in as_list(choice or []) if isinstance(fault, Faults)), 0)


class Injector:
    """Between an engine and its workers: decides nothing, does what the plan decides."""

    def __init__(self, engine: Engine, plan: FaultPlan) -> None:
        self.plan = plan
        self._engine = engine
        self._skews: dict[str, float] = {}
        self._alarms: dict[tuple[str, str], _Alarm] = {}
        self._task_names: dict[str, str] = {}
        self._last_lives: dict[str, set[str]] = {}
        fence_tasks(engine.loop)

    # -- for the engine --------------------------------------------------------------------------

    def driver(self, worker: str) -> Driver:
        return FaultyDriver(self._engine.store, self.plan, name=worker, host=self)

    def clock(self, worker: str) -> Clock:
        skew_s = self._skews[worker] = self.plan.skew_s(worker)
        if not skew_s:
            return self._engine.clock
        self._tell(worker, f"clock is wrong by {skew_s:+g} s")
        return self._engine.clock.skewed(skew_s)

    def restart_delay_s(self) -> float:
        return 0.0 if self.plan.stopped else self.plan.draw("restart", RESTART_S)

    def stop(self) -> None:
        self.plan.stop()
        for link in self._engine.links.values():
            link.fence.resume()

    def note(self, worker: str, entry: Entry) -> None:
        if self._engine.links[worker].is_cut:
            raise Killed(f"{worker} is dead")
        skew_s = self._skews[worker]
        if skew_s:
            entry = entry._replace(at=entry.at - skew_s, due_at=entry.due_at and entry.due_at - skew_s)
        match entry.kind:
            case kind if kind in SEEN_BY_THE_STORE:
                self._engine.stir()
            case Kind.STARTED:
                self._task_names[entry.message_id] = entry.detail
                self._step("before_start", entry)
                self._engine.record(entry)
                self._arm(entry)
            case Kind.ENDED:
                self._disarm(entry)
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

    def struck(self, worker: str, text: str) -> None:
        self._engine.record(Entry(at=self._engine.clock.now(), kind=Kind.FAULT, worker=worker, detail=text))

    def _tell(self, worker: str, text: str) -> None:
        self._engine.record(Entry(at=self._engine.clock.now(), kind=Kind.NOTE, worker=worker, detail=text))

    def is_stopping(self, worker: str) -> bool:
        return worker in self._engine.stopping

    def settled(self, worker: str, settlements: Settlements, lost: AbstractSet[str]) -> None:
        self.took_effect(worker, settlements, lost, (), 0.0)

    def took_effect(
        self, worker: str, settlements: Settlements, lost: AbstractSet[str], leases: Sequence[Lease], lease_s: float
    ) -> None:
        engine = self._engine
        now = engine.clock.now()
        for lease, end in settlements:
            self._spare(worker, lease, last=False)
            if lease.message_id not in lost:
                due_at = now + end.delay_s if isinstance(end, Release) else 0.0
                engine.record(_entry(Kind.SETTLED, now, worker, lease, due_at=due_at, detail=settlement_detail(end)))
        for lease in leases:
            if lease.crashes and not self.plan.gives_up:
                self._spare(worker, lease, last=lease.crashes + 1 >= _max_crashes(lease))
            engine.record(_entry(Kind.RESERVED, now, worker, lease, due_at=now + lease_s))

    def _spare(self, worker: str, lease: Lease, *, last: bool) -> None:
        """Let chance leave a worker alone while it holds what would be given up if it crashed now."""
        if last:
            self._last_lives.setdefault(worker, set()).add(lease.message_id)
            self.plan.spared.add(worker)
        elif (held := self._last_lives.get(worker)) is not None:
            held.discard(lease.message_id)
            if not held:
                del self._last_lives[worker]
                self.plan.spared.discard(worker)

    def extended(self, worker: str, leases: Sequence[Lease], lost: AbstractSet[str], lease_s: float) -> None:
        now = self._engine.clock.now()
        for lease in leases:
            if lease.message_id not in lost:
                self._engine.record(_entry(Kind.EXTENDED, now, worker, lease, due_at=now + lease_s))

    # -- in attempts -----------------------------------------------------------------------------

    def _step(self, step: str, entry: Entry) -> None:
        task = self._task_names.get(entry.message_id, "")
        strike = self.plan.at_step(entry.worker, step, task=task, attempt=entry.attempt)
        if strike is not None:
            self._strike(strike, entry, step)
            if strike.kind == "crash":
                raise Killed(f"{entry.worker} died {step}")

    def _arm(self, entry: Entry) -> None:
        """Choose whether, and when, a fault strikes while this attempt's code awaits."""
        strike = self.plan.at_step(entry.worker, "mid_attempt", task=entry.detail, attempt=entry.attempt)
        if strike is None:
            return
        task = asyncio.current_task()
        fenced = None if task is None else task.get_coro()
        assert isinstance(fenced, Fenced), "every task of a worker is behind its fence"
        directed = strike.directed
        after = 1 if directed else int(self.plan.draw(f"{entry.worker} awaits", SUSPENSIONS))
        later_s = 0.0 if directed else self.plan.draw(f"{entry.worker} later", LEASE_SHARES) * self._lease_s
        alarm = _Alarm(fenced, strike, after, later_s, partial(self._strike, strike, entry, "mid_attempt"))
        self._alarms[entry.message_id, entry.token] = alarm

    def _disarm(self, entry: Entry) -> None:
        alarm = self._alarms.pop((entry.message_id, entry.token), None)
        if alarm is not None and not alarm.cancel():
            self.plan.take_back(alarm.strike)

    def _strike(self, strike: Strike, entry: Entry, point: str) -> None:
        engine, worker = self._engine, entry.worker
        if engine.links[worker].is_cut:
            return
        if worker in self.plan.spared and strike.directed is None:
            self.plan.take_back(strike)
            return
        match strike.kind:
            case "crash":
                engine.crash(worker, f"at {point} of {entry.message_id[:8]} attempt {entry.attempt}")
            case "duplicate":
                if engine.store.deliver_twice(entry.message_id):
                    engine.record(entry._replace(at=engine.clock.now(), kind=Kind.FAULT, detail="delivered twice"))
            case "lease_expiry":
                seconds = strike.seconds or STANDSTILL_LEASES * self._lease_s
                self.struck(worker, f"stands still for {seconds:g} s at {point}")
                engine.links[worker].fence.pause()
                engine.loop.call_later(seconds, engine.links[worker].fence.resume)
            case "stop":
                if strike.immediate or worker in engine.stopping:
                    self.struck(worker, "is asked to stop at once")
                else:
                    self._tell(worker, "is asked to stop")
                engine.ask_to_stop(worker, immediate=strike.immediate)
            case _:
                raise AssertionError(f"{strike.kind} can't strike in an attempt")

    @property
    def _lease_s(self) -> float:
        return self._engine.options.lease_s


class _Alarm:
    """Goes off once, when an attempt has awaited so often, and so long after that, unless the attempt ends before."""

    def __init__(self, fenced: Fenced, strike: Strike, awaits: int, later_s: float, go_off: Callable[[], None]) -> None:
        self.strike = strike
        self._fenced = fenced
        self._awaits = awaits
        self._later_s = later_s
        self._go_off = go_off
        self._gone_off = False
        self._timer: asyncio.TimerHandle | None = None
        fenced.alarm = self._count

    def cancel(self) -> bool:
        """Let it not go off any more; return whether it did."""
        self._fenced.alarm = None
        if self._timer is not None:
            self._timer.cancel()
        return self._gone_off

    def _count(self) -> None:
        self._awaits -= 1
        if self._awaits <= 0:
            self._fenced.alarm = None
            self._timer = asyncio.get_running_loop().call_later(self._later_s, self._fire)

    def _fire(self) -> None:
        self._gone_off = True
        self._go_off()


def _max_crashes(lease: Lease) -> int:
    try:
        return decode_envelope(lease.body).max_crashes
    except CodecError:
        return MAX_CRASHES_DEFAULT


def _entry(kind: Kind, at: float, worker: str, lease: Lease, *, due_at: float, detail: str = "") -> Entry:
    return Entry(at, kind, lease.message_id, worker, lease.attempt, lease.token, detail, due_at)
