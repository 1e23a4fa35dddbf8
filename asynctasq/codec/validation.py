"""Checks values against annotations with pydantic, for tasks that ask for it; changes nothing and imports it late."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from asynctasq.codec.annotations import is_record
from asynctasq.codec.records import kind_of
from asynctasq.codec.shapes import field_hints
from asynctasq.errors import MissingExtra
from asynctasq.kernel.envelope import VAR_KEYWORD

__all__ = ["InvalidArguments", "validate_arguments"]

ERRORS_MAX = 5


class InvalidArguments(TypeError):
    """Arguments that are not of the types that the task's annotations name; no value is shown."""


def validate_arguments(arguments: Mapping[str, object], annotations: Mapping[str, object]) -> None:
    """Raise InvalidArguments for values that pydantic, in strict mode, does not take for what is annotated.

    The fields of dataclasses, named tuples and pydantic models are checked, too, at any depth.

    Raises: MissingExtra if pydantic 2 is not installed.
    """
    for name, value in arguments.items():
        annotation = annotations[name] if name in annotations else annotations.get(VAR_KEYWORD)
        _validate(value, annotation, name)


def _validate(value: object, annotation: object, path: str) -> None:
    if annotation is not None:
        adapter, validation_error = _adapter(annotation)
        try:
            adapter.validate_python((value,), strict=True)
        except validation_error as error:
            raise InvalidArguments(_explain(error, path)) from None
    for record, record_path in _records_in(value, path):
        cls: type = type(record)
        kind, hints = kind_of(cls), field_hints(cls)
        assert kind is not None
        for name, part in kind.parts(record):
            _validate(part, hints.get(name), f"{record_path}.{name}")


def _adapter(annotation: object) -> tuple[Any, type[Exception]]:
    try:
        return _cached_adapter(annotation)
    except TypeError:  # unhashable metadata
        return _make_adapter(annotation)


def _make_adapter(annotation: object) -> tuple[Any, type[Exception]]:
    """Return what checks a tuple of one such value: of a model alone pydantic takes no configuration."""
    try:
        from pydantic import ConfigDict, TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtra("validate = True needs pydantic 2; install it with: pip install 'pydantic>=2'") from error
    one = cast("Any", tuple).__class_getitem__((annotation,))
    return TypeAdapter(one, config=ConfigDict(arbitrary_types_allowed=True)), ValidationError


_cached_adapter = functools.lru_cache(maxsize=1024)(_make_adapter)


def _explain(error: Any, path: str) -> str:
    lines: list[str] = []
    for item in error.errors(include_input=False, include_url=False, include_context=False)[:ERRORS_MAX]:
        place = "".join(f".{part}" for part in item["loc"][1:])
        lines.append(f"{path}{place[:100]}: {item['msg'][:200]}")
    return "; ".join(lines)


def _records_in(value: object, path: str) -> Iterator[tuple[object, str]]:
    """Yield the values in containers that have fields of their own."""
    cls = type(value)
    if cls is dict:
        for key, item in cast("dict[object, object]", value).items():
            yield from _records_in(key, f"a key of {path}")
            yield from _records_in(item, f"{path}[...]")
    elif cls in {list, tuple, set, frozenset}:
        for item in cast("list[object]", value):
            yield from _records_in(item, f"{path}[...]")
    elif is_record(value):
        yield value, path
