"""Values of the application's own classes that travel: enums, dataclasses, named tuples, typed dicts, pydantic's."""

import dataclasses
import enum
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from asynctasq.codec.orm.references import adapter_for
from asynctasq.codec.records import DATACLASS, ENUM, NAMED_TUPLE, PYDANTIC, URL, kind_of
from asynctasq.errors import AsyncTasqError
from asynctasq.tasks.signatures import Signature
from asynctasq.testing.strategies.hypothesis import SearchStrategy, st

__all__ = [
    "AnnotationContext",
    "NoStrategy",
    "accepted_by",
    "bindings_of",
    "constrained",
    "constructed",
    "record_strategy",
]

Values: TypeAlias = SearchStrategy[Any]
Bindings: TypeAlias = Mapping[object, object]
NOTHING_BOUND: Final[Bindings] = MappingProxyType({})

REFUSALS_MAX: Final = 100
"""A constructor that has refused so many values, and accepted none, accepts none."""

TEXTUAL: Final = frozenset[object]({str, bytes})

SCHEMES: Final = (
    "https",
    "http",
    "ftp",
    "ws",
    "wss",
    "file",
    "postgresql",
    "mysql",
    "redis",
    "amqp",
    "mongodb",
    "nats",
)
"""What pydantic's URL classes are tried with; `AnyUrl` takes all, others only their own."""


class NoStrategy(AsyncTasqError, TypeError):
    """No values can be made up for a parameter; the text says for which, why, and how to give them."""


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotationContext:
    """The context of an annotation: its parameter, the path inside it, and what type variables mean there."""

    path: str
    parameter: str
    bindings: Bindings = dataclasses.field(default_factory=lambda: NOTHING_BOUND)

    def inside(self, part: str) -> "AnnotationContext":
        """Return the context of a part."""
        return dataclasses.replace(self, path=f"{self.path}{part}")

    def bound(self, bindings: Bindings) -> "AnnotationContext":
        """Return the same context with these type variables bound."""
        return dataclasses.replace(self, bindings=bindings)

    def without(self, variable: object) -> "AnnotationContext":
        """Return the same context with `variable` unbound, so that no variable means itself."""
        return self.bound({key: value for key, value in self.bindings.items() if key is not variable})

    def refuse(self, why: str) -> NoStrategy:
        """Return the error that says that, and what to do."""
        given = self.parameter
        return NoStrategy(f"{self.path}: {why}; pass {given}=strategy, for example {given}=st.just(...)")


Resolve: TypeAlias = Callable[[object, AnnotationContext], Values]


def record_strategy(cls: type, context: AnnotationContext, resolve: Resolve) -> Values:
    """Return values of a class that the codec rebuilds; `resolve` finds those of its fields.

    Raises: NoStrategy for any other class.
    """
    if adapter_for(cls) is not None:
        raise context.refuse(f"{cls.__qualname__} is a database model, and only your test knows which rows there are")
    if typing.is_typeddict(cls):
        return _typed_dict(cls, context, resolve)
    kind = kind_of(cls)
    if kind is ENUM:
        return _members(cast("type[enum.Enum]", cls), context)
    if kind is URL:
        return _urls(cls, context)
    if kind is PYDANTIC:
        return _pydantic(cls, context, resolve)
    if kind in (DATACLASS, NAMED_TUPLE):
        return _by_signature(cls, context, resolve)
    raise context.refuse(f"{cls} is none of the types that travel")


def _by_signature(cls: type, context: AnnotationContext, resolve: Resolve) -> Values:
    """Call a dataclass or named tuple with every argument its constructor declares."""
    hints = _hints(cls, context)
    fields: dict[str, Values] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        inner = context.inside(f".{name}")
        if name not in hints:
            raise inner.refuse("it has no annotation")
        fields[name] = resolve(_without_init_var(hints[name]), inner)
    return constructed(cls, st.fixed_dictionaries(fields), context)


def _without_init_var(hint: object) -> object:
    return cast("Any", hint).type if isinstance(hint, dataclasses.InitVar) else hint


def _pydantic(cls: type, context: AnnotationContext, resolve: Resolve) -> Values:
    known = cast("Mapping[str, Any]", cls.__pydantic_fields__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - kind_of found a BaseModel
    fields: dict[str, Values] = {}
    for name, field in known.items():
        alias = field.validation_alias if isinstance(field.validation_alias, str) else field.alias
        metadata = tuple(field.metadata)
        annotation = typing.Annotated[(field.annotation, *metadata)] if metadata else field.annotation
        fields[alias or name] = resolve(annotation, context.inside(f".{name}"))
    return constructed(cls, st.fixed_dictionaries(fields), context)


def _typed_dict(cls: type, context: AnnotationContext, resolve: Resolve) -> Values:
    hints = _hints(cls, context)
    needed = cast("frozenset[str]", cls.__required_keys__)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - a TypedDict
    fields = {name: resolve(hint, context.inside(f"[{name!r}]")) for name, hint in hints.items()}
    return st.fixed_dictionaries(
        {name: values for name, values in fields.items() if name in needed},
        optional={name: values for name, values in fields.items() if name not in needed},
    )


def _members(cls: type[enum.Enum], context: AnnotationContext) -> Values:
    members = list(cls)
    if not members:
        raise context.refuse(f"{cls.__qualname__} has no members")
    if issubclass(cls, enum.Flag):
        flags = st.lists(st.sampled_from(members), unique=True)
        return flags.map(lambda chosen: functools.reduce(_both, chosen, cls(0)))
    return st.sampled_from(members)


def _both(one: Any, other: Any) -> Any:
    return one | other


def _urls(cls: type, context: AnnotationContext) -> Values:
    texts = [f"{scheme}://{rest}" for scheme in SCHEMES for rest in ("example.org/", "ada@example.org/a?b=c", "/a/b")]
    accepted = [text for text in texts if _accepts(cls, text)]
    if not accepted:
        raise context.refuse(f"{cls.__qualname__} accepts none of the URLs that were tried")
    return st.sampled_from(accepted).map(cls)


def _accepts(cls: type, text: str) -> bool:
    try:
        cls(text)
    except ValueError:
        return False
    return True


class _Counts:
    """How many values a constructor accepted and refused."""

    accepted = 0
    refused = 0


def constructed(
    make: Callable[..., Any],
    arguments: SearchStrategy[dict[str, Any]],
    context: AnnotationContext,
    signature: Signature | None = None,
) -> Values:
    """Call `make` with these arguments, by place where its `signature` wants so.

    What it refuses with a ValueError is left out.

    Raises: NoStrategy, while values are drawn, when it refuses whatever it is given.
    """
    return _built(make, arguments, context, signature, _Counts()).filter(_is_accepted)


def accepted_by(
    make: Callable[..., Any], arguments: SearchStrategy[dict[str, Any]], signature: Signature
) -> SearchStrategy[dict[str, Any]]:
    """Call `make` with these arguments until it has accepted some: its TypeError names a parameter it does not have."""
    counts = _Counts()

    def tried(given: dict[str, Any]) -> dict[str, Any]:
        if not counts.accepted:
            args, kwargs = signature.unbind(given)
            with suppress(ValueError):  # of the values, not of their names
                make(*args, **kwargs)
                counts.accepted += 1
        return given

    return arguments.map(tried)


_REFUSED: Final = object()


def _is_accepted(value: object) -> bool:
    return value is not _REFUSED


@st.composite
def _built(
    draw: st.DrawFn,
    make: Callable[..., Any],
    arguments: SearchStrategy[dict[str, Any]],
    context: AnnotationContext,
    signature: Signature | None,
    counts: _Counts,
) -> Any:
    given = draw(arguments)
    args, kwargs = ((), given) if signature is None else signature.unbind(given)
    try:
        # Through `builds`, so that a failing example is printed as the call that makes it.
        made = draw(st.builds(make, *map(st.just, args), **{name: st.just(value) for name, value in kwargs.items()}))
    except ValueError as error:
        counts.refused += 1
        if counts.refused >= REFUSALS_MAX and not counts.accepted:
            name = getattr(make, "__qualname__", repr(make))
            raise context.refuse(f"{name} refused {REFUSALS_MAX} values, the last with {error!r}") from error
        return _REFUSED
    counts.accepted += 1
    return made


def constrained(values: Values, plain: object | None, metadata: Iterable[object]) -> Values:
    """Keep the bounds and lengths of `Annotated[...]`; with `plain`, the type that Hypothesis can keep them of."""
    bounds = [bound for item in metadata for bound in _bounds(item)]
    if not bounds:
        return values
    if plain is None:
        return values.filter(lambda value: all(_keeps(value, bound) for bound in bounds))
    exact: Values = st.from_type(cast("type[Any]", typing.Annotated[(plain, *bounds)]))
    return exact.filter(_is_finite) if plain not in TEXTUAL else exact


def _bounds(item: object) -> list[object]:
    """Return what `item` says in the words of annotated-types, the vocabulary that pydantic and Hypothesis share."""
    if any(cls.__name__ == "GroupedMetadata" for cls in type(item).__mro__):
        return [bound for part in cast("Iterable[object]", item) for bound in _bounds(part)]
    return [item] if type(item).__module__ == "annotated_types" else []


def _keeps(value: Any, bound: object) -> bool:
    import annotated_types as kinds

    match bound:
        case kinds.MinLen():
            return len(value) >= bound.min_length
        case kinds.MaxLen():
            return len(value) <= bound.max_length
        case kinds.Gt():
            return bool(value > bound.gt)
        case kinds.Ge():
            return bool(value >= bound.ge)
        case kinds.Lt():
            return bool(value < bound.lt)
        case kinds.Le():
            return bool(value <= bound.le)
        case kinds.Predicate():
            return bool(bound.func(value))
        case _:
            return True


def _is_finite(value: Any) -> bool:
    return bool(value - value == 0)  # neither infinite nor NaN, of any number


def _hints(cls: type, context: AnnotationContext) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise context.refuse(f"the annotations of {cls.__qualname__} can't be resolved ({error})") from error


def bindings_of(cls: type, arguments: tuple[object, ...], outer: Bindings) -> Bindings:
    """Return what type variables mean in `cls[arguments]`, those of its bases too, as in `class Names(Box[str])`."""
    own = {**_inherited(cls), **dict(zip(_parameters(cls), arguments, strict=False))}
    return {variable: outer.get(value, value) for variable, value in own.items()}


def _inherited(cls: type) -> dict[object, object]:
    bound: dict[object, object] = {}
    for base in cast("tuple[object, ...]", cls.__dict__.get("__orig_bases__", cls.__bases__)):
        origin = typing.get_origin(base)
        if isinstance(origin, type):
            bound |= _inherited(origin)
            bound |= dict(zip(_parameters(origin), typing.get_args(base), strict=False))
        elif isinstance(base, type) and base is not object:
            bound |= _inherited(base)
    return bound


def _parameters(cls: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", getattr(cls, "__parameters__", ()))
