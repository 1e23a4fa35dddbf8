"""Compiles annotations into shapes, which say what class may be at which place in a value."""

import collections.abc
import dataclasses
import enum
import functools
import itertools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, cast

from asynctasq.codec.orm.references import KEY_TYPES, adapter_for
from asynctasq.codec.records import DATACLASS, NAMED_TUPLE, PYDANTIC, kind_of

__all__ = ["ANY", "PLAIN", "Shape", "field_hints", "field_shape", "shape_of"]

Bindings = tuple[tuple[object, object], ...]
"""(type variable, its argument) pairs."""

ALIAS_DEPTH_MAX = 32
INNER_FORMS = frozenset({"ClassVar", "Final", "Required", "NotRequired", "ReadOnly", "Annotated"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """What an annotation says about one place: the classes that may be there, and the shapes of what it holds.

    A union is one shape with all its classes; a record names its class, so none has to be tried. `bases` are other
    classes, of which a model may be a subclass; an `open` place (`Any`, no annotation) may hold any model.
    """

    classes: Mapping[type, tuple[Bindings, ...]] = dataclasses.field(default_factory=dict[type, tuple[Bindings, ...]])
    typed_dicts: tuple[tuple[type, Bindings], ...] = ()
    positions: tuple["Shape", ...] = ()
    item: "Shape | None" = None
    key: "Shape | None" = None
    value: "Shape | None" = None
    bases: tuple[type, ...] = ()
    open: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing under this annotation is ever rebuilt or loaded."""
        return not (self.classes or self.typed_dicts or self.positions or self.item or self.key or self.value) and not (
            self.bases or self.open
        )

    @property
    def models(self) -> tuple[type, ...] | None:
        """The classes that a model at this place is one of, or derives from; None where it may be any."""
        return None if self.open else (*self.classes, *self.bases)

    def at(self, index: int) -> "Shape":
        """Return the shape of an element of a list, tuple or set."""
        return self.positions[index] if index < len(self.positions) else self.item or self._otherwise

    def of_key(self) -> "Shape":
        """Return the shape of a dict's keys."""
        return self.key or self._otherwise

    def of_value(self, key: object) -> "Shape":
        """Return the shape of a dict's value under `key`."""
        shapes = [self.value or self._otherwise]
        shapes += [field_shape(cls, (bindings,), key) for cls, bindings in self.typed_dicts if type(key) is str]
        return _merge(shapes)

    @property
    def _otherwise(self) -> "Shape":
        return ANY if self.open else PLAIN


PLAIN = Shape()
ANY = Shape(open=True)


def shape_of(annotation: object) -> Shape:
    """Return the compiled annotation; `PLAIN` for most, `ANY` for None, which stands for none at all."""
    try:
        return _cached(annotation)
    except TypeError:  # unhashable metadata in Annotated, or an unhashable Literal
        return _compile(annotation, {}, 0)


@functools.lru_cache(maxsize=4096)
def _cached(annotation: object) -> Shape:
    return _compile(annotation, {}, 0)


def field_shape(cls: type, bindings: tuple[Bindings, ...], name: object) -> Shape:
    """Return the shape of the field `name` of a dataclass, named tuple, TypedDict or model."""
    try:
        return _cached_field(cls, bindings, name)
    except TypeError:  # a type variable bound to something unhashable
        return _compile_field(cls, bindings, name)


@functools.lru_cache(maxsize=4096)
def _cached_field(cls: type, bindings: tuple[Bindings, ...], name: object) -> Shape:
    return _compile_field(cls, bindings, name)


def _compile_field(cls: type, bindings: tuple[Bindings, ...], name: object) -> Shape:
    hints = field_hints(cls)
    if type(name) is not str or name not in hints:
        return PLAIN if hints and kind_of(cls) is not PYDANTIC else ANY
    return _merge([_compile(hints[name], {**_inherited(cls), **dict(bound)}, 0) for bound in bindings or ((),)])


def _annotated(annotation: object, metadata: Iterable[object]) -> object:
    return cast("Any", typing).Annotated[(annotation, *metadata)]


@functools.lru_cache(maxsize=2048)
def field_hints(cls: type) -> Mapping[str, object]:
    """Return the annotations of a class's fields; none if they can't be resolved."""
    if kind_of(cls) is PYDANTIC:
        fields = cast("Mapping[str, Any]", cls.__pydantic_fields__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - a BaseModel
        return {
            name: _annotated(field.annotation, field.metadata) if field.metadata else field.annotation
            for name, field in fields.items()
        }
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError):  # a name that exists only for type checkers
        return {}


@functools.lru_cache(maxsize=2048)
def _inherited(cls: type) -> Mapping[object, object]:
    """Return what the bases of `cls` bind their type variables to, as in `class Names(Box[str])`."""
    bound: dict[object, object] = {}
    for base in _bases(cls):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and origin is not typing.Generic:
            bound |= _inherited(origin)
            bound |= dict(zip(_parameters(origin), typing.get_args(base), strict=False))
        elif isinstance(base, type) and base is not object:
            bound |= _inherited(base)
    return bound


def _bases(cls: type) -> tuple[object, ...]:
    return cast("tuple[object, ...]", cls.__dict__.get("__orig_bases__", cls.__bases__))


def _parameters(cls: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", getattr(cls, "__parameters__", ()))


def _merge(shapes: Iterable[Shape]) -> Shape:
    useful = [shape for shape in shapes if not shape.is_plain]
    if len(useful) < 2:
        return useful[0] if useful else PLAIN
    classes: dict[type, tuple[Bindings, ...]] = {}
    for shape in useful:
        for cls, bindings in shape.classes.items():
            classes[cls] = tuple(dict.fromkeys((*classes.get(cls, ()), *bindings)))
    columns = itertools.zip_longest(*(shape.positions for shape in useful), fillvalue=PLAIN)
    return Shape(
        classes=classes,
        typed_dicts=tuple(itertools.chain.from_iterable(shape.typed_dicts for shape in useful)),
        positions=tuple(_merge(column) for column in columns),
        item=_merge_optional(shape.item for shape in useful),
        key=_merge_optional(shape.key for shape in useful),
        value=_merge_optional(shape.value for shape in useful),
        bases=tuple(dict.fromkeys(itertools.chain.from_iterable(shape.bases for shape in useful))),
        open=any(shape.open for shape in useful),
    )


def _merge_optional(shapes: Iterable[Shape | None]) -> Shape | None:
    present = [shape for shape in shapes if shape is not None]
    return _merge(present) if present else None


def _compile(annotation: object, bound: Mapping[object, object], depth: int) -> Shape:
    """Compile; beyond ALIAS_DEPTH_MAX (a recursive alias) nothing is rebuilt, so dispatch refuses such values."""
    if depth > ALIAS_DEPTH_MAX or annotation is None:
        return ANY
    if isinstance(annotation, type):
        return _compile_class(annotation, ())
    if isinstance(annotation, typing.TypeVar):
        return _compile_variable(annotation, bound, depth)
    alias = _unwrap(annotation)
    if alias is not None:
        return _compile(alias, bound, depth + 1)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Union or origin is types.UnionType:
        return _merge([_compile(argument, bound, depth + 1) for argument in arguments])
    if origin is typing.Literal:
        return _merge([_compile_class(type(member), ()) for member in arguments if isinstance(member, enum.Enum)])
    if isinstance(origin, type):
        return _compile_generic(origin, arguments, bound, depth)
    return ANY


def _unwrap(annotation: object) -> object | None:
    """Return what stands inside Annotated, NewType, Required, a type alias and the like; None for others."""
    if isinstance(annotation, typing.NewType):
        return cast("object", annotation.__supertype__)
    if type(annotation).__name__ == "TypeAliasType":
        return cast("object", annotation.__value__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - Python 3.12's `type X = ...`
    if hasattr(annotation, "__metadata__"):
        return cast("object", typing.get_args(annotation)[0])
    origin = typing.get_origin(annotation)
    if getattr(origin, "_name", None) in INNER_FORMS:
        return cast("object", typing.get_args(annotation)[0])
    return None


def _compile_variable(variable: typing.TypeVar, bound: Mapping[object, object], depth: int) -> Shape:
    if variable in bound:
        without = {key: value for key, value in bound.items() if key is not variable}
        return _compile(bound[variable], without, depth + 1)
    choices = variable.__constraints__ or (variable.__bound__,)
    return _merge([_compile(choice, bound, depth + 1) for choice in choices])


def _compile_class(cls: type, bindings: Bindings) -> Shape:
    if typing.is_typeddict(cls):
        return Shape(typed_dicts=((cls, bindings),))
    if kind_of(cls) is not None or adapter_for(cls) is not None:
        return Shape(classes={cls: (bindings,)})
    if cls in SCALARS:
        return PLAIN
    if cls is object or cls is Any or cls in CONTAINERS or getattr(cls, "_is_protocol", False):
        return ANY
    return Shape(bases=(cls,))


SCALARS = KEY_TYPES | {type(None)}
CONTAINERS = frozenset[object](
    {list, dict, tuple, set, frozenset, collections.abc.Mapping, collections.abc.MutableMapping}
    | {collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Set, collections.abc.MutableSet}
    | {collections.abc.Iterable, collections.abc.Collection, collections.abc.Hashable, collections.abc.Sized}
)
NEVER_HELD = frozenset[object]({type, collections.abc.Callable})


def _compile_generic(origin: type, arguments: tuple[object, ...], bound: Mapping[object, object], depth: int) -> Shape:
    if kind_of(origin) in {DATACLASS, NAMED_TUPLE} or typing.is_typeddict(origin):
        resolved = [bound.get(argument, argument) for argument in arguments]
        return _compile_class(origin, tuple(zip(_parameters(origin), resolved, strict=False)))
    if origin in NEVER_HELD:
        return PLAIN
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        positions = tuple(_compile(argument, bound, depth + 1) for argument in arguments)
        return Shape(positions=positions) if any(not shape.is_plain for shape in positions) else PLAIN
    inner = [_compile(argument, bound, depth + 1) for argument in arguments if argument is not Ellipsis]
    if all(shape.is_plain for shape in inner):
        return PLAIN
    if issubclass(origin, collections.abc.Mapping) and len(inner) == 2:
        return Shape(key=inner[0], value=inner[1])
    return Shape(item=_merge(inner), key=_merge(inner))
