"""An exception's traceback as the interpreter would print it, fast when the same lines fail again and again."""

import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, TracebackType

__all__ = ["TRACEBACK_CHARS_MAX", "RemoteTraceback", "drop_library_frames", "traceback_text"]

OURS = f"{Path(__file__).parents[1]}{os.sep}"

TRACEBACK_CHARS_MAX = 16_000

FRAMES_MAX = 64
"""Deeper stacks are left to the standard library, which folds the repetitions of a recursion."""

PLACES_MAX = 1024

IMPLIED_MODULES = ("builtins", "__main__")

SAY_MORE = (SyntaxError, AttributeError, ImportError)
"""Their text holds source lines, or names that are near to the one not found."""

HEADER = "Traceback (most recent call last):\n"

_places: dict[tuple[CodeType, str, int], str] = {}


class RemoteTraceback(Exception):
    """Carries the traceback of a child process as the cause of the exception raised from it."""


def drop_library_frames(error: BaseException) -> None:
    """Let a traceback begin in the user's code, which may be in a child process.

    One that never gets there stays whole: then we are at fault.
    """
    if isinstance(error.__cause__, RemoteTraceback):
        error.__traceback__ = None
    for tb in _frames(error.__traceback__):
        if not tb.tb_frame.f_code.co_filename.startswith(OURS):
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
    """Put the text together from frames that were formatted before.

    Formatting a frame stats, reads and parses its source file. What stands in the text for a frame depends on nothing
    but its place in its code, as long as the file is what was imported.
    """
    frames = list(_frames(error.__traceback__))
    if _needs_more(error) or not 0 < len(frames) <= FRAMES_MAX or _repeats(frames):
        return "".join(traceback.format_exception(error))
    return "".join([HEADER, *map(_place, frames), _last_line(error)])


def _last_line(error: BaseException) -> str:
    """Return the line that names the exception; where it may say more, or fails to, as the standard library does."""
    if isinstance(error, SAY_MORE) or hasattr(error, "__notes__"):
        return "".join(traceback.format_exception_only(error))
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - __str__ of user code may raise anything
        return "".join(traceback.format_exception_only(error))
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in IMPLIED_MODULES else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {message}\n" if message else f"{name}\n"


def _frames(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _needs_more(error: BaseException) -> bool:
    """Say whether other exceptions belong to the text, or suggestions taken from the frames' own names."""
    context = None if error.__suppress_context__ else error.__context__
    return isinstance(error, BaseExceptionGroup | NameError) or error.__cause__ is not None or context is not None


def _repeats(frames: list[TracebackType]) -> bool:
    """Say whether one function calls itself twice: of a line that repeats, the standard library counts the rest."""
    names = [(tb.tb_frame.f_code.co_filename, tb.tb_frame.f_code.co_name) for tb in frames]
    return any(first == second == third for first, second, third in zip(names, names[1:], names[2:], strict=False))


def _place(tb: TracebackType) -> str:
    """Return the lines of one frame, from the cache if it stood there before."""
    code = tb.tb_frame.f_code
    key = (code, code.co_filename, tb.tb_lasti)  # code objects are equal across files
    text = _places.get(key)
    if text is None:
        if len(_places) >= PLACES_MAX:
            _places.clear()
        text = _places[key] = "".join(traceback.format_tb(tb, limit=1))
    return text
