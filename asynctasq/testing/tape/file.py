"""The file a choice tape is kept in: JSON, versioned, with a hash of the code that drew it."""

import functools
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asynctasq
from asynctasq.testing.errors import TapeMismatch

__all__ = ["SavedTape", "code_digest", "read_tape_file", "write_tape_file"]

FORMAT = "asynctasq-tape"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTape:
    """What a file holds; `origin` is a text about where it comes from.

    test: the node id of the test that recorded it; None if that was not a test, or is not known.
    """

    seed: int
    entries: list[tuple[str, int, int]]
    note: str
    origin: str
    test: str | None = None


@functools.cache
def code_digest() -> str:
    """Return a hash of asynctasq's own sources. A tape is only sure to fit the code that drew it."""
    root = Path(asynctasq.__file__).parent
    state = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        state.update(path.relative_to(root).as_posix().encode())
        state.update(path.read_bytes())
    return state.hexdigest()


def write_tape_file(
    path: Path, *, seed: int, entries: Sequence[tuple[str, int, int]], note: str, test: str | None = None
) -> None:
    """Write the file, and its folder if need be."""
    labels = {label: index for index, label in enumerate(dict.fromkeys(label for label, _, _ in entries))}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "seed": seed,
        "note": note,
        "test": test,
        "code": code_digest(),
        "python": platform.python_version(),
        "labels": list(labels),
        "entries": [[labels[label], n, value] for label, n, value in entries],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def read_tape_file(path: Path) -> SavedTape:
    """Read the file back.

    Raises: TapeMismatch if it is no tape, or of a newer format.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] > VERSION:
            raise TapeMismatch(
                f"{path} is {document['format']!r} of version {document['version']}; this asynctasq reads {FORMAT!r} "
                f"up to version {VERSION}; use the asynctasq that wrote it"
            )
        labels = [str(label) for label in document["labels"]]
        return SavedTape(
            seed=int(document["seed"]),
            entries=[_entry(labels, *entry) for entry in document["entries"]],
            note=str(document["note"]),
            origin=_origin(str(document["code"]), str(document["python"])),
            test=None if document.get("test") is None else str(document["test"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TapeMismatch(f"{path} is not a choice tape ({error!r}); record it again") from error


def _entry(labels: Sequence[str], index: int, n: int, value: int) -> tuple[str, int, int]:
    if not (0 <= index < len(labels) and 0 <= value < n):
        raise ValueError(f"{value} of {n} under label {index} is no decision")
    return labels[index], int(n), int(value)


def _origin(code: str, python: str) -> str:
    changed = "other" if code != code_digest() else "the same"
    return f" (recorded on Python {python} with {changed} asynctasq sources)"
