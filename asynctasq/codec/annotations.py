"""Rebuilds the application's own classes from the task's annotations; a name in a payload only chooses among them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import cast

from asynctasq.codec._structure import LEAVES, check_hashes, short_text
from asynctasq.codec.extensions import Unsupported
from asynctasq.codec.orm.references import ModelReference, adapter_for
from asynctasq.codec.records import Record, kind_of, make_container
from asynctasq.codec.shapes import Shape, field_shape, shape_of
from asynctasq.errors import UndecodableBody, UnserializableValue

__all__ = ["check_rebuildable", "is_record", "parts_of_record", "rebuild", "to_plain"]


def is_record(value: object) -> bool:
    """Return whether `value` is an enum member, dataclass, named tuple or pydantic model, and no ORM model."""
    return kind_of(type(value)) is not None and adapter_for(type(value)) is None


def to_plain(value: object) -> object:
    """Return the plain value of an enum member, dataclass, named tuple or pydantic model, one level deep.

    Raises: Unsupported for everything else, saying what to do.
    """
    kind = kind_of(type(value))
    if kind is None:
        raise Unsupported(f"{type(value)} can't be serialized; {_advice(value)}")
    return kind.take_apart(value)


def parts_of_record(value: object, path: str) -> Iterator[tuple[object, str]]:
    """Yield the fields of such a value, each with its own path."""
    kind = kind_of(type(value))
    if kind is not None:
        for name, part in kind.parts(value):
            yield part, f"{path}.{name}"


ADVICE: tuple[tuple[object, str], ...] = (
    (dict, "turn it into a plain dict with dict(...)"),
    ((list, set, frozenset), "turn it into the plain list or set"),
    (tuple, "turn it into a plain tuple with tuple(...)"),
    (bool, "turn it into a plain bool"),
    ((str, int, float, complex), "turn it into the plain str, int, float or complex"),
    ((bytes, bytearray, memoryview), "turn it into plain bytes with bytes(...)"),
    (type, "pass its name"),
    (BaseException, "pass its text"),
    (Callable, "pass data, and let the task choose the function"),
    (Iterator, "pass list(...) of it"),
)


def _advice(value: object) -> str:
    if dataclasses.is_dataclass(value):
        return "a dataclass with its own __new__ can't be rebuilt; pass its fields"
    for classes, advice in ADVICE:
        if isinstance(value, cast("type", classes)):
            return advice
    return "pass plain values (an id, a path, a dict), and make the object inside the task"


# --- dispatch: would every value be rebuilt? --------------------------------------------------------------------


def check_rebuildable(value: object, annotation: object, *, path: str) -> None:
    """Raise UnserializableValue for the first value that `annotation` would not rebuild, naming its path."""
    _check(value, shape_of(annotation), path)


def _check(value: object, shape: Shape, path: str) -> None:
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        if _all_leaves(mapping) and _all_leaves(mapping.values()):
            return
        for key, item in mapping.items():
            _check(key, shape.of_key(), f"a key of {path}")
            _check(item, shape.of_value(key), f"{path}[{short_text(key)}]")
    elif cls in {list, tuple, set, frozenset}:
        items = cast("list[object]", value)
        if not _all_leaves(items):
            for index, item in enumerate(items):
                _check(item, shape.at(index), f"{path}[{index}]")
    elif is_record(value):
        _check_record(value, shape, path)
    elif adapter_for(cls) is not None and shape.models is not None and not isinstance(value, shape.models):
        raise UnserializableValue(
            f"{path}: {cls} is a model, and the annotation does not name its class there; annotate it with "
            f"{cls.__qualname__} (in a union, a list[...] and so on, as the case may be)"
        )


def _check_record(value: object, shape: Shape, path: str) -> None:
    cls = type(value)
    kind = kind_of(cls)
    assert kind is not None
    if cls not in shape.classes:
        raise UnserializableValue(
            f"{path}: {cls} ({kind.name}) is rebuilt from the annotation, which does not name that class there; "
            f"annotate it with {cls.__qualname__} (in a union, a list[...] and so on, as the case may be)"
        )
    if sum(other.__qualname__ == cls.__qualname__ for other in shape.classes) > 1:
        raise UnserializableValue(
            f"{path}: the annotation names two classes {cls.__qualname__!r}, so {cls} could come back as the other; "
            "rename one of them"
        )
    for name, part in kind.parts(value):
        _check(part, field_shape(cls, shape.classes[cls], name), f"{path}.{name}")


def _all_leaves(items: object) -> bool:
    return LEAVES.issuperset(map(type, cast("list[object]", items)))


# --- worker: the classes rebuilt --------------------------------------------------------------------------


def rebuild(value: object, annotation: object, *, path: str) -> object:
    """Return the decoded `value` with every `Record` in it rebuilt as `annotation` says.

    A `ModelReference` gets its class where the annotation names it.

    Raises: UndecodableBody naming the path where a record does not fit.
    """
    return _rebuild(value, shape_of(annotation), path)


def _rebuild(value: object, shape: Shape, path: str) -> object:
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        keys = [_rebuild(key, shape.of_key(), f"a key of {path}") for key in mapping]
        _check_hashes(keys, path)
        items = [_rebuild(item, shape.of_value(key), f"{path}[{short_text(key)}]") for key, item in mapping.items()]
        return dict(zip(keys, items, strict=True))
    if cls in {list, tuple, set, frozenset}:
        items = cast("list[object]", value)
        if _all_leaves(items):
            return value
        rebuilt = [_rebuild(item, shape.at(index), f"{path}[{index}]") for index, item in enumerate(items)]
        if cls is set or cls is frozenset:
            _check_hashes(rebuilt, path)
        return make_container(cls, rebuilt)
    if isinstance(value, Record):
        return _rebuild_record(value, shape, path)
    if isinstance(value, ModelReference):
        return _with_model(value, shape)
    return value


def _check_hashes(values: list[object], path: str) -> None:
    try:
        check_hashes(values)
    except (Unsupported, TypeError) as error:
        raise UndecodableBody(f"{path}: {error}") from error


def _rebuild_record(record: Record, shape: Shape, path: str) -> object:
    cls = _class_for(record, shape, path)
    kind = kind_of(cls)
    assert kind is not None
    bindings = shape.classes[cls]

    def rebuild_part(name: str, part: object) -> object:
        return _rebuild(part, field_shape(cls, bindings, name), f"{path}.{name}")

    try:
        return kind.put_together(cls, kind.map_parts(cls, record.value, rebuild_part))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UndecodableBody(
            f"{path}: no {cls.__qualname__} can be made of the value in the message: {error}"
        ) from error


def _class_for(record: Record, shape: Shape, path: str) -> type:
    """Return the class of that name; the only one there is, if it was renamed since."""
    candidates = [cls for cls in shape.classes if kind_of(cls) is not None]
    named = [cls for cls in candidates if cls.__qualname__ == record.name]
    if len(named) == 1:
        return named[0]
    if len(candidates) == 1:
        return candidates[0]
    known = ", ".join(sorted(cls.__qualname__ for cls in candidates)) or "none"
    raise UndecodableBody(
        f"{path}: the message has a {short_text(record.name)}, the annotation names other classes (known: {known}); "
        "was it changed since the task was dispatched?"
    )


def _with_model(reference: ModelReference, shape: Shape) -> ModelReference:
    """Set which classes the annotation allows, and the reference's own if one of them has its name.

    In full, else without module or app.
    """
    candidates: list[type] = []
    for cls in shape.classes:
        adapter = adapter_for(cls)
        if adapter is not None and adapter.name == reference.orm:
            name = adapter.name_of(cls)
            if name == reference.model_name:
                return dataclasses.replace(reference, model=cls, allowed=shape.models)
            if _bare_name(name) == _bare_name(reference.model_name):
                candidates.append(cls)
    model = candidates[0] if len(candidates) == 1 else reference.model
    return dataclasses.replace(reference, model=model, allowed=shape.models)


def _bare_name(model_name: str) -> str:
    return model_name.rpartition(":")[2].rpartition(".")[2]
