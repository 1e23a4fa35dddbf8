"""The faults of a simulation: by chance (`Faults`), or by hand (`Crash(at="before_settle")` and its kind)."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self, TypeAlias, get_args

from asynctasq.tasks.options import whole_number
from asynctasq.testing.faults.points import (
    AFTER_POINTS,
    BEFORE_POINTS,
    CALL_POINTS,
    CHANCES,
    CRASH_POINTS,
    STEP_POINTS,
)
from asynctasq.testing.parameters import TaskReference, check_seconds, check_seed, is_number, task_class_of

__all__ = [
    "Crash",
    "Delay",
    "DirectedFault",
    "Duplicate",
    "ExpireLease",
    "FailAfter",
    "FailBefore",
    "FaultChoice",
    "Faults",
    "Latency",
    "LoseReply",
    "SkewClock",
    "Stop",
]

ENDLESS: Final = "nothing could ever end; give less than 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long calls to the store take, before and after their effect; most take no time at all.

    often: share of the points that take up to `typical_s`. rarely: share that takes up to `longest_s`, which
    should be more than a lease. Shares go from 0 to 1.
    """

    typical_s: float = 0.05
    longest_s: float = 45.0
    often: float = 0.1
    rarely: float = 0.002

    def __post_init__(self) -> None:
        check_seconds(self.typical_s, "typical_s")
        check_seconds(self.longest_s, "longest_s")
        for name, share in {"often": self.often, "rarely": self.rarely}.items():
            if not (is_number(share) and 0.0 <= share <= 1.0):
                raise ValueError(f"{name}={share!r} is no probability; give 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults by chance. Each rate is the probability at one point: 0 means never, and it is below 1, for where a fault
    always happens nothing could ever end. Those that can happen at one point add up to less than 1, too.

    seed: of every decision, for a FakeQueue or driver that has none of its own; not 0, which is no chance at all.
    crash: the worker is killed, as by kill -9; another one starts a little later.
    lost_reply: a call takes effect and its reply is lost; the worker gets an error `reply_timeout_s` later.
    fail_before, fail_after: a call raises at once, without or with its effect.
    duplicate: a running message is given to another worker too, though its lease is valid.
    lease_expiry: the worker is paused for longer than its lease, then goes on.
    stop: the worker is asked to drain, as by SIGTERM, and is replaced.
    latency: how long calls take; a number is the typical length in seconds.
    clock_skew: each worker's wall clock is wrong by up to so many seconds, either way.
    give_up: let chance take a message to its `max_crashes`, so that it becomes a dead letter; else a worker
    that holds a message for the last time gets no random fault.
    must_fire: a plan of which nothing ever happened is an error, since it tested nothing.
    """

    seed: int = 1
    crash: float = 0.0
    lost_reply: float = 0.0
    fail_before: float = 0.0
    fail_after: float = 0.0
    duplicate: float = 0.0
    lease_expiry: float = 0.0
    stop: float = 0.0
    latency: Latency | float | None = None
    clock_skew: float = 0.0
    reply_timeout_s: float = 5.0
    give_up: bool = False
    must_fire: bool = True

    def __post_init__(self) -> None:
        _check_rates(self.rates())
        check_seconds(self.clock_skew, "clock_skew")
        check_seconds(self.reply_timeout_s, "reply_timeout_s")
        if self.latency is not None and not isinstance(self.latency, Latency):
            _check_latency(self.latency)
        check_seed(self.seed)
        if self.seed == 0:
            raise ValueError("seed 0 is the run in which nothing happens by chance; give another one")

    def rates(self) -> dict[str, float]:
        """Return the probability of each kind of fault, by its name."""
        return {
            "crash": self.crash,
            "lost_reply": self.lost_reply,
            "fail_before": self.fail_before,
            "fail_after": self.fail_after,
            "duplicate": self.duplicate,
            "lease_expiry": self.lease_expiry,
            "stop": self.stop,
        }

    def scaled(self, **factors: float) -> Self:
        """Return the same plan with some rates multiplied, at most to 1: for one run among many, which is settled."""
        rates, scaled = self.rates(), copy(self)
        for name, factor in factors.items():
            # Past the check: `sim.settle` lets faults stop, so that even a certain one comes to its end.
            object.__setattr__(scaled, name, min(1.0, rates[name] * factor))
        return scaled

    @property
    def delays(self) -> Latency | None:
        """The latency, a number given for it included."""
        if isinstance(self.latency, Latency):
            return self.latency
        return Latency(typical_s=self.latency) if self.latency else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directed:
    """A fault at the `nth` occasion that fits: at this point, in this task, attempt and worker (None: any).

    task: a class, which includes those derived from it, or a function decorated with `@task`.
    must_fire: it is an error if it never happens.
    """

    kind: ClassVar[str]
    points: ClassVar[frozenset[str]]

    at: str
    task: TaskReference | None = None
    attempt: int | None = None
    worker: str | None = None
    nth: int = 1
    must_fire: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.at, str) or self.at not in self.points:  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
            raise ValueError(f"{type(self).__name__}(at={self.at!r}) is no point; {_nearest(self.at, self.points)}")
        whole_number(self.nth, "nth", least=1)
        if self.attempt is not None:
            whole_number(self.attempt, "attempt", least=1)
        if self.worker is not None:
            _check_worker(self.worker)
        if self.task is not None:
            task_class_of(self.task)

    def __str__(self) -> str:
        said: dict[str, Any] = {"at": self.at}
        if self.task is not None:
            said["task"] = task_class_of(self.task).__qualname__
        said |= {name: value for name in ("attempt", "worker") if (value := getattr(self, name)) is not None}
        if self.nth != 1:
            said["nth"] = self.nth
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said.items())})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash(_Directed):
    """The worker dies there: nothing of it reaches the store any more and no code of it runs again."""

    kind: ClassVar[str] = "crash"
    points: ClassVar[frozenset[str]] = CRASH_POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(_Directed):
    """The worker is asked to drain there; `immediate`: to hand back at once what runs."""

    kind: ClassVar[str] = "stop"
    points: ClassVar[frozenset[str]] = STEP_POINTS

    immediate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseReply(_Directed):
    """The call takes effect and its reply is lost."""

    kind: ClassVar[str] = "lost_reply"
    points: ClassVar[frozenset[str]] = CALL_POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FailBefore(_Directed):
    """The call raises DriverUnavailable and has no effect."""

    kind: ClassVar[str] = "fail_before"
    points: ClassVar[frozenset[str]] = CALL_POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FailAfter(_Directed):
    """The call takes effect and raises DriverUnavailable."""

    kind: ClassVar[str] = "fail_after"
    points: ClassVar[frozenset[str]] = CALL_POINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(_Directed):
    """The call takes `seconds` longer, before or after its effect (`at="settle:before"`, `at="reserve:after"`)."""

    kind: ClassVar[str] = "delay"
    points: ClassVar[frozenset[str]] = BEFORE_POINTS | AFTER_POINTS

    seconds: float

    def __post_init__(self) -> None:
        _Directed.__post_init__(self)
        check_seconds(self.seconds, "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireLease(_Directed):
    """The worker is paused for `seconds` (None: one and a half leases), then goes on as if nothing had happened."""

    kind: ClassVar[str] = "lease_expiry"
    points: ClassVar[frozenset[str]] = STEP_POINTS

    at: str = "mid_attempt"
    seconds: float | None = None

    def __post_init__(self) -> None:
        _Directed.__post_init__(self)
        if self.seconds is not None:
            check_seconds(self.seconds, "seconds", above_zero=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(_Directed):
    """While the attempt runs its message is given to another worker too."""

    kind: ClassVar[str] = "duplicate"
    points: ClassVar[frozenset[str]] = frozenset({"mid_attempt"})

    at: str = "mid_attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewClock:
    """This worker's wall clock is wrong by so many seconds, either way."""

    kind: ClassVar[str] = "clock_skew"

    worker: str
    seconds: float
    must_fire: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        _check_worker(self.worker)
        check_seconds(self.seconds, "seconds", signed=True)


PointFault: TypeAlias = Crash | Stop | LoseReply | FailBefore | FailAfter | Delay | ExpireLease | Duplicate
DirectedFault: TypeAlias = PointFault | SkewClock
FaultChoice: TypeAlias = Faults | DirectedFault | Sequence[DirectedFault | Faults]
"""What `faults=` takes: faults by chance, faults by hand, or both in a list."""


def as_list(choice: FaultChoice) -> list[DirectedFault | Faults]:
    """Return the faults of a choice.

    Raises: TypeError for anything else.
    """
    chosen: list[Any] = list(choice) if isinstance(choice, Sequence) else [choice]
    known = (Faults, *get_args(DirectedFault))
    for fault in chosen:
        if not isinstance(fault, known):
            raise TypeError(f"faults= takes Faults(...), Crash(at=...) and its kind, or a list of those; not {fault!r}")
    return chosen


def _check_latency(latency: object) -> None:
    """Raise ValueError unless it is a length of time, as `Faults(latency=...)` takes it in place of a `Latency`."""
    if not (is_number(latency) and latency >= 0):
        raise ValueError(
            f"latency must be a Latency(...), or its typical length in seconds, 0 or more, not {latency!r}"
        )


def _check_rates(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if not (is_number(rate) and 0.0 <= rate <= 1.0):
            raise ValueError(f"{name}={rate!r} is no probability; give a number from 0 to below 1")
        if rate == 1.0:
            raise ValueError(f"{name}={rate!r} would happen every time, so that {ENDLESS}")
    for kinds in CHANCES.values():
        total = sum(rates[kind] for kind in kinds)
        if total >= 1.0:
            some = ", ".join(kind for kind in kinds if rates[kind])
            raise ValueError(f"{some} can happen at one point, where they add up to {total:g}, so that {ENDLESS}")


def _check_worker(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"worker must be the name of a worker, such as 'w1', not {name!r}")


def _nearest(at: object, points: Collection[str]) -> str:
    known = sorted(points)
    near = difflib.get_close_matches(at, known, n=1) if isinstance(at, str) else []
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}use one of {', '.join(known)}"
