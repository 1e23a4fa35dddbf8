"""A task's arguments to bytes and back, by its annotations: lossless, or an error that names the path."""

import struct
from collections.abc import Mapping
from typing import Final, cast

from asynctasq.codec.annotations import check_rebuildable, rebuild
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.orm.references import UnresolvedArguments, resolve_references
from asynctasq.codec.values import Decoding, Encoding
from asynctasq.errors import UndecodableBody
from asynctasq.kernel.envelope import VAR_KEYWORD

__all__ = ["load_result", "pack_arguments", "pack_result", "task_of_result", "unpack_arguments", "unpack_result"]

NAMED_PREFIX: Final = b"\xc1\x01\x00"
"""Before the name of its task, in a result that is rebuilt from an annotation. Its first byte begins no value."""
NAME_LENGTH: Final = struct.Struct(">H")


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

    Only what is rebuilt from the annotation names its task, so that others find the annotation by it.

    Raises: UnserializableValue, BodyTooLarge.
    """
    path = f"result of {task_name.rpartition(':')[2]}"
    encoding = Encoding(limits)
    data = encoding.encode(result, path=path)
    if not encoding.annotated:
        return data
    check_rebuildable(result, annotation, path=path)
    name = task_name.encode("utf-8", "surrogatepass")
    return NAMED_PREFIX + NAME_LENGTH.pack(len(name)) + name + data


def task_of_result(data: bytes) -> str | None:
    """Return the name of the task whose annotation this result is rebuilt from, None if it needs none.

    Raises: UndecodableBody if it begins as one that has a name and ends before that.
    """
    return _split_result(data)[0]


def unpack_result(data: bytes, annotation: object, limits: Limits = DEFAULT_LIMITS) -> object:
    """Return the result, rebuilt as the annotation says; raise UndecodableBody if the bytes are not one."""
    return _unpack_result(data, annotation, limits)[0]


async def load_result(data: bytes, annotation: object, limits: Limits = DEFAULT_LIMITS) -> object:
    """Do `unpack_result`, and load the models that the result refers to.

    Raises: UndecodableBody, ModelNotFoundError, and whatever the ORM raises.
    """
    value, refers = _unpack_result(data, annotation, limits)
    return (await resolve_references({"result": value}))["result"] if refers else value


def _unpack_result(data: bytes, annotation: object, limits: Limits) -> tuple[object, bool]:
    decoding = Decoding(limits)
    value = decoding.decode(_split_result(data)[1])
    if decoding.records or decoding.references:
        value = rebuild(value, annotation, path="result")
    return value, decoding.references


def _split_result(data: bytes) -> tuple[str | None, bytes]:
    """Part the name of the task from the value."""
    if not data.startswith(NAMED_PREFIX):
        return None, data
    start = len(NAMED_PREFIX) + NAME_LENGTH.size
    end = start + int.from_bytes(data[len(NAMED_PREFIX) : start], "big")
    try:
        name = data[start:end].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise UndecodableBody(f"the result names its task by bytes that are no text: {error}") from error
    if end >= len(data):
        raise UndecodableBody("the result ends before the value does")
    return name, data[end:]
