"""Which test recorded a tape: as pytest names it while it runs, and found again from another folder."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

__all__ = ["RecordedTestNotFound", "current_test", "find_recorded_test", "runnable_here", "same_test"]

_XDIST_GROUP = re.compile(r"(?<=[\w\]])@[\w.-]+$")
"""What `pytest -n 2 --dist loadgroup` adds to the name of a test."""


class RecordedTestNotFound(LookupError):
    """None of the tests that were chosen recorded the tape; the text ends a sentence on the one that did."""


def current_test() -> str | None:
    """Return the node id of the test that pytest runs now; None outside of pytest."""
    running = os.environ.get("PYTEST_CURRENT_TEST")
    return None if running is None else _XDIST_GROUP.sub("", running.rpartition(" (")[0])


def same_test(one: str, other: str) -> bool:
    """Say whether two node ids mean the same test: files are named from pytest's root, which may be another folder."""
    (file, _, name), (other_file, _, other_name) = (
        _XDIST_GROUP.sub("", node_id).partition("::") for node_id in (one, other)
    )
    if name != other_name:
        return False
    parts, other_parts = _parts(file), _parts(other_file)
    shared = min(len(parts), len(other_parts))
    return parts[-shared:] == other_parts[-shared:]


def find_recorded_test(recorded: str, node_ids: Iterable[str]) -> str:
    """Return which of these tests is the recorded one.

    Raises: NoOwner if it is not among them, or could be several.
    """
    found = [node_id for node_id in node_ids if same_test(recorded, node_id)]
    if recorded in found:
        return recorded
    if not found:
        raise RecordedTestNotFound(
            "which is not among the tests that were chosen; choose it, or replay a tape of theirs"
        )
    if len(found) > 1:
        raise RecordedTestNotFound(f"which may be any of {', '.join(found)}; choose the one that is meant")
    return found[0]


def runnable_here(node_id: str) -> str:
    """Return the node id with its file as seen from the current folder, which need not be pytest's root."""
    file, separator, name = node_id.partition("::")
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / file).is_file():
            return Path(os.path.relpath(folder / file, here)).as_posix() + separator + name
    return node_id


def _parts(file: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(file).parts if part not in ("/", ".."))
