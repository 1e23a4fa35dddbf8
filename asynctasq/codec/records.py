"""Takes enums, dataclasses, named tuples and pydantic's models apart into plain values, and puts them together.

No constructor, validator or `__post_init__` of the user's runs in between: what comes back is the state that
was sent. A value of which something would be lost is refused when it is taken apart.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from asynctasq.codec._structure import short_text
from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import UndecodableBody

__all__ = ["Record", "RecordKind", "kind_of", "make_container"]

Fields = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A decoded plain value that the task's annotations turn into an enum, dataclass, named tuple or pydantic model.

    `name` only chooses between the classes that the annotation names; nothing is ever looked up by it.
    Compared and hashed by identity, so that it can be in a set or a key until it is rebuilt.
    """

    name: str
    value: object

    def __repr__(self) -> str:
        """Show it as who dispatched it knows it: `Address(city='Oslo')`, `Colour('red')`."""
        parts = self.value
        if isinstance(parts, dict):
            return f"{self.name}({', '.join(f'{name}={part!r}' for name, part in parts.items())})"
        return f"{self.name}({parts!r})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind:
    """How values of one kind of class are encoded and decoded.

    `take_apart` returns the plain value; `put_together` makes a value from the class and that plain value,
    whose parts are rebuilt by `map_parts` first; `parts` yields (name, part) for paths and annotations.
    """

    name: str
    take_apart: Callable[[object], object]
    put_together: Callable[[type, object], object]
    parts: Callable[[object], Iterator[tuple[str, object]]]
    map_parts: Callable[[type, object, Callable[[str, object], object]], object]


def kind_of(cls: type) -> RecordKind | None:
    """Return how values of exactly this class are encoded, or None if they are no records."""
    return _kind_of(cls)


@functools.lru_cache(maxsize=2048)
def _kind_of(cls: type) -> RecordKind | None:
    if enum.Enum in cls.__mro__:
        return ENUM
    if _is_named_tuple(cls):
        return NAMED_TUPLE
    bases = {(base.__module__, base.__name__) for base in cls.__mro__}
    if ("pydantic.main", "BaseModel") in bases:
        return PYDANTIC
    if ("pydantic.networks", "_BaseUrl") in bases or ("pydantic.networks", "_BaseMultiHostUrl") in bases:
        return URL
    if dataclasses.is_dataclass(cls) and cls.__new__ is object.__new__:
        return DATACLASS
    return None


def _is_named_tuple(cls: type) -> bool:
    # msgpack's own ExtType is one, and means something else on the wire.
    return tuple in cls.__mro__ and isinstance(getattr(cls, "_fields", None), tuple) and cls.__module__ != "msgpack.ext"


def make_container(cls: type, items: list[object]) -> object:
    """Return `items` in a list, tuple, set or frozenset, as `cls` says."""
    return items if cls is list else cast("Callable[[list[object]], object]", cls)(items)


def _refuse_extra(value: object, known: Mapping[str, object]) -> None:
    """Raise for an instance attribute that is neither a field nor recomputed on demand."""
    attributes = cast("dict[str, object]", getattr(value, "__dict__", {}))
    for name in attributes:
        if name not in known and not isinstance(getattr(type(value), name, None), functools.cached_property):
            raise Unsupported(
                f"attribute {name!r} of {type(value)} is not a field and would be lost; "
                "make it a field or a functools.cached_property"
            )


def _new(cls: type) -> object:
    """Return an instance on which no constructor has run."""
    return cast("Callable[[type], object]", object.__new__)(cls)


# --- enums -----------------------------------------------------------------------------------------------------


def _enum_apart(value: object) -> object:
    member = cast("enum.Enum", value)
    plain = cast("object", member.value)
    if not plain == plain or type(member)(plain) is not member:  # noqa: PLR0124 - NaN is not found by equality
        raise Unsupported(f"{type(member)} does not find its member again by its value; give it another value")
    return plain


def _enum_together(cls: type, plain: object) -> object:
    return cls(plain)


def _enum_parts(value: object) -> Iterator[tuple[str, object]]:
    yield "value", cast("enum.Enum", value).value


def _enum_map(_cls: type, plain: object, rebuild: Callable[[str, object], object]) -> object:
    return rebuild("value", plain)


# --- named tuples ----------------------------------------------------------------------------------------------


def _tuple_fields(cls: type) -> tuple[str, ...]:
    return cast("tuple[str, ...]", cls._fields)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - kind_of found it


def _tuple_apart(value: object) -> object:
    _refuse_extra(value, {})
    items = list(cast("tuple[object, ...]", value))
    if len(items) != len(_tuple_fields(type(value))):
        raise Unsupported(f"{type(value)} has other items than its fields")
    return items


def _tuple_together(cls: type, plain: object) -> object:
    new = cast("Callable[[type, list[object]], object]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType] - generic
    return new(cls, cast("list[object]", plain))


def _tuple_parts(value: object) -> Iterator[tuple[str, object]]:
    yield from zip(_tuple_fields(type(value)), cast("tuple[object, ...]", value), strict=False)


def _tuple_map(cls: type, plain: object, rebuild: Callable[[str, object], object]) -> object:
    if type(plain) is not list:
        raise UndecodableBody("a named tuple that is not an array")
    items = cast("list[object]", plain)
    fields = _tuple_fields(cls)
    defaults = cast("dict[str, object]", getattr(cls, "_field_defaults", {}))
    if len(items) > len(fields):
        raise UndecodableBody(f"{cls.__qualname__} has {len(fields)} fields, the message {len(items)}")
    items = [rebuild(name, item) for name, item in zip(fields, items, strict=False)]
    try:
        return items + [defaults[name] for name in fields[len(items) :]]
    except KeyError as error:
        raise UndecodableBody(f"field {error} of {cls.__qualname__} is not in the message and has no default") from None


# --- dataclasses -----------------------------------------------------------------------------------------------


def _fields_of(value: object) -> tuple["dataclasses.Field[object]", ...]:
    return dataclasses.fields(cast("Any", value))  # kind_of made sure; the stub wants a protocol


def _dataclass_apart(value: object) -> object:
    try:
        plain = dict(_dataclass_parts(value))
    except AttributeError as error:
        raise Unsupported(f"a field of {type(value)} is not set: {error}") from error
    _refuse_extra(value, plain)
    return plain


def _dataclass_together(cls: type, plain: object) -> object:
    made = _new(cls)
    for name, part in cast("Fields", plain).items():
        object.__setattr__(made, name, part)
    return made


def _dataclass_parts(value: object) -> Iterator[tuple[str, object]]:
    for field in _fields_of(value):
        yield field.name, getattr(value, field.name)


def _dataclass_map(cls: type, plain: object, rebuild: Callable[[str, object], object]) -> object:
    fields = {field.name: field for field in _fields_of(cls)}
    made = _map_fields(cls, plain, fields, rebuild)
    for name, field in fields.items():
        if name not in made:
            made[name] = _dataclass_default(cls, field)
    return made


def _dataclass_default(cls: type, field: "dataclasses.Field[object]") -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    raise UndecodableBody(f"field {field.name!r} of {cls.__qualname__} is not in the message and has no default")


def _map_fields(
    cls: type, plain: object, known: Mapping[str, object], rebuild: Callable[[str, object], object]
) -> Fields:
    if type(plain) is not dict:
        raise UndecodableBody(f"{cls.__qualname__} that is not a map of its fields")
    parts = cast("dict[object, object]", plain)
    made: Fields = {}
    for name, part in parts.items():
        if type(name) is not str or name not in known:
            raise UndecodableBody(f"{cls.__qualname__} has no field {short_text(name)}, but the message has")
        made[name] = rebuild(name, part)
    return made


# --- pydantic models (version 2) -------------------------------------------------------------------------------

STATE_PARTS: Final = 4


def _model_fields(cls: type) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", cls.__pydantic_fields__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - kind_of found a BaseModel


def _pydantic_state(value: object) -> tuple[Fields, set[str], Fields, Fields]:
    """Return (fields, names that were set, extra fields, private attributes)."""
    model = cast("Any", value)  # any BaseModel; pydantic is not imported here
    known = _model_fields(type(value))
    _refuse_extra(value, known)
    fields = {name: part for name, part in model.__dict__.items() if name in known}
    return fields, model.__pydantic_fields_set__, model.__pydantic_extra__ or {}, model.__pydantic_private__ or {}


def _pydantic_apart(value: object) -> object:
    fields, was_set, extra, private = _pydantic_state(value)
    return [fields, sorted(was_set), extra, private]


def _pydantic_together(cls: type, plain: object) -> object:
    fields, was_set, extra, private = cast("tuple[Fields, set[str], Fields, Fields]", plain)
    made = cast("Any", _new(cls))
    made.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": was_set,
            "__pydantic_extra__": extra if made.model_config.get("extra") == "allow" else None,
            "__pydantic_private__": private if cls.__private_attributes__ else None,  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - as in _model_fields
        }
    )
    return made


def _pydantic_parts(value: object) -> Iterator[tuple[str, object]]:
    fields, _was_set, extra, private = _pydantic_state(value)
    yield from fields.items()
    yield from extra.items()
    yield from private.items()


def _pydantic_map(cls: type, plain: object, rebuild: Callable[[str, object], object]) -> object:
    if type(plain) is not list or len(cast("list[object]", plain)) != STATE_PARTS:
        raise UndecodableBody(f"{cls.__qualname__} that is not the state of a model")
    fields, was_set, extra, private = cast("list[object]", plain)
    known = _model_fields(cls)
    made = _map_fields(cls, fields, known, rebuild)
    for name, field in known.items():
        if name not in made:
            if field.is_required():
                raise UndecodableBody(f"field {name!r} of {cls.__qualname__} is not in the message and has no default")
            made[name] = field.get_default(call_default_factory=True)
    if type(was_set) is not list or type(extra) is not dict or type(private) is not dict:
        raise UndecodableBody(f"{cls.__qualname__} that is not the state of a model")
    extra, private = cast("Fields", extra), cast("Fields", private)
    return (
        made,
        set(cast("list[str]", was_set)),
        {name: rebuild(name, part) for name, part in extra.items()},
        {name: rebuild(name, part) for name, part in private.items()},
    )


# --- pydantic's URLs -------------------------------------------------------------------------------------------


def _url_together(cls: type, plain: object) -> object:
    if type(plain) is not str:
        raise UndecodableBody(f"{cls.__qualname__} that is not text")
    return cls(plain)


def _no_parts(_value: object) -> Iterator[tuple[str, object]]:
    yield from ()


def _unmapped(_cls: type, plain: object, _rebuild: Callable[[str, object], object]) -> object:
    return plain


URL = RecordKind(name="pydantic URL", take_apart=str, put_together=_url_together, parts=_no_parts, map_parts=_unmapped)
ENUM = RecordKind(
    name="enum",
    take_apart=_enum_apart,
    put_together=_enum_together,
    parts=_enum_parts,
    map_parts=_enum_map,
)
NAMED_TUPLE = RecordKind(
    name="named tuple",
    take_apart=_tuple_apart,
    put_together=_tuple_together,
    parts=_tuple_parts,
    map_parts=_tuple_map,
)
DATACLASS = RecordKind(
    name="dataclass",
    take_apart=_dataclass_apart,
    put_together=_dataclass_together,
    parts=_dataclass_parts,
    map_parts=_dataclass_map,
)
PYDANTIC = RecordKind(
    name="pydantic model",
    take_apart=_pydantic_apart,
    put_together=_pydantic_together,
    parts=_pydantic_parts,
    map_parts=_pydantic_map,
)
