"""Which statements of a text of SQL begin, end or divide a transaction; pure, knows no library."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

__all__ = ["Control", "ControlStatement", "control_statements"]


class Control(Enum):
    """What a statement does to the transaction."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "roll back"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "roll back to"


@dataclass(frozen=True, slots=True)
class ControlStatement:
    """One such statement; `name` is the savepoint's."""

    kind: Control
    name: str = ""


_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ """
    r"""| --[^\n]* | /\*.*?\*/ | ; | [^'"`$;/-]+ | .""",
    re.DOTALL | re.VERBOSE,
)
_CANDIDATE = re.compile(r"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE)\b", re.IGNORECASE)
_NAME = r"""(?P<name>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|'[^']*'|\w+)"""
_PATTERNS: tuple[tuple[Control, "re.Pattern[str]"], ...] = tuple(
    (kind, re.compile(rf"(?:{pattern})(?:\s|$)", re.IGNORECASE))
    for kind, pattern in (
        (Control.ROLLBACK_TO, rf"(?:ROLLBACK|ABORT)(?:\s+(?:WORK|TRANSACTION))?\s+TO(?:\s+SAVEPOINT)?\s+{_NAME}"),
        (Control.ROLLBACK, r"ROLLBACK|ABORT"),
        (Control.COMMIT, r"COMMIT|END"),
        (Control.SAVEPOINT, rf"SAVEPOINT\s+{_NAME}"),
        (Control.RELEASE, rf"RELEASE(?:\s+SAVEPOINT)?\s+{_NAME}"),
        (Control.BEGIN, r"BEGIN|START\s+TRANSACTION"),
    )
)


def control_statements(sql: str) -> list[ControlStatement]:
    """Return those of the text's statements that concern transactions, in order."""
    if not _CANDIDATE.search(sql):
        return []
    found = (_parsed(statement) for statement in _statements(sql))
    return [statement for statement in found if statement is not None]


def _statements(sql: str) -> Iterator[str]:
    """Split a text at its semicolons; comments are left out."""
    parts: list[str] = []
    for match in _TOKEN.finditer(sql):
        part = match.group()
        if part == ";":
            yield "".join(parts).strip()
            parts = []
        else:
            parts.append(" " if part.startswith(("--", "/*")) else part)
    yield "".join(parts).strip()


def _parsed(statement: str) -> ControlStatement | None:
    for kind, pattern in _PATTERNS:
        match = pattern.match(statement)
        if match:
            return ControlStatement(kind, _plain(match.groupdict().get("name") or ""))
    return None


def _plain(name: str) -> str:
    """Return a savepoint's name without its quotes, in lower case: databases differ in what they tell apart."""
    if name[:1] in {'"', "`", "[", "'"}:
        name = name[1:-1].replace('""', '"')
    return name.lower()
