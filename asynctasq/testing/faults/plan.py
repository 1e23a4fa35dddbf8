"""Decides at every point, from the tape, whether a fault happens there, and counts the faults that happened."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.testing.faults.kinds import (
    Delay,
    DirectedFault,
    ExpireLease,
    FaultChoice,
    Faults,
    PointFault,
    SkewClock,
    Stop,
    as_list,
)
from asynctasq.testing.faults.points import CHANCES
from asynctasq.testing.parameters import task_class_of
from asynctasq.testing.tape import Tape

__all__ = ["FaultPlan", "FiredFault", "Phase", "PointName", "Subject", "check_faults"]

Phase: TypeAlias = Literal["before", "after"]

Subject: TypeAlias = tuple[str, int]
"""The task and the attempt that a point concerns."""

PointName: TypeAlias = tuple[str, Sequence[Subject]]
"""One name of a point, and the tasks that it concerns under this name."""

KINDS_AT: Final[dict[str, frozenset[str]]] = {
    "before": frozenset({"crash", "delay", "fail_before"}),
    "after": frozenset({"crash", "delay", "fail_after", "lost_reply"}),
    "step": frozenset({"crash", "duplicate", "lease_expiry", "stop"}),
}

LATENCIES: Final = 8
"""Latency is one of so many multiples of its unit: equal ones meet at one instant, which is where races are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredFault:
    """One fault that happens now. `seconds` None: what the kind takes by itself."""

    kind: str
    seconds: float | None = None
    immediate: bool = False
    directed: "_CountedFault | None" = None


@dataclass(frozen=True, slots=True)
class _Odds:
    """At one point: `total` is the probability of any fault, `kinds` the conditional ones of each kind in turn."""

    total: float
    kinds: tuple[tuple[str, float], ...]


def _odds_of(faults: Faults) -> dict[str, _Odds]:
    """Return the odds of every point at which a fault can happen."""
    rates, latency = faults.rates(), faults.delays
    found: dict[str, _Odds] = {}
    for point, kinds in CHANCES.items():
        weights = [(kind, rates[kind]) for kind in kinds]
        if latency is not None and point in ("before", "after"):
            weights += [("stuck", latency.rarely), ("slow", latency.often)]
        weights = [(kind, weight) for kind, weight in weights if weight > 0.0]
        left = [sum(weight for _, weight in weights[index:]) for index in range(len(weights))]
        shares = [weight / rest for (_, weight), rest in zip(weights, left, strict=True)]
        if weights:
            kinds_of_point = tuple((kind, share) for (kind, _), share in zip(weights, [*shares[:-1], 1.0], strict=True))
            found[point] = _Odds(min(1.0, left[0]), kinds_of_point)
    return found


def check_faults(choice: FaultChoice) -> tuple[list[DirectedFault | Faults], Faults | None]:
    """Return the faults of a choice, and those by chance among them.

    Raises: TypeError for what is no fault; ValueError for more than one `Faults`.
    """
    chosen = as_list(choice)
    by_chance = [fault for fault in chosen if isinstance(fault, Faults)]
    if len(by_chance) > 1:
        raise ValueError("faults= takes one Faults(...); it holds the rates of all kinds")
    return chosen, by_chance[0] if by_chance else None


class FaultPlan:
    """The faults of one run. `fired` counts them by kind; `stop` ends them. Workers in `exempt` get no random fault."""

    def __init__(self, choice: FaultChoice, tape: Tape) -> None:
        chosen, chances = check_faults(choice)
        self.fired: Counter[str] = Counter()
        self.stopped = False
        self.account_for = True
        self.exempt: set[str] = set()
        self.gives_up = True if chances is None else chances.give_up
        self._tape = tape
        self._chances = chances
        self._directed = [_CountedFault(fault) for fault in chosen if not isinstance(fault, Faults | SkewClock)]
        self._skews = {fault.worker: fault for fault in chosen if isinstance(fault, SkewClock)}
        self._skewed: set[str] = set()
        self._odds = {} if self._chances is None else _odds_of(self._chances)
        self._labels: dict[tuple[str, str], str] = {}
        self.latency = None if self._chances is None else self._chances.delays
        self.reply_timeout_s = 5.0 if self._chances is None else self._chances.reply_timeout_s

    def add(self, fault: PointFault) -> None:
        """Add one more fault by hand; its occasions are counted from now on."""
        self._directed.append(_CountedFault(fault))

    def stop(self) -> None:
        """Let no fault happen from now on."""
        self.stopped = True

    def includes(self, kind: str) -> bool:
        """Say whether the plan can bring a fault of this kind."""
        if kind == "clock_skew":
            return bool(self._skews) or (self._chances is not None and self._chances.clock_skew > 0.0)
        by_hand = any(counted.fault.kind == kind for counted in self._directed)
        return by_hand or (self._chances is not None and self._chances.rates().get(kind, 0.0) > 0.0)

    @property
    def by_hand(self) -> list[PointFault]:
        """The faults by hand that happen at a named point."""
        return [counted.fault for counted in self._directed]

    # -- deciding --------------------------------------------------------------------------------

    def at_call(
        self, worker: str, call: str, phase: Phase, names: Callable[[], Iterable[PointName]]
    ) -> FiredFault | None:
        """Decide at a driver call. `names` returns the names of this point, and the tasks that each concerns."""
        if self.stopped:
            return None
        if self._directed and (directed := self._directed_fault(worker, phase, names())) is not None:
            return directed
        return self._random_fault(worker, f"{call}:{phase}", phase)

    def at_step(self, worker: str, step: str, *, task: str, attempt: int) -> FiredFault | None:
        """Decide at a step of an attempt."""
        if self.stopped:
            return None
        if (
            self._directed
            and (directed := self._directed_fault(worker, "step", [(step, [(task, attempt)])])) is not None
        ):
            return directed
        return self._random_fault(worker, step, step)

    def _random_fault(self, worker: str, point: str, kinds: str) -> FiredFault | None:
        odds = self._odds.get(kinds)
        if odds is None or worker in self.exempt:
            return None
        label = self._labels.get((worker, point)) or self._labels.setdefault((worker, point), f"{worker} {point}")
        if not self._tape.chance(label, odds.total):
            return None
        for kind, share in odds.kinds:
            if self._tape.chance(f"{label} {kind}", share):
                return self._fire(kind)
        raise AssertionError("the last kind takes all that is left")

    def _fire(self, kind: str) -> FiredFault:
        seconds = None
        if kind in ("slow", "stuck"):
            assert self.latency is not None, "only a plan with latency has these kinds"
            unit = self.latency.typical_s if kind == "slow" else self.latency.longest_s
            seconds = unit * (1 + self._tape.draw("latency", LATENCIES)) / LATENCIES
        self.fired[kind] += 1
        return FiredFault(kind=kind, seconds=seconds)

    def _directed_fault(self, worker: str, phase: str, names: Iterable[PointName]) -> FiredFault | None:
        """Count the occasion for every fault that it fits; the first that reaches its `nth` happens, others wait."""
        subjects = dict(names)
        fired = None
        for counted in self._directed:
            fault = counted.fault
            if counted.fired or fault.kind not in KINDS_AT[phase] or fault.at not in subjects:
                continue
            if fault.worker not in (None, worker) or not counted.matches(subjects[fault.at]):
                continue
            counted.occasions += 1
            if counted.occasions >= fault.nth and fired is None:
                counted.fired = True
                self.fired[fault.kind] += 1
                fired = counted.fire()
        return fired

    def unfire(self, fired: FiredFault) -> None:
        """Uncount a fault that could not be applied; one by hand waits for its next occasion."""
        self.fired[fired.kind] -= 1
        if not self.fired[fired.kind]:
            del self.fired[fired.kind]
        if fired.directed is not None:
            fired.directed.fired = False
            fired.directed.occasions -= 1

    # -- drawing ---------------------------------------------------------------------------------

    def draw(self, label: str, choices: Sequence[float]) -> float:
        """Return one of the choices; the first is the simplest."""
        return choices[self._tape.draw(label, len(choices))]

    def skew_s(self, worker: str) -> float:
        """Return by how much this worker's wall clock is wrong."""
        fault = self._skews.get(worker)
        if fault is not None:
            self._skewed.add(worker)
            skew_s = fault.seconds
        elif self._chances is not None and self._chances.clock_skew:
            limit_us = round(self._chances.clock_skew * 1e6)
            drawn = self._tape.draw(f"{worker} clock_skew", 2 * limit_us + 1)
            skew_s = (drawn if drawn <= limit_us else limit_us - drawn) / 1e6  # 0 stays 0
        else:
            return 0.0
        if skew_s:
            self.fired["clock_skew"] += 1
        return skew_s

    # -- what happened --------------------------------------------------------------------------

    def check_fired(self) -> None:
        """Raise AssertionError that names the faults that never happened. Does nothing if `account_for` is off."""
        if not self.account_for:
            return
        never = [
            f"{counted.fault} (had {counted.occasions} occasions)"
            for counted in self._directed
            if counted.fault.must_fire and not counted.fired
        ]
        never += [str(fault) for worker, fault in self._skews.items() if fault.must_fire and worker not in self._skewed]
        if self._chances is not None and self._chances.must_fire and self._configured and not self.fired:
            never.append(f"{self._chances}: choose another seed or higher rates, or say must_fire=False")
        if never:
            raise AssertionError("a fault that never fires tests nothing; these never did:\n  " + "\n  ".join(never))

    @property
    def _configured(self) -> bool:
        chances = self._chances
        return chances is not None and bool(any(chances.rates().values()) or chances.latency or chances.clock_skew)


class _CountedFault:
    """A fault by hand, and how many occasions it had."""

    def __init__(self, fault: PointFault) -> None:
        self.fault = fault
        self.occasions = 0
        self.fired = False
        self._task = None if fault.task is None else task_class_of(fault.task)
        self._names: set[str] = set()

    def matches(self, subjects: Sequence[Subject]) -> bool:
        if self._task is None and self.fault.attempt is None:
            return True
        return any(self._is_task(task) and self.fault.attempt in (None, attempt) for task, attempt in subjects)

    def _is_task(self, name: str) -> bool:
        """Say whether the task of this name is the fault's task, or derived from it."""
        if self._task is None or name in self._names:
            return True
        self._names = _names_of(self._task)  # looked up again: a class may have been derived meanwhile
        return name in self._names

    def fire(self) -> FiredFault:
        """Return what happens now."""
        match self.fault:
            case Delay() | ExpireLease():
                return FiredFault(kind=self.fault.kind, seconds=self.fault.seconds, directed=self)
            case Stop():
                return FiredFault(kind=self.fault.kind, immediate=self.fault.immediate, directed=self)
            case _:
                return FiredFault(kind=self.fault.kind, directed=self)


def _names_of(cls: type[BaseTask[Any]]) -> set[str]:
    """Return the names of a task class and of all that are derived from it."""
    return {definition_of(cls).name}.union(*(_names_of(derived) for derived in cls.__subclasses__()))
