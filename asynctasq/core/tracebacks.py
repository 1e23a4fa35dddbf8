"""An exception's texts, whatever its class does when asked for them: none raises, and each has a bounded size.

The traceback is what the interpreter would print, made fast when the same lines fail again and again.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, TracebackType

from asynctasq.kernel.messages import bounded_text

__all__ = [
    "MESSAGE_BYTES_MAX",
    "NAME_BYTES_MAX",
    "TRACEBACK_BYTES_MAX",
    "RemoteTraceback",
    "class_name",
    "drop_library_frames",
    "exception_text",
    "traceback_text",
]

LIBRARY_PREFIX = f"{Path(__file__).parents[1]}{os.sep}"

NAME_BYTES_MAX = 500
MESSAGE_BYTES_MAX = 4_000
TRACEBACK_BYTES_MAX = 16_000
"""How much of a class's name, of a message and of a traceback is kept, in bytes as they are stored."""

FRAMES_MAX = 64
"""Deeper stacks are formatted by the standard library, which shortens the repetitions of a recursion."""

FRAME_TEXTS_MAX = 1024

UNQUALIFIED_MODULES = ("builtins", "__main__")

DETAILED_ERRORS = (SyntaxError, AttributeError, ImportError)
"""Their text holds source lines, or names similar to the one not found."""

HEADER = "Traceback (most recent call last):\n"

_frame_texts: dict[tuple[CodeType, str, int], str] = {}


class RemoteTraceback(Exception):
    """Carries the traceback of a child process as the cause of the exception raised from it."""


def drop_library_frames(error: BaseException) -> None:
    """Drop the frames above the user's code, which may be in a child process.

    A traceback without user code stays whole: then the fault is in asynctasq.
    """
    with suppress(BaseException):  # the attributes of an exception may be user code
        if isinstance(error.__cause__, RemoteTraceback):
            error.__traceback__ = None
        for tb in _frames(error.__traceback__):
            if not tb.tb_frame.f_code.co_filename.startswith(LIBRARY_PREFIX):
                error.__traceback__ = tb
                return


def class_name(cls: type, *, in_full: bool = True) -> str:
    """Return the name of an exception's class; `in_full` with its module, unless it is a builtin."""
    try:
        module = f"{cls.__module__}." if in_full and cls.__module__ != "builtins" else ""
        return bounded_text(f"{module}{cls.__qualname__}", NAME_BYTES_MAX)
    except BaseException:  # noqa: BLE001 - a metaclass may be user code
        return "<a class without a name>"


def exception_text(error: BaseException, convert: Callable[[object], str] = str) -> str:
    """Return the `str` or `repr` of an exception, or what that raised; half a character comes escaped."""
    try:
        text = "".join((convert(error),))  # of a subclass of str a plain one
        text = _encodable(text)
    except BaseException as broken:  # noqa: BLE001 - __str__ is user code, and may even exit
        names = [class_name(type(each), in_full=False) for each in (error, broken)]
        return f"<{names[0]} whose text raised {names[1]}>"
    return bounded_text(text, MESSAGE_BYTES_MAX)


def traceback_text(error: BaseException) -> str:
    """Return the text of `traceback.format_exception`; the end of a long one wins. Holds no locals."""
    try:
        text = _text(error)
    except BaseException as broken:  # noqa: BLE001 - formatting calls __str__ and __repr__ of user code
        text = f"<traceback could not be formatted: {class_name(type(broken), in_full=False)}>"
    return bounded_text(_encodable(text), TRACEBACK_BYTES_MAX, keep_end=True)


def _encodable(text: str) -> str:
    """Escape halves of characters, which no stream and no backend takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(error: BaseException) -> str:
    """Join the texts of the frames, each of which is formatted once.

    Formatting a frame stats, reads and parses its source file. The text of a frame depends on nothing but its
    instruction, as long as the file is what was imported.
    """
    frames = list(_frames(error.__traceback__))
    if _needs_standard_text(error) or not 0 < len(frames) <= FRAMES_MAX or _repeats(frames):
        return "".join(map(_bounded_part, traceback.format_exception(error)))
    return "".join([HEADER, *map(_frame_text, frames), _last_line(error)])


def _last_line(error: BaseException) -> str:
    """Return the line that names the exception; by the standard library where that has more than its text, or fails."""
    if isinstance(error, DETAILED_ERRORS) or hasattr(error, "__notes__"):
        return "".join(map(_bounded_part, traceback.format_exception_only(error)))
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - __str__ of user code may raise anything
        return "".join(map(_bounded_part, traceback.format_exception_only(error)))
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in UNQUALIFIED_MODULES else f"{kind.__module__}.{kind.__qualname__}"
    return _bounded_part(f"{name}: {message}\n" if message else f"{name}\n")


def _bounded_part(text: str) -> str:
    """Return a part of a traceback that leaves room for the others."""
    bounded = bounded_text(text, MESSAGE_BYTES_MAX)
    return bounded if bounded.endswith("\n") else f"{bounded}\n"


def _frames(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _needs_standard_text(error: BaseException) -> bool:
    """Return whether the text holds other exceptions, or suggestions taken from the names in the frames."""
    context = None if error.__suppress_context__ else error.__context__
    return isinstance(error, BaseExceptionGroup | NameError) or error.__cause__ is not None or context is not None


def _repeats(frames: list[TracebackType]) -> bool:
    """Return whether one function calls itself twice: the standard library counts the lines that repeat."""
    names = [(tb.tb_frame.f_code.co_filename, tb.tb_frame.f_code.co_name) for tb in frames]
    return any(first == second == third for first, second, third in zip(names, names[1:], names[2:], strict=False))


def _frame_text(tb: TracebackType) -> str:
    """Return the lines of one frame, from the cache if they are there."""
    code = tb.tb_frame.f_code
    key = (code, code.co_filename, tb.tb_lasti)  # code objects are equal across files
    text = _frame_texts.get(key)
    if text is None:
        if len(_frame_texts) >= FRAME_TEXTS_MAX:
            _frame_texts.clear()
        text = _frame_texts[key] = "".join(traceback.format_tb(tb, limit=1))
    return text
