"""Strategies: what they give, that all of it travels, that it shrinks to something simple, and what they refuse."""

import dataclasses
import datetime as dt
import enum
import pathlib
import socket
import subprocess
import sys
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import annotated_types
import pydantic
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.envelope import decode_envelope, encode_envelope
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.retry import Delays, Exponential, Fixed
from asynctasq.tasks import AsyncTask, task
from asynctasq.tasks.definition import arguments_of, definition_of
from asynctasq.testing import FakeQueue, Faults
from asynctasq.testing.strategies import (
    FAULT_KINDS,
    NoStrategy,
    delays,
    fault_plans,
    faults,
    messages,
    retry_policies,
    task_arguments,
    tasks,
)
from tests.effort import examples
from tests.patience import patient_s

STEADY = settings(
    deadline=None, database=None, derandomize=True, max_examples=examples(20), suppress_health_check=list(HealthCheck)
)
"""The same examples today and tomorrow; a busy machine is no finding."""
MANY = settings(STEADY, max_examples=examples(300), phases=[Phase.generate, Phase.shrink])

T = TypeVar("T")
OrderId = NewType("OrderId", int)


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    color: Color


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T
    label: str = ""


@dataclasses.dataclass
class Tree:
    name: str
    children: list["Tree"]


@dataclasses.dataclass(frozen=True)
class Money:
    cents: int

    def __post_init__(self) -> None:
        if self.cents < 0:
            raise ValueError("no debts")


class Options(TypedDict):
    color: Color
    rights: NotRequired[Rights]


class Form(pydantic.BaseModel):
    title: Annotated[str, pydantic.Field(min_length=1, max_length=5)]
    copies: pydantic.PositiveInt = 1
    names: Annotated[list[str], annotated_types.MinLen(1)]
    alias: int = pydantic.Field(alias="Alias")


class Plain(AsyncTask[None]):
    def __init__(
        self,
        none: None,
        flag: bool,
        number: int,
        ratio: float,
        text: str,
        raw: bytes,
        wave: complex,
        price: Decimal,
        moment: dt.datetime,
        day: dt.date,
        hour: dt.time,
        length: dt.timedelta,
        key: uuid.UUID,
        path: pathlib.Path,
        posix: pathlib.PurePosixPath,
        windows: pathlib.PureWindowsPath,
        anything: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None: ...


class Containers(AsyncTask[None]):
    def __init__(
        self,
        numbers: list[int],
        names: set[str],
        frozen: frozenset[uuid.UUID],
        pair: tuple[int, str],
        many: tuple[bool, ...],
        by_name: dict[str, Any],
        sequence: Sequence[bytes],
        mapping: Mapping[int, list[float]],
        members: AbstractSet[int],
        bare: dict,  # type: ignore[type-arg]
        rest: list,  # type: ignore[type-arg]
        empty: tuple[()],
        maybe: int | None = None,
        either: int | str | list[str] = 0,
        mode: Literal["a", 3, Color.RED] = "a",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None: ...


class Records(AsyncTask[None]):
    def __init__(
        self,
        color: Color,
        rights: Rights,
        point: Point,
        box: Box[Color],
        boxes: dict[str, Box[list[Point]]],
        tree: Tree,
        money: Money | None,
        options: Options,
        form: Form,
        url: pydantic.HttpUrl,
        database: pydantic.PostgresDsn,
        order: OrderId,
        few: Annotated[int, annotated_types.Interval(ge=3, le=5)],
        own: Annotated[str, st.just("own")],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.few, self.own = few, own

    async def execute(self) -> None: ...


@task
def function(number: int, /, *rest: int, word: str = "x") -> None: ...


class Careful(AsyncTask[None]):
    def __init__(self, amount: int, **kwargs: Any) -> None:
        if amount <= 0:
            raise ValueError("amount must be positive")
        super().__init__(**kwargs)
        self.amount = amount

    async def execute(self) -> None: ...


TASKS = [Plain, Containers, Records, function, Careful]


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


def annotated(annotation: Any) -> type[AsyncTask[None]]:
    """Return a task whose one parameter, `value`, has this annotation."""

    class Send(AsyncTask[None]):
        def __init__(self, value, **kwargs: Any) -> None:  # type: ignore[no-untyped-def]
            super().__init__(**kwargs)

        __init__.__annotations__["value"] = annotation

        async def execute(self) -> None: ...

    return Send


# -- lossless --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=lambda task: definition_of(getattr(task, "task_class", task)).name)
@given(data=st.data())
@STEADY
def test_arguments_come_back_equal_from_the_codec(task, data) -> None:
    definition = definition_of(getattr(task, "task_class", task))
    built = data.draw(tasks(task))

    sent = dict(arguments_of(built))
    packed = pack_arguments(definition.name, sent, definition.signature.annotations)
    back = unpack_arguments(packed, definition.signature.annotations)

    assert back == sent
    assert {name: type(value) for name, value in back.items()} == {name: type(value) for name, value in sent.items()}


@given(retry_policies(), delays())
@STEADY
def test_retry_policies_and_delays_come_back_equal(policy, delay_s) -> None:
    envelope = Envelope(task="a:b", arguments=b"", max_attempts=3, retry=policy, dispatched_at=0.0, timeout_s=delay_s)

    assert decode_envelope(encode_envelope(envelope)) == envelope


@given(messages())
@STEADY
def test_messages_of_tasks_that_nobody_has_are_whole(message) -> None:
    envelope = decode_envelope(message.body)

    assert encode_envelope(envelope) == message.body
    assert str(uuid.UUID(message.id)) == message.id
    assert unpack_arguments(envelope.arguments, {}) is not None


@given(messages(Careful, tasks(Records, few=st.just(3))))
@STEADY
def test_messages_of_a_task_are_what_its_dispatch_stores(message) -> None:
    envelope = decode_envelope(message.body)
    names = {definition_of(cls).name: cls for cls in (Careful, Records)}

    arguments = unpack_arguments(envelope.arguments, definition_of(names[envelope.task]).signature.annotations)

    assert arguments.get("amount", 1) > 0
    assert arguments.get("few", 3) == 3
    assert envelope.max_attempts == names[envelope.task].max_attempts


@given(delays(), delays(least_s=0.5, most_s=0.9), delays(least_s=0, most_s=0))
@STEADY
def test_delays_keep_their_bounds_and_are_what_delay_takes(any_s, short_s, none_s) -> None:
    Careful(1).delay(any_s)
    assert 0.5 <= short_s <= 0.9
    assert none_s == 0


# -- simple first ----------------------------------------------------------------------------------


def simplest(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool] = lambda value: True) -> Any:
    return find(strategy, condition, settings=MANY)


def test_values_shrink_to_simple_ones() -> None:
    arguments = simplest(task_arguments(Containers))

    assert arguments == {
        "numbers": [],
        "names": set(),
        "frozen": frozenset(),
        "pair": (0, ""),
        "many": (),
        "by_name": {},
        "sequence": [],
        "mapping": {},
        "members": set(),
        "bare": {},
        "rest": [],
        "empty": (),
    }


def test_a_parameter_with_a_default_is_given_at_times() -> None:
    assert simplest(task_arguments(Containers), lambda values: "maybe" in values)["maybe"] is None


def test_a_union_with_none_shrinks_to_none() -> None:
    assert simplest(task_arguments(annotated(Money | None))) == {"value": None}
    assert simplest(task_arguments(annotated(Money | None)), lambda values: values["value"]) == {"value": Money(0)}


def test_delays_shrink_to_a_second() -> None:
    assert simplest(delays()) == 0.000001 or simplest(delays()) == 1.0
    assert simplest(delays(), lambda delay_s: delay_s > 7) == 8.0


def test_policies_shrink_to_a_fixed_delay() -> None:
    assert isinstance(simplest(retry_policies()), Fixed)
    assert simplest(retry_policies(), lambda policy: isinstance(policy, Delays)) == Delays(delays_s=(0.0,))
    assert simplest(retry_policies(), lambda policy: isinstance(policy, Exponential)).jitter is False


def test_fault_plans_shrink_to_no_fault_and_then_to_one() -> None:
    assert simplest(fault_plans()) == []
    assert [str(fault) for fault in simplest(fault_plans(), bool)] == ["Crash(at='before_settle')"]
    [by_chance] = simplest(fault_plans(by_chance=True), lambda plan: any(isinstance(fault, Faults) for fault in plan))
    assert not any(by_chance.rates().values())


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_kind_of_fault_is_among_them(kind: str) -> None:
    assert simplest(fault_plans(of=[kind]), bool)[0].kind == kind


def test_a_fault_may_be_about_one_task() -> None:
    assert simplest(faults(tasks=[Careful]), lambda fault: fault.task is not None).task is Careful


def test_an_unknown_kind_of_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="'crashes' is no kind of fault; there are crash, lost_reply"):
        faults(of=["crashes"])


@given(fault_plans(by_chance=True))
@settings(STEADY, max_examples=examples(20))
def test_a_plan_that_finds_no_moment_is_no_error(plan) -> None:
    with FakeQueue(faults=plan) as queue:
        Careful(1).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_completed(Careful)


# -- what is given instead -------------------------------------------------------------------------


@given(task_arguments(annotated(socket.socket), value=st.just(3)))
@settings(STEADY, max_examples=3)
def test_a_strategy_takes_the_place_of_an_annotation(arguments) -> None:
    assert arguments == {"value": 3}


def test_a_strategy_for_no_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="function has no parameter 'wrod'; it takes number, word") as caught:
        task_arguments(function, wrod=st.just("x"))
    assert not isinstance(caught.value, NoStrategy)


def test_a_strategy_for_an_argument_that_the_task_does_not_take_is_refused_by_the_task() -> None:
    with pytest.raises(TypeError, match=r"Careful\(amount\) got unexpected arguments: amonut"):
        simplest(tasks(Careful, amonut=st.just(3)))


def test_arguments_for_a_name_that_the_task_does_not_take_are_refused_too() -> None:
    with pytest.raises(TypeError, match=r"Careful\(amount\) got unexpected arguments: amonut"):
        simplest(task_arguments(Careful, amonut=st.just(3)), lambda arguments: arguments["amount"] > 0)


def test_a_name_that_a_constructor_hands_on_to_its_base_is_taken() -> None:
    class Parcel(Careful):
        def __init__(self, weight: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    arguments = simplest(task_arguments(Parcel, amount=st.just(7)))

    assert arguments == {"weight": 0, "amount": 7}


def test_values_that_a_constructor_refuses_do_not_stand_for_a_name_it_refuses() -> None:
    class Parcel(Careful):
        def __init__(self, weight: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert simplest(task_arguments(Parcel, amount=st.just(-1))) == {"weight": 0, "amount": -1}


@pytest.mark.parametrize("make", [task_arguments, tasks])
def test_a_value_in_place_of_a_strategy_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"Careful\.amount=3 is no strategy; write amount=st\.just\(3\)"):
        make(Careful, amount=3)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("least_s", lambda value: delays(least_s=value)),
        ("most_s", lambda value: delays(most_s=value)),
        ("most_s", lambda value: retry_policies(most_s=value)),
    ],
)
def test_bounds_are_lengths_of_time(name: str, make: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be (a number of|0 or more) seconds, not {value!r}"):
        make(value)


@pytest.mark.parametrize("choice", [{"faults_max": -1}, {"faults_max": 1.5}])
def test_a_plan_has_no_less_than_no_faults(choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"faults_max must be a whole number, 0 or more"):
        fault_plans(**choice)


def test_occasions_of_faults_count_from_one() -> None:
    with pytest.raises(ValueError, match="nth_max must be a whole number, 1 or more, not 0"):
        faults(nth_max=0)


@pytest.mark.parametrize("make", [faults, fault_plans])
def test_one_kind_is_not_a_list_of_kinds(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"of='crash' takes a list of kinds, such as \['crash'\]"):
        make(of="crash")


@pytest.mark.parametrize("make", [faults, fault_plans])
def test_faults_are_about_tasks(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="int"):
        make(tasks=[int])


@pytest.mark.parametrize("annotation", [tuple[()], typing.Tuple[()]])  # noqa: UP006 - the old spelling, too
def test_a_tuple_of_nothing_is_empty(annotation: Any) -> None:
    strategy = task_arguments(annotated(annotation))

    assert simplest(strategy) == {"value": ()}
    with pytest.raises(NoSuchExample):
        simplest(strategy, lambda values: values["value"] != ())


@pytest.mark.parametrize("annotation", [tuple, typing.Tuple])  # noqa: UP006
def test_a_tuple_of_whatever_is_not_always_empty(annotation: Any) -> None:
    assert simplest(task_arguments(annotated(annotation)), lambda values: values["value"]) == {"value": (None,)}


def test_what_a_constructor_refuses_is_left_out() -> None:
    assert simplest(tasks(Careful)).amount == 1


def test_a_constructor_that_refuses_everything_is_told() -> None:
    with pytest.raises(NoStrategy, match=r"Careful: Careful refused 100 values, the last with ValueError\('amount"):
        simplest(tasks(Careful, amount=st.integers(max_value=0)))


# -- what can't be made up -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (socket.socket, "Send.value: <class 'socket.socket'> is none of the types that travel; pass value=strategy"),
        (list[socket.socket], r"Send.value\[...\]: <class 'socket.socket'> is none of the types that travel"),
        (Callable[[], None], "Send.value: .*Callable.* is none of the types that travel"),
        (User, "Send.value: User is a database model, and only your test knows which rows there are"),
        (enum.Enum("Empty", []), "Send.value: Empty has no members"),
        (Box["Nowhere"], "Send.value.inside: .*Nowhere.* can't be resolved"),
    ],
)
def test_an_annotation_that_tells_nothing_is_an_error_that_names_the_place(annotation: Any, why: str) -> None:
    with pytest.raises(NoStrategy, match=why):
        task_arguments(annotated(annotation))


def test_a_parameter_without_annotation_is_an_error_that_says_what_to_do() -> None:
    @task
    def send(to, subject: str) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(NoStrategy, match=r"send\.to: it has no annotation.*; pass to=strategy, .* to=st\.just\("):
        task_arguments(send)


def test_without_hypothesis_the_error_names_the_extra() -> None:
    program = """
import sys
sys.modules["hypothesis"] = None
import asynctasq.testing
from asynctasq.errors import MissingExtra
for use in ("from asynctasq.testing import strategies", "from asynctasq.testing import QueueStateMachine"):
    try:
        exec(use)
    except MissingExtra as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=patient_s(60)
    )

    assert done.stdout.count("install it with: pip install 'asynctasq[testing]'") == 2, done.stdout


def test_importing_the_testing_package_does_not_import_hypothesis() -> None:
    program = "import sys, asynctasq.testing, asynctasq.testing.fake_queue; print('hypothesis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=patient_s(60)
    )

    assert done.stdout.strip() == "False"
