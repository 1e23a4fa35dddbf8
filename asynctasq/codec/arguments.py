"""A task's arguments to bytes and back, by its annotations: lossless, or an error that names the path."""

from collections.abc import Mapping
from typing import cast

from asynctasq.codec.annotations import check_rebuildable, rebuild
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.orm.references import UnresolvedArguments
from asynctasq.codec.values import Decoding, Encoding
from asynctasq.errors import UndecodableBody
from asynctasq.kernel.envelope import VAR_KEYWORD

__all__ = ["pack_arguments", "pack_result", "unpack_arguments", "unpack_result"]


def pack_arguments(
    task_name: str,
    arguments: Mapping[str, object],
    annotations: Mapping[str, object],
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Return the bytes of the arguments; `annotations` are resolved type hints by parameter name.

    Raises: UnserializableValue naming the path (`SendEmail.attachments[2]`), BodyTooLarge.
    """
    label = task_name.rpartition(":")[2]
    encoding = Encoding(limits)
    data = encoding.encode_named(dict(arguments), label=label)
    if encoding.annotated:
        for name, value in arguments.items():
            check_rebuildable(value, _annotation(annotations, name), path=f"{label}.{name}")
    return data


def unpack_arguments(
    data: bytes, annotations: Mapping[str, object], limits: Limits = DEFAULT_LIMITS
) -> dict[str, object]:
    """Return the arguments, rebuilt as the annotations say; `resolve_references` then loads models.

    Raises: UndecodableBody.
    """
    decoding = Decoding(limits)
    value = decoding.decode(data)
    if type(value) is not dict or not {str}.issuperset(map(type, cast("dict[object, object]", value))):
        raise UndecodableBody("the arguments are not a map of names to values")
    arguments = cast("dict[str, object]", value)
    if decoding.records or decoding.references:
        arguments = {name: rebuild(item, _annotation(annotations, name), path=name) for name, item in arguments.items()}
    return UnresolvedArguments(arguments) if decoding.references else arguments


def _annotation(annotations: Mapping[str, object], name: str) -> object:
    return annotations[name] if name in annotations else annotations.get(VAR_KEYWORD)


def pack_result(task_name: str, result: object, annotation: object, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of what a task returned; `annotation` is its resolved return type.

    Raises: UnserializableValue, BodyTooLarge.
    """
    path = f"result of {task_name.rpartition(':')[2]}"
    encoding = Encoding(limits)
    data = encoding.encode(result, path=path)
    if encoding.annotated:
        check_rebuildable(result, annotation, path=path)
    return data


def unpack_result(data: bytes, annotation: object, limits: Limits = DEFAULT_LIMITS) -> object:
    """Return the result, rebuilt as the annotation says; raise UndecodableBody if the bytes are not one."""
    decoding = Decoding(limits)
    value = decoding.decode(data)
    return rebuild(value, annotation, path="result") if decoding.records or decoding.references else value
