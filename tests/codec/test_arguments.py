"""Arguments and the classes that the task's annotations rebuild."""

import dataclasses
import enum
import functools
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import msgpack
import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PostgresDsn, PrivateAttr, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from asynctasq.codec.arguments import pack_arguments, pack_result, unpack_arguments, unpack_result
from asynctasq.codec.limits import Limits
from asynctasq.codec.records import Record
from asynctasq.codec.values import Encoding, unpack
from asynctasq.errors import BodyTooLarge, UndecodableBody, UnserializableValue

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.StrEnum):
    RED = "red"
    BIG = "big"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    color: Color = Color.RED


@dataclasses.dataclass
class Item:
    name: str
    color: Color = Color.RED


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    items: tuple[Item, ...]
    best: "Item | None" = None


@dataclasses.dataclass
class Doubling:
    size: int
    made: list[str] = dataclasses.field(init=False, default_factory=list)

    def __post_init__(self):
        self.size *= 2
        self.made.append("post_init")

    @functools.cached_property
    def area(self) -> int:
        return self.size**2


@dataclasses.dataclass
class Animal:
    name: str


@dataclasses.dataclass
class Dog(Animal):
    color: Color


@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    others: list[T]


@dataclasses.dataclass
class ColorBox(Box[Color]):
    pass


@dataclasses.dataclass
class Wrapped(Generic[T]):
    box: Box[T]


@pydantic_dataclass
class Checked:
    color: Color


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = Field(alias="Name")
    items: list[Item]
    _token: int = PrivateAttr(default=0)

    @field_validator("name")
    @classmethod
    def shout(cls, name: str) -> str:
        return name + "!"


class Page(BaseModel, Generic[T]):
    rows: list[T]


class Options(TypedDict, total=False):
    color: Color
    item: typing.Required[Item]


UserColor = NewType("UserColor", Color)
AnyColor = TypeVar("AnyColor", bound=Color)
ColorOrSize = TypeVar("ColorOrSize", Color, Size)


def stable_id(value: object) -> str | None:
    """Return a test id that is the same in every process: the text of a set is not."""
    return None if "{" in str(value) or "frozenset" in str(value) else str(value)


def there_and_back(value: object, annotation: object) -> object:
    data = pack_arguments("app.mail:SendEmail", {"value": value}, {"value": annotation})
    return unpack_arguments(data, {"value": annotation})["value"]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Color.RED, Color),
        (Color.RED, Optional[Color]),  # noqa: UP045 - the older spelling, on purpose
        (None, Color | None),
        (Color.RED, Color | Size | str),
        (Size.RED, Color | Size | str),
        ("red", Color | Size | str),
        (Color.RED, Annotated[Color, ["unhashable"]]),
        (Color.RED, UserColor),
        (Color.RED, Literal[Color.RED, "x"]),
        (Rights.READ | Rights.WRITE, Rights),
        ([Color.RED, Size.BIG], list[Color | Size]),
        ((Color.RED, 1, Item("a")), tuple[Color, int, Item]),
        ((Color.RED, Color.BLUE), tuple[Color, ...]),
        ([Color.RED], Sequence[Color]),
        ((Color.RED,), Iterable[Color]),
        ({Color.RED: [Item("a")]}, dict[Color, list[Item]]),
        ({"a": Color.RED}, Mapping[str, Color]),
        ({Color.RED, Color.BLUE}, set[Color]),
        (frozenset({Color.RED}), frozenset[Color]),
        ([1, {"a": Color.RED}], list[int | dict[str, Color]]),
        (Point(1, Color.BLUE), Point),
        (Item("a", Color.BLUE), Item),
        (Frozen((Item("a"),), Item("b")), Frozen),
        (Dog("rex", Color.RED), Animal | Dog),
        (Box(Color.RED, []), Box[Color]),
        (Box(Box(1, [2]), []), Box[Box[int]]),
        (Wrapped(Box(Color.RED, [])), Wrapped[Color]),
        (ColorBox(Color.RED, [Color.BLUE]), ColorBox),
        (Checked(Color.RED), Checked),
        (Page[Item](rows=[Item("a")]), Page[Item]),
        (Page[HttpUrl](rows=["https://example.org/a?b=c"]), Page[HttpUrl]),
        (HttpUrl("https://é.example"), HttpUrl | None),
        (PostgresDsn("postgres://a:b@h1,h2/db"), PostgresDsn),
        ([Color.RED], list[AnyColor]),
        ([Color.RED], list[ColorOrSize]),
        (Color.RED, typing.Final[Color]),
        ({"color": Color.RED, "item": Item("a")}, Options),
        ([{"item": Item("a")}], list[Options]),
        ({"plain": [1, 2]}, dict[str, Any]),
    ],
    ids=stable_id,
)
def test_a_value_comes_back_as_annotated(value, annotation):
    back = there_and_back(value, annotation)

    assert back == value
    assert type(back) is type(value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_a_type_alias_is_looked_through_even_a_recursive_one():
    names: dict[str, object] = {"Color": Color}
    exec("type Tree = dict[str, Tree] | list[Tree] | Color | str", names)

    value = {"a": [Color.RED, {"b": "c"}]}

    assert there_and_back(value, names["Tree"]) == value


def test_what_needs_no_rebuilding_ignores_its_annotation():
    assert there_and_back("red", Color) == "red"
    assert there_and_back({"name": "a"}, Item) == {"name": "a"}
    assert there_and_back(3, "Unresolved") == 3


def test_no_constructor_runs_twice():
    doubled = Doubling(2)

    back = there_and_back(doubled, Doubling)

    assert (back.size, back.made) == (4, ["post_init"])


def test_a_cached_property_is_computed_again():
    doubled = Doubling(2)
    assert doubled.area == 16

    back = there_and_back(doubled, Doubling)

    assert "area" not in vars(back)
    assert back.area == 16


def test_a_pydantic_model_keeps_its_whole_state():
    model = Model(Name="a", items=[Item("b")], surplus=3)
    model._token = 7

    back = there_and_back(model, Model)

    assert back == model
    assert (back.name, back._token, back.surplus) == ("a!", 7, 3)
    assert back.model_fields_set == {"name", "items", "surplus"}
    assert type(back.items[0]) is Item


# --- refused at dispatch ---------------------------------------------------------------------------------------


def other_color() -> type[enum.Enum]:
    class Color(enum.Enum):
        RED = "red"

    Color.__qualname__ = "Color"
    return Color


@dataclasses.dataclass
class OwnNew:
    name: str

    def __new__(cls, *args):
        return super().__new__(cls)


class Nan(enum.Enum):
    NAN = float("nan")


class Holder(enum.Enum):
    ITEM = ("a", Color.RED)


def with_attribute() -> Item:
    item = Item("a")
    item.cache = {}
    return item


def half_made() -> Frozen:
    return object.__new__(Frozen)


@pytest.mark.parametrize(
    ("value", "annotation", "path", "says"),
    [
        (Color.RED, None, "", "annotate it with Color"),
        (Color.RED, str, "", "annotate it with Color"),
        (Color.RED, Any, "", "annotate it with Color"),
        (Color.RED, Size, "", "annotate it with Color"),
        ([1, {"a": Item("x")}], list[Any], "[1]['a']", "annotate it with Item"),
        ((1, Color.RED), tuple[Color, int], "[1]", "annotate it with Color"),
        ({"a": Color.RED}, dict[Color, str], "['a']", "annotate it with Color"),
        (Dog("rex", Color.RED), Animal, "", "annotate it with Dog"),
        (Box(Color.RED, []), Box[int], ".content", "annotate it with Color"),
        (Box(Color.RED, []), Box, ".content", "annotate it with Color"),
        (Holder.ITEM, Holder, ".value[1]", "annotate it with Color"),
        (Color.RED, Color | other_color(), "", "two classes 'Color'"),
        (OwnNew("a"), OwnNew, "", "own __new__"),
        (with_attribute(), Item, "", "attribute 'cache'"),
        (half_made(), Frozen, "", "is not set"),
        (Nan.NAN, Nan, "", "does not find its member again"),
        (Item(object()), Item, ".name", "<class 'object'> can't be serialized"),
        (Model(Name="a", items=[], surplus=print), Model, ".surplus", "let the task choose"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(value, annotation, path, says):
    with pytest.raises(UnserializableValue, match=says) as caught:
        pack_arguments("app.mail:SendEmail", {"ok": 1, "value": value}, {"value": annotation})

    assert str(caught.value).startswith(f"SendEmail.value{path}: ")


def test_a_hint_that_only_type_checkers_see_is_told():
    @dataclasses.dataclass
    class Hidden:
        color: "OnlyForTypeCheckers"  # noqa: F821 - that is the point

    with pytest.raises(UnserializableValue, match=r"^Task\.value\.color: "):
        pack_arguments("app:Task", {"value": Hidden(Color.RED)}, {"value": Hidden})


def test_sizes_are_told_with_the_tasks_name():
    with pytest.raises(BodyTooLarge, match=r"^Task has 1,003 bytes when encoded, the limit is 100"):
        pack_arguments("app:Task", {"a": b"x" * 997}, {}, Limits(body_bytes_max=100))


# --- decoding --------------------------------------------------------------------------------------------------


def packed(**arguments: object) -> bytes:
    return Encoding().encode(arguments, path="x")


def record(name: str, plain: object) -> msgpack.ExtType:
    return msgpack.ExtType(13, msgpack.packb([name, plain]))


def test_a_renamed_class_is_rebuilt_where_the_annotation_leaves_no_choice():
    data = packed(value=Color.RED)

    assert unpack_arguments(data, {"value": other_color() | None})["value"].name == "RED"


def test_a_field_added_since_gets_its_default():
    data = msgpack.packb(
        {
            "item": record("Item", {"name": "a"}),
            "point": record("Point", [1]),
            "model": record("Page", [{}, [], {}, {}]),
        }
    )

    class Page(BaseModel):
        rows: list[int] = Field(default_factory=lambda: [1])

    back = unpack_arguments(data, {"item": Item, "point": Point, "model": Page})

    assert back == {"item": Item("a"), "point": Point(1), "model": Page()}


@pytest.mark.parametrize(
    ("plain", "annotation", "says"),
    [
        (record("Color", "green"), Color, "value: no Color can be made"),
        (record("Color", []), Color, "value: no Color"),
        (record("Color", "red"), None, r"names other classes \(known: none\)"),
        (record("Color", "red"), Item | Size, r"known: Item, Size"),
        (record("Item", "red"), Item, "not a map of its fields"),
        (record("Item", {}), Item, "'name' of Item is not in the message and has no default"),
        (record("Item", {"name": "a", "price": 1}), Item, "no field 'price'"),
        (record("Item", {1: 2}), Item, "no field 1"),
        (record("Point", {}), Point, "not an array"),
        (record("Point", []), Point, "'x' of Point is not in the message"),
        (record("Point", [1, 2, 3]), Point, "2 fields, the message 3"),
        (record("Page", {}), Page[int], "not the state of a model"),
        (record("Page", [{}, {}, {}, {}]), Page[int], "'rows' of .* is not in the message"),
        (record("Page", [{"rows": []}, {}, {}, {}]), Page[int], "not the state of a model"),
        (record("HttpUrl", 5), HttpUrl, "not text"),
        (record("HttpUrl", "no url"), HttpUrl, "no HttpUrl can be made"),
        (record("Popen", ["id"]), Color | Size, "names other classes"),
    ],
    ids=stable_id,
)
def test_a_record_that_does_not_fit_is_undecodable(plain, annotation, says):
    with pytest.raises(UndecodableBody, match=says):
        unpack_arguments(msgpack.packb({"value": plain}), {"value": annotation})


@pytest.mark.parametrize("data", [b"\x90", b"\x81\x01\x02", b"\x01", b"\xc0"])
def test_arguments_that_are_no_map_of_names_are_undecodable(data):
    with pytest.raises(UndecodableBody, match="not a map of names"):
        unpack_arguments(data, {})


def test_without_annotations_a_record_is_seen_as_what_it_is():
    back = unpack(packed(value=Color.RED))

    assert isinstance(back["value"], Record)
    assert (back["value"].name, back["value"].value) == ("Color", "red")


def test_results_follow_the_same_rule():
    annotation = tuple[Color, int]

    data = pack_result("app:Task", (Color.RED, 1), annotation)

    assert unpack_result(data, annotation) == (Color.RED, 1)
    assert unpack_result(pack_result("app:Task", 5, None), None) == 5
    with pytest.raises(UnserializableValue, match=r"^result of Task\[0\]: .* annotate it with Color"):
        pack_result("app:Task", (Color.RED, 1), tuple)
