"""Turns an annotation into a strategy for its values: plain types and containers; `records` has the classes."""

import collections.abc
import datetime as dt
import pathlib
import types
import typing
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

from asynctasq.testing.strategies.hypothesis import SearchStrategy, st
from asynctasq.testing.strategies.records import AnnotationContext, bindings_of, constrained, record_strategy

__all__ = ["ANYTHING", "Resolver"]

Values: TypeAlias = SearchStrategy[Any]


PATH_NAMES: Final = st.lists(st.text("abcxyz019 ._-é", min_size=1, max_size=8), max_size=3).map("/".join)

SCALARS: Final[Mapping[object, Values]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    bytes: st.binary(),
    complex: st.complex_numbers(allow_nan=False, allow_infinity=False),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    dt.datetime: st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    dt.date: st.dates(),
    dt.time: st.times(timezones=st.none() | st.just(dt.UTC)),
    dt.timedelta: st.timedeltas(),
    uuid.UUID: st.uuids(),
    pathlib.Path: PATH_NAMES.map(pathlib.Path),
    pathlib.PurePath: PATH_NAMES.map(pathlib.Path),
    pathlib.PurePosixPath: PATH_NAMES.map(pathlib.PurePosixPath),
    pathlib.PureWindowsPath: PATH_NAMES.map(pathlib.PureWindowsPath),
}
"""Infinities and NaN travel, too; yet they are seldom what a test is about, and NaN is not equal to itself."""

CONSTRAINED: Final = frozenset[object]({int, float, str, bytes, Decimal})
"""Of these Hypothesis itself knows how to keep bounds and lengths without trying."""

KEYS: Final[Values] = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.binary())
ANYTHING: Final[Values] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), SCALARS[float], st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)

LISTS: Final = frozenset[object](
    {
        list,
        collections.abc.Sequence,
        collections.abc.MutableSequence,
        collections.abc.Collection,
        collections.abc.Iterable,
    }
)
SETS: Final = frozenset[object]({set, collections.abc.Set, collections.abc.MutableSet})
DICTS: Final = frozenset[object]({dict, collections.abc.Mapping, collections.abc.MutableMapping})
UNIONS: Final = frozenset[object]({typing.Union, types.UnionType})
INNER_FORMS: Final = frozenset[object]({typing.Required, typing.NotRequired, typing.Final})


class Resolver:
    """Finds the values of the annotations of one signature. A class that holds itself is looked at once."""

    def __init__(self) -> None:
        self._known: dict[object, Values] = {}

    def values(self, annotation: object, context: AnnotationContext) -> Values:
        """Return a strategy for what `annotation` says.

        Raises: NoStrategy naming the path.
        """
        if annotation is None:
            return st.none()
        if _is_unspecific(annotation):
            return ANYTHING
        if isinstance(annotation, SearchStrategy):
            return _given(annotation)
        if isinstance(annotation, str | typing.ForwardRef):
            raise context.refuse(f"the name {annotation!r} can't be resolved there")
        if isinstance(annotation, typing.TypeVar):
            return self._variable(annotation, context)
        wrapped = _wrapped(annotation)
        if wrapped is not None:
            return self.values(wrapped, context)
        if isinstance(annotation, type) and typing.get_origin(annotation) is None:
            return self._of_class(annotation, (), context)
        return self._of_form(annotation, context)

    def _of_form(self, annotation: object, context: AnnotationContext) -> Values:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self._annotated(arguments, context)
        if origin in UNIONS:
            ordered = sorted(arguments, key=lambda argument: argument is not type(None))
            return st.one_of([self.values(argument, context) for argument in ordered])
        if origin is typing.Literal:
            return st.sampled_from(arguments)
        if _is_empty_tuple(annotation):
            return st.just(())
        if isinstance(origin, type):
            return self._of_class(origin, arguments, context)
        raise context.refuse(f"{annotation!r} says nothing about values that travel")

    def _of_class(self, cls: type, arguments: tuple[object, ...], context: AnnotationContext) -> Values:
        if cls in SCALARS:
            return SCALARS[cls]
        contained = self._container(cls, arguments, context)
        if contained is not None:
            return contained
        return self._record(cls, arguments, context)

    def _container(self, cls: type, arguments: tuple[object, ...], context: AnnotationContext) -> Values | None:
        inner = context.inside("[...]")
        if cls is tuple:
            return self._tuple(arguments, inner)
        if cls in DICTS:
            keys = self._hashable(arguments[0], inner) if arguments else KEYS
            return st.dictionaries(keys, self.values(arguments[1] if arguments else Any, inner), max_size=4)
        if cls in LISTS:
            return st.lists(self.values(arguments[0] if arguments else Any, inner), max_size=5)
        if cls in SETS or cls is frozenset:
            items = self._hashable(arguments[0], inner) if arguments else KEYS
            return (st.frozensets if cls is frozenset else st.sets)(items, max_size=4)
        return None

    def _hashable(self, annotation: object, context: AnnotationContext) -> Values:
        return KEYS if _is_unspecific(annotation) else self.values(annotation, context)

    def _tuple(self, arguments: tuple[object, ...], context: AnnotationContext) -> Values:
        if not arguments:
            return st.lists(ANYTHING, max_size=4).map(tuple)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return st.lists(self.values(arguments[0], context), max_size=4).map(tuple)
        return st.tuples(*(self.values(argument, context) for argument in arguments if argument != ()))

    def _record(self, cls: type, arguments: tuple[object, ...], context: AnnotationContext) -> Values:
        """Make values of a class of the application; the memo is what ends a class that holds itself."""
        bound = context.bound(bindings_of(cls, arguments, context.bindings))
        key = cls, tuple(sorted((str(variable), repr(value)) for variable, value in bound.bindings.items()))
        known = self._known.get(key)
        if known is None:
            made: list[Values] = []
            known = self._known[key] = st.deferred(lambda: made[0])
            made.append(record_strategy(cls, bound, self.values))
        return known

    def _annotated(self, arguments: tuple[object, ...], context: AnnotationContext) -> Values:
        kind, *metadata = arguments
        for item in metadata:
            if isinstance(item, SearchStrategy):
                return _given(item)
        return constrained(self.values(kind, context), kind if kind in CONSTRAINED else None, metadata)

    def _variable(self, variable: typing.TypeVar, context: AnnotationContext) -> Values:
        if variable in context.bindings:
            return self.values(context.bindings[variable], context.without(variable))
        choices = variable.__constraints__ or (variable.__bound__ or Any,)
        return st.one_of([self.values(choice, context) for choice in choices])


def _is_empty_tuple(annotation: object) -> bool:
    """Say whether it is `tuple[()]`; a bare `tuple` has no arguments at all."""
    return typing.get_origin(annotation) is tuple and getattr(annotation, "__args__", None) == ()


def _given(strategy: Any) -> Values:
    return cast("Values", strategy)


def _is_unspecific(annotation: object) -> bool:
    return annotation is Any or annotation is object


def _wrapped(annotation: object) -> object | None:
    """Return the type inside a NewType, a type alias, Required and the like; None for others."""
    if isinstance(annotation, typing.NewType):
        return cast("object", annotation.__supertype__)
    if type(annotation).__name__ == "TypeAliasType":
        return cast("object", annotation.__value__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - Python 3.12's `type X = ...`
    if typing.get_origin(annotation) in INNER_FORMS:
        return cast("object", typing.get_args(annotation)[0])
    return None
