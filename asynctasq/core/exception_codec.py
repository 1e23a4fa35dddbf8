"""Exceptions as stored texts, and as bytes that bring one from a child process to its worker.

No exception object crosses a process boundary: its class is found among what is imported already.
"""

import builtins
import logging
import sys
from typing import cast

from asynctasq.codec.limits import Limits
from asynctasq.codec.values import pack, unpack
from asynctasq.core.tracebacks import (
    RemoteTraceback,
    class_name,
    drop_library_frames,
    exception_text,
    traceback_text,
)
from asynctasq.kernel.messages import ErrorRecord

__all__ = ["RemoteError", "log_error", "pack_exception", "record_of", "unpack_exception"]

NAME_CHARS_MAX = 500
PARTS_LIMITS = Limits(body_bytes_max=64 * 1024)
"""How large the arguments and the attributes of an exception may be to leave a child process with it."""


class RemoteError(Exception):
    """Replaces an exception of a child process whose class is not imported here, or that can't be made again."""


def record_of(error: BaseException) -> ErrorRecord:
    """Return the texts to store of an exception; of a long traceback the end. No locals are in them.

    Whatever the exception's class does when asked for its texts, this returns, and the texts have a bounded size.
    """
    return ErrorRecord(type=class_name(type(error)), message=exception_text(error), traceback=traceback_text(error))


def log_error(logger: logging.Logger, level: int, text: str, error: BaseException) -> None:
    """Log what user code raised: with the exception itself, or its stored texts where a handler could not format it."""
    record = record_of(error)
    if not record.message.endswith(" characters more]"):
        try:
            logger.log(level, "%s", text, exc_info=error)
        except BaseException:  # noqa: BLE001, S110 - formatting calls __str__ of user code, which may even exit
            pass
        else:
            return
    logger.log(level, "%s", text, exc_info=RemoteTraceback(f"\n{record.traceback}"))


def pack_exception(error: BaseException) -> bytes:
    """Return an exception as bytes: class name, texts, and arguments and attributes where they are serializable."""
    drop_library_frames(error)
    record = record_of(error)
    texts = [_sendable(text) for text in (_qualified_name(error), record.message, record.traceback)]
    return pack([*texts, _plain(error, "args"), _plain(error, "__dict__")], path="exception")


def _qualified_name(error: BaseException) -> str:
    """Return by what name the worker may find the class: one that is cut is not found, and a RemoteError is made."""
    try:
        return f"{type(error).__module__}:{type(error).__qualname__}"[:NAME_CHARS_MAX]
    except BaseException:  # noqa: BLE001 - a metaclass may be user code
        return ":" + class_name(type(error))


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(error: BaseException, name: str) -> object:
    """Return an attribute of the exception if it can travel; asking for it and packing it may run user code."""
    try:
        value: object = getattr(error, name)
        pack(value, path="exception", limits=PARTS_LIMITS)
    except BaseException:  # noqa: BLE001 - whatever that raises, the attempt ends by the error it had
        return None
    return value


def unpack_exception(data: bytes) -> BaseException:
    """Return an exception like the one packed, its child's traceback as the cause.

    The class must be a builtin or in a module that is imported already; else the result is a `RemoteError`.
    """
    name, message, trace, args, attributes = cast("tuple[str, str, str, object, object]", unpack(data))
    error = _restore(_find(name), args, attributes) or RemoteError(f"{name.partition(':')[2]}: {message}")
    error.__cause__ = RemoteTraceback(f"\n{trace}")
    return error


def _restore(cls: type[BaseException] | None, args: object, attributes: object) -> BaseException | None:
    """Make an exception without calling its constructor, whose parameters may differ from its `args`."""
    if cls is None or not isinstance(args, tuple):
        return None
    arguments = cast("tuple[object, ...]", args)
    try:
        error = cls.__new__(cls, *arguments)
        error.args = arguments
        if isinstance(attributes, dict):
            error.__dict__.update(cast("dict[str, object]", attributes))
    except BaseException:  # noqa: BLE001 - __new__ may be user code
        return None
    return error


def _find(name: str) -> type[BaseException] | None:
    module_name, _, qualname = name.partition(":")
    found: object = sys.modules.get(module_name, builtins if module_name == "builtins" else None)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
