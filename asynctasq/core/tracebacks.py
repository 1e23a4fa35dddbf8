"""An exception's traceback as the interpreter would print it, fast when the same lines fail again and again."""

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, TracebackType

__all__ = ["TRACEBACK_CHARS_MAX", "RemoteTraceback", "drop_library_frames", "traceback_text"]

LIBRARY_PREFIX = f"{Path(__file__).parents[1]}{os.sep}"

TRACEBACK_CHARS_MAX = 16_000

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
    if isinstance(error.__cause__, RemoteTraceback):
        error.__traceback__ = None
    for tb in _frames(error.__traceback__):
        if not tb.tb_frame.f_code.co_filename.startswith(LIBRARY_PREFIX):
            error.__traceback__ = tb
            return


def traceback_text(error: BaseException) -> str:
    """Return the text of `traceback.format_exception`; the end of a long one wins. Holds no locals."""
    try:
        text = _text(error)
    except Exception as broken:  # noqa: BLE001 - formatting calls __str__ and __repr__ of user code
        text = f"<traceback could not be formatted: {type(broken).__qualname__}>"
    return text if len(text) <= TRACEBACK_CHARS_MAX else "[...]\n" + text[-TRACEBACK_CHARS_MAX:]


def _text(error: BaseException) -> str:
    """Join the texts of the frames, each of which is formatted once.

    Formatting a frame stats, reads and parses its source file. The text of a frame depends on nothing but its
    instruction, as long as the file is what was imported.
    """
    frames = list(_frames(error.__traceback__))
    if _needs_standard_text(error) or not 0 < len(frames) <= FRAMES_MAX or _repeats(frames):
        return "".join(traceback.format_exception(error))
    return "".join([HEADER, *map(_frame_text, frames), _last_line(error)])


def _last_line(error: BaseException) -> str:
    """Return the line that names the exception; by the standard library where that has more than its text, or fails."""
    if isinstance(error, DETAILED_ERRORS) or hasattr(error, "__notes__"):
        return "".join(traceback.format_exception_only(error))
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - __str__ of user code may raise anything
        return "".join(traceback.format_exception_only(error))
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in UNQUALIFIED_MODULES else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {message}\n" if message else f"{name}\n"


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
