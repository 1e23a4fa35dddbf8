"""Hypothesis strategies for what a queue deals with; whatever they give comes back equal from the real codec.

Simple values come first, so that failures shrink to them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.kernel.envelope import MISSING, Envelope
from asynctasq.kernel.messages import MICROSECONDS, Message, microseconds
from asynctasq.kernel.retry import Delays, Exponential, Fixed, RetryPolicy
from asynctasq.queue import MessageFactory
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.options import whole_number
from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.faults import kinds
from asynctasq.testing.faults.points import AFTER_POINTS, BEFORE_POINTS, CRASH_POINTS, STEP_POINTS
from asynctasq.testing.parameters import TaskReference, check_seconds, task_class_of
from asynctasq.testing.strategies.annotations import ANYTHING, Resolver
from asynctasq.testing.strategies.hypothesis import SearchStrategy, st
from asynctasq.testing.strategies.records import AnnotationContext, NoStrategy, accepted_by, constructed

__all__ = [
    "FAULT_KINDS",
    "NoStrategy",
    "TaskSource",
    "delays",
    "fault_plans",
    "faults",
    "messages",
    "retry_policies",
    "task_arguments",
    "tasks",
]

Arguments: TypeAlias = dict[str, Any]
TaskSource: TypeAlias = TaskReference | SearchStrategy[BaseTask[Any]]
"""A task class, a function decorated with `@task`, or a strategy for built tasks."""

NOTABLE_DELAYS_S: Final = (30.0, 60.0, 3600.0, 29.999999, 30.000001, 0.000001)
"""Delays at which other things happen at the same instant: leases end after 30 s by default, retries come after 60."""
SHORT_S: Final = 60
"""Within so many seconds leases end while attempts run."""

# -- time ------------------------------------------------------------------------------------------


def delays(*, least_s: float = 0.000001, most_s: float = 86_400.0) -> SearchStrategy[float]:
    """Seconds to wait, as `.delay()` takes them: whole ones first, then those at which leases end, then any."""
    check_seconds(least_s, "least_s")
    check_seconds(most_s, "most_s")
    least, most = microseconds(least_s), microseconds(most_s)
    if least > most:
        raise ValueError(f"delays(least_s={least_s}, most_s={most_s}) leaves nothing; least_s must not be above most_s")
    notable = [delay_s for delay_s in NOTABLE_DELAYS_S if least <= microseconds(delay_s) <= most]
    choices = [_whole_seconds(least, min(most, SHORT_S * MICROSECONDS))]
    choices += [st.sampled_from(notable)] if notable else []
    choices += [_whole_seconds(least, most), st.integers(least, most).map(lambda value: value / MICROSECONDS)]
    return st.one_of(choices)


def _whole_seconds(least: int, most: int) -> SearchStrategy[float]:
    whole = range(-(-least // MICROSECONDS), most // MICROSECONDS + 1)
    return st.integers(whole[0], whole[-1]).map(float) if whole else st.nothing()


def retry_policies(*, most_s: float = 3600.0) -> SearchStrategy[RetryPolicy]:
    """Retry policies of all three kinds, as a task class can describe them; no delay above `most_s`."""
    check_seconds(most_s, "most_s")
    some = delays(least_s=0.0, most_s=most_s)
    exponential = st.builds(Exponential, base_s=some, cap_s=some, jitter=st.booleans())
    listed = st.builds(Delays, delays_s=st.lists(some, min_size=1, max_size=5).map(tuple))
    return st.one_of(st.builds(Fixed, delay_s=some), listed, exponential)


# -- tasks -----------------------------------------------------------------------------------------


def task_arguments(task: TaskReference, /, **given: SearchStrategy[Any]) -> SearchStrategy[Arguments]:
    """Constructor arguments by name, made up from the task's annotations; `given` says how instead, by name.

    A parameter with a default is left out at times. `*args` and `**kwargs` stay empty, but for what is `given`.

    Raises: NoStrategy for a parameter whose annotation is missing or too general; TypeError for a name that is no
    parameter (where the constructor takes `**kwargs`, when values are drawn: only the task knows), or for what is no
    strategy.
    """
    cls = task_class_of(task)
    definition = definition_of(cls)
    signature, label = definition.signature, definition.name.rpartition(":")[2]
    unknown = [name for name in given if name not in signature.known and not signature.open]
    if unknown:
        raise TypeError(f"{label} has no parameter {unknown[0]!r}; it takes {', '.join(signature.names) or 'nothing'}")
    _check_strategies(label, given)
    resolver, found = Resolver(), dict(given)
    for name in signature.names:
        if name not in given:
            context = AnnotationContext(f"{label}.{name}", name)
            if name not in signature.annotations:
                raise context.refuse("it has no annotation, or one that can't be resolved outside of a type checker")
            found[name] = resolver.values(signature.annotations[name], context)
    parameters = signature.inspected.parameters
    always = {name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_ONLY}
    always |= signature.required | given.keys()
    arguments = st.fixed_dictionaries(
        {name: values for name, values in found.items() if name in always},
        optional={name: values for name, values in found.items() if name not in always},
    )
    return arguments if signature.known.issuperset(given) else accepted_by(cls, arguments, signature)


def _check_strategies(label: str, given: Mapping[str, object]) -> None:
    for name, values in given.items():
        if not isinstance(values, SearchStrategy):
            raise TypeError(f"{label}.{name}={values!r} is no strategy; write {name}=st.just({values!r})")


def tasks(task: TaskReference, /, **given: SearchStrategy[Any]) -> SearchStrategy[BaseTask[Any]]:
    """Built tasks, to be dispatched; `given` as in `task_arguments`.

    What the constructor refuses with a ValueError is left out.
    """
    cls = task_class_of(task)
    return constructed(
        cls, task_arguments(task, **given), AnnotationContext(cls.__qualname__, "name"), definition_of(cls).signature
    )


def tasks_of(source: TaskSource) -> SearchStrategy[BaseTask[Any]]:
    """Return a strategy for built tasks."""
    return source if isinstance(source, SearchStrategy) else tasks(source)


# -- messages --------------------------------------------------------------------------------------


def messages(*sources: TaskSource, queues: Sequence[str] = ("default", "emails")) -> SearchStrategy[Message]:
    """Messages as dispatches of these tasks store them; without any, messages of tasks nobody has, for drivers."""
    ids, delay = st.uuids().map(str), st.none() | delays()
    if sources:
        built = st.one_of([tasks_of(source) for source in sources])
        return st.builds(_message, built, ids, delay)
    return st.builds(
        Message,
        id=ids,
        queue=st.sampled_from(queues),
        body=_envelopes().map(encode_envelope),
        delay_s=delay.map(lambda delay_s: delay_s or 0.0),
    )


def _message(task: BaseTask[Any], message_id: str, delay_s: float | None) -> Message:
    delayed = task if delay_s is None else task.delay(delay_s)
    return MessageFactory(clock=VirtualClock(), new_id=lambda: message_id).message(delayed)


def _envelopes() -> SearchStrategy[Envelope]:
    names = st.sampled_from(("app.tasks:Send", "app.tasks:Charge", "shop:Outer.Inner"))
    arguments = st.dictionaries(st.text("abcdefg_", min_size=1, max_size=5), ANYTHING, max_size=3)
    return st.builds(
        Envelope,
        task=names,
        arguments=arguments.map(lambda values: pack_arguments("app.tasks:Send", values, {})),
        max_attempts=st.integers(0, 10),
        retry=retry_policies(),
        dispatched_at=st.integers(0, 4_000_000_000).map(float),
        timeout_s=st.none() | delays(),
        keep_result_s=st.none() | delays(),
        max_crashes=st.integers(1, 5),
        missing=st.sampled_from(MISSING),
        expires_s=st.none() | delays().filter(bool),
    )


# -- faults ----------------------------------------------------------------------------------------

CALLS: Final = ("settle", "reserve", "turn", "settle", "reserve", "enqueue", "extend", "wait")
STEPS: Final = ("before_settle", "mid_attempt", "before_start")
DELAYS_S: Final = (1.0, 5.0, 45.0, 30.0, 29.999999)


def _ordered(first: Sequence[str], points: Collection[str]) -> list[str]:
    """Return the points, those first, and oftener, that every attempt comes to.

    Not in the set's own order, which differs between processes.
    """
    return [*first, *first, *first, *sorted(set(points).difference(first))]


_Common: TypeAlias = Mapping[str, SearchStrategy[Any]]
_MAKERS: Final[Mapping[str, Callable[[_Common], SearchStrategy[Any]]]] = {
    "crash": lambda common: st.builds(kinds.Crash, at=st.sampled_from(_ordered(STEPS, CRASH_POINTS)), **common),
    "lost_reply": lambda common: st.builds(kinds.LoseReply, at=st.sampled_from(CALLS), **common),
    "fail_before": lambda common: st.builds(kinds.FailBefore, at=st.sampled_from(CALLS), **common),
    "fail_after": lambda common: st.builds(kinds.FailAfter, at=st.sampled_from(CALLS), **common),
    "delay": lambda common: st.builds(
        kinds.Delay,
        at=st.sampled_from(_ordered(("settle:before", "settle:after"), BEFORE_POINTS | AFTER_POINTS)),
        seconds=st.sampled_from(DELAYS_S),
        **common,
    ),
    "duplicate": lambda common: st.builds(kinds.Duplicate, **common),
    "lease_expiry": lambda common: st.builds(
        kinds.ExpireLease, at=st.sampled_from(_ordered(STEPS, STEP_POINTS)), **common
    ),
    "stop": lambda common: st.builds(
        kinds.Stop, at=st.sampled_from(_ordered(STEPS, STEP_POINTS)), immediate=st.booleans(), **common
    ),
}

FAULT_KINDS: Final = tuple(_MAKERS)
"""The kinds of faults by hand, as `queue.faults.fired` counts them."""


def faults(
    *, of: Collection[str] = FAULT_KINDS, tasks: Sequence[TaskReference] = (), nth_max: int = 3
) -> SearchStrategy[kinds.DirectedFault]:
    """One fault by hand, at a named point. `tasks`: some of them are about one of these, and those derived from it."""
    whole_number(nth_max, "nth_max", least=1)
    if isinstance(of, str):
        raise TypeError(f"of={of!r} takes a list of kinds, such as [{of!r}]")
    for task in tasks:
        task_class_of(task)
    unknown = [kind for kind in of if kind not in _MAKERS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no kind of fault; there are {', '.join(FAULT_KINDS)}")
    common: dict[str, SearchStrategy[Any]] = {"must_fire": st.just(False)}
    if nth_max > 1:
        common["nth"] = st.integers(1, nth_max)
    if tasks:
        common["task"] = st.none() | st.sampled_from(tasks)
    return st.one_of([_MAKERS[kind](common) for kind in FAULT_KINDS if kind in of])


def fault_plans(
    *,
    of: Collection[str] = FAULT_KINDS,
    tasks: Sequence[TaskReference] = (),
    faults_max: int = 3,
    by_chance: bool = False,
) -> SearchStrategy[Sequence[kinds.DirectedFault | kinds.Faults]]:
    """What `FakeQueue(faults=...)` takes: none at all first, then some by hand; with `by_chance`, a `Faults` too.

    A fault that never happens is no error here: not every plan fits every run.
    """
    whole_number(faults_max, "faults_max", least=0)
    by_hand = st.lists(faults(of=of, tasks=tasks), max_size=faults_max)
    if not by_chance:
        return by_hand
    return st.tuples(by_hand, st.lists(_chances(of), max_size=1)).map(lambda parts: [*parts[0], *parts[1]])


def _chances(of: Collection[str]) -> SearchStrategy[kinds.Faults]:
    rates = {name: st.sampled_from((0.0, 0.02, 0.1)) for name in kinds.Faults().rates() if name in of}
    latency = {"latency": st.sampled_from((None, 0.05, 1.0))} if "delay" in of else {}
    return st.builds(kinds.Faults, seed=st.integers(1, 9_999), must_fire=st.just(False), **rates, **latency)
