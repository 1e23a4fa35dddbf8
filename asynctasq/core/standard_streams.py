"""Standard output and error of a process whose work must not depend on who reads them."""

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["tolerate_output_errors"]

ENCODING = "utf-8"


def tolerate_output_errors() -> None:
    """Let no write to standard output or error fail, by whomever: what can't be written is left out, or escaped.

    The reader may have left (`| head -1`), the disk may be full, the encoding may lack a character. Streams that a
    program or a test put in their place are left alone. Safe to repeat.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream: io.TextIOWrapper | None = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if stream is not None:
            with suppress(OSError):
                stream.flush()
        setattr(sys, name, _tolerant(stream, descriptor))


def _tolerant(stream: io.TextIOWrapper | None, descriptor: int) -> io.TextIOWrapper:
    """Return a stream like the given one; None is what Python has for a descriptor that was closed at its start."""
    if stream is None:
        descriptor = _open_null(descriptor)
    return io.TextIOWrapper(
        io.BufferedWriter(_Tolerant(descriptor, "w", closefd=False)),
        encoding=ENCODING if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is not None and stream.line_buffering,
        write_through=stream is not None and stream.write_through,
    )


def _open_null(descriptor: int) -> int:
    """Return a descriptor that takes everything; `descriptor` is taken, lest a file or a socket gets its number."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(null, descriptor)
    return null


class _Tolerant(io.FileIO):
    """A file that claims to have written what it could not."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            written: int | None = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written
