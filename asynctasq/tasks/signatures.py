"""Constructor arguments: from what was given to names, and back to a call in the worker."""

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import GenericAlias
from typing import Any, ClassVar, cast

from asynctasq.kernel.envelope import VAR_KEYWORD, VAR_POSITIONAL

__all__ = ["Signature", "field_names", "signature_of", "signature_of_fields"]

_CLASS_VAR = r"(?:\w+\s*\.\s*)?ClassVar\b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a constructor or function takes, `self` left out.

    `plain` means that every argument can be given by name, and the first `by_place` of `names` by place, too; `open`
    that names it does not know are taken, too, but for private ones and those in `taken`, where the arguments become
    attributes of the class `owner`.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    known: frozenset[str]
    open: bool
    plain: bool
    by_place: int
    inspected: inspect.Signature
    annotations: Mapping[str, object]
    owner: str = ""
    taken: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset()

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Mapping[str, object]:
        """Return the arguments by name; raise TypeError if they do not fit."""
        if self.plain and len(args) <= self.by_place:  # the library's way takes several times as long
            given = {**dict(zip(self.names, args, strict=False)), **kwargs} if args else kwargs
            if len(given) == len(args) + len(kwargs) and self.fits(given):
                return given
        bound = self.inspected.bind(*args, **kwargs)
        arguments: dict[str, object] = {}
        for name, value in bound.arguments.items():
            kind = self.inspected.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                arguments[VAR_POSITIONAL] = list(value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                self._check_extra(value)
                arguments.update(value)
            else:
                arguments[name] = value
        return arguments

    def defaults(self) -> Mapping[str, object]:
        """Return the arguments that need not be given, with their values."""
        parameters = self.inspected.parameters.values()
        return {
            parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty
        }

    def _check_extra(self, names: Mapping[str, object]) -> None:
        """Refuse keywords that would travel under the name of another argument."""
        if self.plain:
            return
        clashes = [name for name in names if name in self.names or name == VAR_POSITIONAL]
        if clashes:
            raise TypeError(f"keyword {clashes[0]!r} can't be told apart from a positional argument; rename it")

    def fits(self, names: Collection[str]) -> bool:
        """Say whether arguments of these names can be given; quicker than trying to bind them."""
        return self.required.issubset(names) and (
            self.known.issuperset(names) or (self.open and not any(map(self._hides, names)))
        )

    def _hides(self, name: str) -> bool:
        return name in self.taken or (bool(self.owner) and name.startswith("_"))

    def check(self, names: Collection[str]) -> None:
        """Raise TypeError that says which of these names don't fit the fields of a class, or are not there."""
        if self.fits(names):
            return
        for name in filter(self._hides, names):
            advice = "" if name in self.reserved or name.startswith("_") else ", or annotate it in the class as a field"
            raise TypeError(f"{self.owner}: argument {name!r} would hide an attribute of the task; rename it{advice}")
        unknown, missing = [name for name in names if name not in self.known], sorted(self.required.difference(names))
        text = f"got unexpected arguments: {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise TypeError(f"{self.owner}({', '.join(self.names)}) {text}")

    def unbind(self, arguments: Mapping[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return what to call with, from arguments by name; raise TypeError if they no longer fit."""
        if self.plain:
            if not self.fits(arguments):
                self.inspected.bind(**arguments)
                self.check(arguments)
            return (), dict(arguments)
        left = dict(arguments)
        positional: list[object] = []
        for name, parameter in self.inspected.parameters.items():
            by_place = parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
                parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and VAR_POSITIONAL in left
            )
            if by_place and name in left:
                positional.append(left.pop(name))
        extra = left.pop(VAR_POSITIONAL, [])
        positional += cast("list[object]", extra)
        self.inspected.bind(*positional, **left)
        return tuple(positional), left


@lru_cache(maxsize=4096)
def signature_of(function: Callable[..., Any], *, bound: bool) -> Signature:
    """Return the signature of a function; with `bound`, without its first parameter."""
    inspected = inspect.signature(function)
    parameters = list(inspected.parameters.values())[1 if bound else 0 :]
    kinds = {parameter.kind for parameter in parameters}
    named = [
        parameter.name
        for parameter in parameters
        if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    return Signature(
        names=tuple(named),
        required=frozenset(p.name for p in parameters if p.name in named and p.default is p.empty),
        known=frozenset(named),
        open=inspect.Parameter.VAR_KEYWORD in kinds,
        plain=not kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL},
        by_place=sum(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters),
        inspected=inspected.replace(parameters=parameters),
        annotations=_by_travelling_name(_annotations(function), parameters),
    )


def field_names(cls: type[object], is_base: Callable[[type[object]], bool]) -> list[str]:
    """Return the annotated public names of a class and its bases, but for class variables and those of `is_base`."""
    names: dict[str, None] = {}
    for owner in reversed(cls.__mro__):
        if not is_base(owner):
            for name, annotation in inspect.get_annotations(owner).items():
                if not name.startswith("_") and not _is_class_var(annotation):
                    names[name] = None
    return list(names)


def _is_class_var(annotation: object) -> bool:
    if isinstance(annotation, str):
        return re.match(_CLASS_VAR, annotation) is not None
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar


def signature_of_fields(
    cls: type[object], is_base: Callable[[type[object]], bool], reserved: frozenset[str]
) -> Signature:
    """Return the signature of the constructor that takes a class's fields, by name only.

    One without fields takes any name that is not `reserved`, private, or an attribute of the class.
    """
    names = [name for name in field_names(cls, is_base) if name not in reserved]
    annotations = _annotations(cls)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(cls, name, inspect.Parameter.empty))
        for name in names
    ] or [inspect.Parameter("named", inspect.Parameter.VAR_KEYWORD)]
    return Signature(
        names=tuple(names),
        required=frozenset(name for name in names if not hasattr(cls, name)),
        known=frozenset(names),
        open=not names,
        plain=True,
        by_place=0,
        inspected=inspect.Signature(parameters),
        annotations={name: annotations[name] for name in names if name in annotations},
        owner=cls.__qualname__,
        taken=reserved.union(dir(cls)).difference(names),
        reserved=reserved,
    )


def _by_travelling_name(
    annotations: Mapping[str, object], parameters: Collection[inspect.Parameter]
) -> Mapping[str, object]:
    """Return the annotations under the names under which arguments travel: those of `*rest` as one list."""
    named = dict(annotations)
    for parameter in parameters:
        if parameter.name in annotations and parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[VAR_POSITIONAL] = GenericAlias(list, (named.pop(parameter.name),))
        elif parameter.name in annotations and parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named[VAR_KEYWORD] = named.pop(parameter.name)
    return named


def _annotations(function: Callable[..., Any]) -> Mapping[str, object]:
    """Return resolved annotations; those that can't be resolved (local names) are left out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        raw = getattr(function, "__annotations__", {})
        return {name: value for name, value in raw.items() if not isinstance(value, str)}
