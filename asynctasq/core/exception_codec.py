"""Exceptions as stored texts, and as bytes that bring one from a child process to its worker.

No exception object crosses a process boundary: its class is found among what is imported already.
"""

import builtins
import logging
import sys
from collections.abc import Collection
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

__all__ = ["RemoteError", "is_one_of", "log_error", "pack_exception", "record_of", "unpack_exception"]

NAME_CHARS_MAX = 500
CLASSES_MAX = 30
"""Of how many classes that an exception derives from the names leave a child process."""
PARTS_LIMITS = Limits(body_bytes_max=64 * 1024)
"""How large the arguments and the attributes of an exception may be to leave a child process with it."""


class RemoteError(Exception):
    """Replaces an exception of a child process whose class is not imported here, or that can't be made again.

    `classes` are the names, `module:qualname`, of the class it has there and of those that this derives from.
    """

    def __init__(self, text: str, classes: Collection[str] = ()) -> None:
        super().__init__(text)
        self.classes = classes


def is_one_of(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception is of one of these types, here or in the child process that raised it."""
    if type(error) is RemoteError:
        return any(_name_of(one) in error.classes for one in types)
    return issubclass(type(error), types)


def record_of(error: BaseException) -> ErrorRecord:
    """Return the texts to store of an exception; of a long traceback the end. No locals are in them.

    Whatever the exception's class does when asked for its texts, this returns, and the texts have a bounded size.
    """
    return ErrorRecord(type=class_name(type(error)), message=exception_text(error), traceback=traceback_text(error))


def log_error(logger: logging.Logger, level: int, text: str, error: BaseException) -> None:
    """Log what user code raised: with the exception itself, or its stored texts where a handler could not format it.

    Formatters find those texts made already: they hold no half characters, and are bounded.
    """
    stored = record_of(error)
    if logger.isEnabledFor(level) and not stored.message.endswith(" characters more]"):
        try:
            path, line, function, _ = logger.findCaller()
            raised = (type(error), error, error.__traceback__)
            record = logger.makeRecord(logger.name, level, path, line, "%s", (text,), raised, function)
            record.exc_text = stored.traceback
            logger.handle(record)
        except BaseException:  # noqa: BLE001, S110 - a handler may call __str__ of user code, which may even exit
            pass
        else:
            return
    logger.log(level, "%s", text, exc_info=RemoteTraceback(f"\n{stored.traceback}"))


def pack_exception(error: BaseException) -> bytes:
    """Return an exception as bytes: class name, texts, and arguments and attributes where they are serializable."""
    drop_library_frames(error)
    record = record_of(error)
    texts = [_sendable(text) for text in (_qualified_name(error), record.message, record.traceback)]
    classes = [_sendable(name) for name in _class_names(error)]
    return pack([*texts, _plain(error, "args"), _plain(error, "__dict__"), classes], path="exception")


def _qualified_name(error: BaseException) -> str:
    """Return by what name the worker may find the class: one that is cut is not found, and a RemoteError is made."""
    try:
        return _name_of(type(error))
    except BaseException:  # noqa: BLE001 - a metaclass may be user code
        return ":" + class_name(type(error))


def _name_of(cls: type[object]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"[:NAME_CHARS_MAX]


def _class_names(error: BaseException) -> list[str]:
    """Return the names of the exception's class and of those it derives from."""
    try:
        return [_name_of(cls) for cls in type(error).__mro__[:CLASSES_MAX]]
    except BaseException:  # noqa: BLE001 - a metaclass may be user code
        return []


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
    name, message, trace, args, attributes, classes = cast(
        "tuple[str, str, str, object, object, list[str]]", unpack(data)
    )
    error = _restore(_find(name), args, attributes)
    if error is None:
        error = RemoteError(f"{name.partition(':')[2]}: {message}", classes)
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
