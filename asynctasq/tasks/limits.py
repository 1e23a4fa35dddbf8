"""What users write to limit a task: `ConcurrencyLimit` and `RateLimit`; and what their names are for one dispatch."""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from operator import attrgetter
from typing import Any, cast

from asynctasq.errors import DispatchError, TaskDefinitionError
from asynctasq.kernel.limits import COUNT_MAX, TEXT_CHARS_MAX, LimitRule
from asynctasq.tasks.options import Duration, seconds, whole_number

__all__ = ["ConcurrencyLimit", "Limit", "RateLimit", "limits_in", "rules_of", "texts_of"]


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most `count` attempts at once, whichever workers run them, of all tasks that have a limit of this name.

    A name may have placeholders: `"stripe:{self.account}"` on a class, `"stripe:{account}"` on a function.

    Raises: ValueError for a name or number that can't be one.
    """

    name: str
    count: int

    def __post_init__(self) -> None:
        _check(self.name, self.count, "ConcurrencyLimit")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` starts in any window of `per` seconds, of all tasks that have a rate limit of this name.

    The name is as that of a `ConcurrencyLimit`; a limit of the other kind never shares its tokens.

    Raises: ValueError for a name, number or duration that can't be one.
    """

    name: str
    count: int
    _: KW_ONLY
    per: Duration

    def __post_init__(self) -> None:
        _check(self.name, self.count, "RateLimit")
        seconds(self.per, f"RateLimit({self.name!r}): per", above_zero=True)


Limit = ConcurrencyLimit | RateLimit


def _check(name: object, count: object, kind: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= TEXT_CHARS_MAX:
        shown = repr(name)[:80]
        raise ValueError(f"{kind}: the name must be a text of 1 to {TEXT_CHARS_MAX} characters, not {shown}")
    whole_number(count, f"{kind}({name!r}): count", least=1, most=COUNT_MAX)
    _placeholders(name)


def _placeholders(name: str) -> list[str]:
    """Return the placeholders of a name.

    Raises: ValueError for one that is more than a name with attributes.
    """
    try:
        parts = list(string.Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"the name of the limit {name!r} has a wrong placeholder: {error}") from error
    for _, placeholder, spec, conversion in parts:
        if placeholder is None:
            continue
        if spec or conversion or not all(part.isidentifier() for part in placeholder.split(".")):
            raise ValueError(
                f"the name of the limit {name!r} has a wrong placeholder: write {{self.attribute}} on a task class, "
                "{parameter} on a function, and {{ for a brace"
            )
    return [placeholder for _, placeholder, _, _ in parts if placeholder is not None]


def limits_in(cls: type[Any], parameters: Sequence[str] | None, known: Iterable[str] | None) -> list[Limit]:
    """Return the limits of a task class, checked.

    A placeholder names one of `parameters`, those of a function; or, without them, an attribute, one of `known` or of
    the class, where it is known which there are.

    Raises: TaskDefinitionError.
    """
    given: object = cls.limits
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TaskDefinitionError(f"{cls.__qualname__}: limits must be a list of limits, not {given!r}")
    found: dict[tuple[type, str], Limit] = {}
    for limit in cast("Sequence[object]", given):
        if not isinstance(limit, ConcurrencyLimit | RateLimit):
            raise TaskDefinitionError(
                f"{cls.__qualname__}: limits must hold ConcurrencyLimit(...) and RateLimit(...), not {limit!r}"
            )
        if (type(limit), limit.name) in found:
            raise TaskDefinitionError(
                f"{cls.__qualname__} has two limits of the name {limit.name!r}; give one of them another name"
            )
        found[type(limit), limit.name] = limit
        for placeholder in _placeholders(limit.name):
            wrong = _wrong_placeholder(cls, placeholder, parameters, known)
            if wrong:
                raise TaskDefinitionError(f"{cls.__qualname__}: the name of the limit {limit.name!r} {wrong}")
    return list(found.values())


def _wrong_placeholder(
    cls: type[object], placeholder: str, parameters: Sequence[str] | None, known: Iterable[str] | None
) -> str:
    """Return what is wrong with a placeholder, nothing if it is right."""
    first, _, rest = placeholder.partition(".")
    if parameters is not None:
        return (
            "" if first in parameters else f"names {first!r}, which is no parameter: {', '.join(parameters) or 'none'}"
        )
    if first != "self" or not rest:
        return f"has the placeholder {{{placeholder}}}; on a task class write {{self.{placeholder}}}"
    attribute = rest.partition(".")[0]
    if known is None or attribute in known or hasattr(cls, attribute):
        return ""
    return f"names self.{attribute}, which the task does not have"


def texts_of(limits: Iterable[Limit], task: object, arguments: Mapping[str, object], name: str) -> dict[str, str]:
    """Return what names with placeholders are for a task, by how they are written.

    A placeholder is looked up in `arguments`, those of a function, or in `self`.

    Raises: DispatchError for a value that is not there or makes no name.
    """
    scope = {**arguments, "self": task}
    return {limit.name: _filled(limit.name, scope, name) for limit in limits if any(_placeholders(limit.name))}


def _filled(template: str, scope: Mapping[str, object], name: str) -> str:
    made: list[str] = []
    for literal, placeholder, _, _ in string.Formatter().parse(template):
        made.append(literal)
        if placeholder is not None:
            made.append(_value(placeholder, scope, template, name))
    text = "".join(made)
    if not 0 < len(text) <= TEXT_CHARS_MAX:
        raise DispatchError(
            f"{name}: the limit {template!r} is called {text[:80]!r}... here, which has {len(text):,} characters; the "
            f"limit is {TEXT_CHARS_MAX}: name something shorter, such as an id"
        )
    return text


def _value(placeholder: str, scope: Mapping[str, object], template: str, name: str) -> str:
    first, _, rest = placeholder.partition(".")
    try:
        value = attrgetter(rest)(scope[first]) if rest else scope[first]
        if type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__:
            raise TypeError(f"an object of {type(value).__qualname__} has no text of its own")
        return str(value)
    except Exception as error:
        raise DispatchError(f"{name}: {{{placeholder}}} in the limit {template!r} has no value: {error}") from error


def rules_of(limits: Iterable[Limit], texts: Mapping[str, str] | None) -> list[LimitRule]:
    """Return the rules for a message that was dispatched with these texts, in an order that is the same for all tasks.

    A limit with placeholders that the code did not have yet at the dispatch has no text, and does not count.
    """
    rules: list[LimitRule] = []
    for limit in limits:
        text = (texts or {}).get(limit.name)
        if text is None:
            if any(_placeholders(limit.name)):
                continue
            text = limit.name.format()
        per_s = 0.0 if isinstance(limit, ConcurrencyLimit) else seconds(limit.per, "per", above_zero=True)
        rules.append(LimitRule(text, limit.count, per_s))
    return sorted({rule.key: rule for rule in rules}.values(), key=lambda rule: rule.key)
