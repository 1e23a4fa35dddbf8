"""Exceptions as stored texts, and as bytes that bring one from a child process to its worker.

No exception object crosses a process boundary: its class is found among what is imported already.
"""

import builtins
import sys
from typing import cast

from asynctasq.codec.values import pack, unpack
from asynctasq.core.tracebacks import RemoteTraceback, drop_library_frames, traceback_text
from asynctasq.errors import CodecError, DispatchError
from asynctasq.kernel.messages import ErrorRecord

__all__ = ["RemoteError", "pack_exception", "record_of", "unpack_exception"]


class RemoteError(Exception):
    """Replaces an exception of a child process whose class is not imported here, or that can't be made again."""


def record_of(error: BaseException) -> ErrorRecord:
    """Return the texts to store of an exception; of a long traceback the end. No locals are in them."""
    return ErrorRecord(type=_name(type(error)), message=_text(error), traceback=traceback_text(error))


def _name(cls: type[BaseException]) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - __str__ is user code
        return f"<{type(error).__qualname__} whose text raised {type(broken).__qualname__}>"


def pack_exception(error: BaseException) -> bytes:
    """Return an exception as bytes: class name, texts, and arguments and attributes where they are serializable."""
    drop_library_frames(error)
    record = record_of(error)
    cls = type(error)
    return pack(
        [
            f"{cls.__module__}:{cls.__qualname__}",
            record.message,
            record.traceback,
            _plain(error.args),
            _plain(error.__dict__),
        ],
        path="exception",
    )


def _plain(value: object) -> object:
    try:
        pack(value, path="exception")
    except (CodecError, DispatchError):
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
    except Exception:  # noqa: BLE001 - __new__ may be user code
        return None
    return error


def _find(name: str) -> type[BaseException] | None:
    module_name, _, qualname = name.partition(":")
    found: object = sys.modules.get(module_name, builtins if module_name == "builtins" else None)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
