"""What arrives is what the annotation allows: rows of the models it names, and with `validate` the types it names."""

import dataclasses
import sys
from typing import Annotated, Any, NamedTuple, Protocol, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, make_transient_to_detached, mapped_column

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.codec.orm.references import ModelReference, resolve_references
from asynctasq.codec.typed_msgpack import ExtType, packb
from asynctasq.codec.validation import validate_arguments
from asynctasq.core.task_factory import BadArguments, TaskFactory, dead_reason_of
from asynctasq.errors import DispatchError, MissingExtra, TaskDefinitionError, UndecodableBody, UnserializableValue
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import DeadReason
from asynctasq.kernel.retry import Fixed
from asynctasq.tasks import AsyncTask, SyncTask, task
from asynctasq.tasks.application import Application
from asynctasq.testing import FakeQueue


class Base(DeclarativeBase):
    _asynctasq_session_factory = async_sessionmaker()


class Named:
    name: str


class Order(Named, Base):
    __tablename__ = "orders_of_annotations"
    id: Mapped[int] = mapped_column(primary_key=True)


class BigOrder(Order):
    pass


class ApiKey(Base):
    __tablename__ = "api_keys_of_annotations"
    id: Mapped[int] = mapped_column(primary_key=True)


class HasId(Protocol):
    id: Any


@dataclasses.dataclass
class Line:
    order: Order
    note: str


REFUSING: list[Any] = [
    str, int, list[str], dict[str, int], tuple[int, str], str | None, Order, Order | None, list[Order], BigOrder,
    dict[str, Order], Annotated[Order, "x"], Line, Named, type[ApiKey],
]  # fmt: skip
ALLOWING: list[Any] = [
    Any, object, None, list, dict, list[Any], ApiKey, ApiKey | str, list[ApiKey], dict[str, ApiKey], Base, HasId,
    dict[ApiKey, int], Order | ApiKey, tuple[ApiKey, ...], list[Base],
]  # fmt: skip


def wrapped(annotation: Any, reference: object) -> object:
    """Return the reference at the place where the annotation may have a model."""
    origin = getattr(annotation, "__origin__", annotation)
    if origin in (list, tuple):
        return ExtType(1, packb([reference])) if origin is tuple else [reference]
    if origin is dict:
        return {"a": reference} if "str" in str(annotation) or annotation is dict else {reference: 1}
    return reference


def refers_to(model: type) -> object:
    return ExtType(14, packb(["sqlalchemy", f"{model.__module__}:{model.__qualname__}", [1]]))


@pytest.mark.parametrize("annotation", REFUSING, ids=str)
async def test_a_forged_reference_is_refused_where_the_annotation_names_no_such_model(annotation: Any) -> None:
    for value in (refers_to(ApiKey), wrapped(annotation, refers_to(ApiKey))):
        arguments = unpack_arguments(packb({"x": value}), {"x": annotation})

        with pytest.raises(UndecodableBody, match="refers to the sqlalchemy model ApiKey where the task's annotation"):
            await resolve_references(arguments)


@pytest.mark.parametrize("annotation", ALLOWING, ids=str)
async def test_a_reference_is_loaded_where_the_annotation_allows_it(annotation: Any) -> None:
    arguments = unpack_arguments(packb({"x": wrapped(annotation, refers_to(ApiKey))}), {"x": annotation})

    with pytest.raises(Exception, match=r"not bound|bind"):  # it got as far as the database
        await resolve_references(arguments)


async def test_one_row_at_two_places_is_judged_at_each() -> None:
    arguments = unpack_arguments(
        packb({"good": refers_to(ApiKey), "bad": refers_to(ApiKey)}), {"good": ApiKey, "bad": Order}
    )

    with pytest.raises(UndecodableBody, match="where the task's annotation names Order"):
        await resolve_references(arguments)


def saved(row: Base) -> Base:
    make_transient_to_detached(row)
    return row


ROWS = [saved(Order(id=1)), saved(BigOrder(id=2)), saved(ApiKey(id=3))]


@settings(max_examples=60)
@given(st.sampled_from([*REFUSING, *ALLOWING]), st.sampled_from(ROWS))
def test_what_the_dispatch_takes_the_worker_takes(annotation: Any, row: Base) -> None:
    for value in (row, [row], {"a": row}):
        try:
            data = pack_arguments("Task", {"x": value}, {"x": annotation})
        except UnserializableValue as error:
            text = str(error)
        else:
            [found] = unpack_arguments(data, {"x": annotation}).values()
            while isinstance(found, list | dict):
                [found] = found.values() if isinstance(found, dict) else found
            allowed = cast("ModelReference", found).allowed
            assert allowed is None or issubclass(type(row), allowed)
            continue
        assert "the annotation does not name its class there" in text


@pytest.mark.parametrize(
    ("annotation", "row"), [(str, ROWS[2]), (Order, ROWS[2]), (BigOrder, ROWS[0]), (list[int], ROWS[0])]
)
def test_a_row_that_the_worker_would_refuse_is_refused_at_the_dispatch(annotation: Any, row: Base) -> None:
    with pytest.raises(
        UnserializableValue, match=r"^Task\.x: .* is a model, and the annotation does not name its class"
    ):
        pack_arguments("Task", {"x": row}, {"x": annotation})


# --- validate = True ------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: int
    right: str


@dataclasses.dataclass
class Money:
    amount: Annotated[int, Field(gt=0)]
    currency: str = "EUR"


class Card(BaseModel):
    number: str = Field(max_length=4)


class Pay(AsyncTask[None]):
    validate = True
    to: str
    money: Money
    cards: list[Card] = []
    pairs: dict[str, Pair] = {}
    order: "Order | None" = None
    times: Annotated[int, Field(ge=1)] = 1

    async def execute(self) -> None: ...


@task(validate=True)
def pay(to: str, *rest: int, **named: Money) -> None: ...


GOOD: dict[str, Any] = {"to": "ada", "money": Money(1), "cards": [Card(number="1")], "pairs": {"a": Pair(1, "b")}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"to": 5}, r"to: Input should be a valid string"),
    ({"to": None}, r"to: Input should be a valid string"),
    ({"times": 0}, r"times: Input should be greater than or equal to 1"),
    ({"times": True}, r"times: Input should be a valid integer"),
    ({"money": Money("1")}, r"money\.amount: Input should be a valid integer"),  # type: ignore[arg-type]
    ({"money": Money(0)}, r"money\.amount: Input should be greater than 0"),
    ({"money": Money(1, b"EUR")}, r"money\.currency: Input should be a valid string"),  # type: ignore[arg-type]
    ({"cards": [Card.model_construct(number="secret")]}, r"cards\[\.\.\.\]\.number: String should have at most 4"),
    ({"pairs": {"a": Pair("x", "b")}}, r"left"),  # type: ignore[arg-type]
    ({"cards": "text"}, r"cards: Input should be a valid list"),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_wrong_types_are_refused_at_the_dispatch(changes: dict[str, Any], words: str) -> None:
    with FakeQueue() as queue, pytest.raises(DispatchError, match=words) as caught:
        Pay(**GOOD | changes).dispatch_sync()

    assert "secret" not in str(caught.value)
    queue.assert_nothing_dispatched()


def test_right_types_run_as_they_were_sent() -> None:
    with FakeQueue() as queue:
        Pay(**GOOD).dispatch_sync()
        pay("a", 1, 2, x=Money(3)).dispatch_sync()
        queue.drain_sync()
    with FakeQueue(), pytest.raises(DispatchError, match=r"x\.amount: Input should be greater than 0"):
        pay("a", x=Money(0)).dispatch_sync()


@pytest.mark.parametrize(("changes", "words"), BAD)
async def test_forged_types_are_a_dead_letter(changes: dict[str, Any], words: str) -> None:
    annotations = {"money": Money, "cards": list[Card], "pairs": dict[str, Pair]}
    packed = pack_arguments("Pay", GOOD | changes, annotations)
    envelope = Envelope(
        task=f"{__name__}:Pay", arguments=packed, max_attempts=3, retry=Fixed(delay_s=1), dispatched_at=1.0
    )
    factory = TaskFactory(Application(()))

    with pytest.raises(BadArguments, match=words) as caught:
        await factory.build(await factory.find("id", 1, factory.decode("id", encode_envelope(envelope))))

    assert dead_reason_of(caught.value) is DeadReason.BAD_ARGUMENTS


def test_a_method_of_that_name_is_told_at_once() -> None:
    def execute(self: Any) -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"Made\.validate must be True or False.*another name"):
        type("Made", (SyncTask,), {"__module__": __name__, "execute": execute, "validate": execute})


def test_without_pydantic_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    with pytest.raises(MissingExtra, match=r"needs pydantic 2; install it with: pip install 'pydantic>=2'"):
        validate_arguments({"x": 1}, {"x": Annotated[int, "not seen before"]})
