"""Statements written in the style of their dialect, rewritten for a DB-API library; pure."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from asynctasq.errors import UnsupportedFeature

__all__ = ["translate"]

NUMBERED = re.compile(r"\$(\d+)")


@lru_cache(maxsize=256)
def _named(statement: str) -> str:
    """`$1` -> `%(p1)s`, each value sent once however often it is used."""
    return NUMBERED.sub(r"%(p\1)s", statement.replace("%", "%%"))


def _names(values: Sequence[Any]) -> dict[str, Any]:
    return {f"p{index}": value for index, value in enumerate(values, start=1)}


@lru_cache(maxsize=256)
def _marks_to_format(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=256)
def _format_to_marks(statement: str) -> str:
    return statement.replace("%s", "?").replace("%%", "%")


def translate(statement: str, values: Sequence[Any], paramstyle: str) -> tuple[str, Any]:
    """Return a statement and its values in a DB-API paramstyle, judged by the marks it is written with."""
    match paramstyle:
        case "numeric_dollar":
            return statement, tuple(values)
        case "pyformat" if NUMBERED.search(statement):
            return _named(statement), _names(values)
        case "format" | "pyformat" if "%s" in statement:
            return statement, tuple(values)
        case "format" | "pyformat":
            return _marks_to_format(statement), tuple(values)
        case "qmark" if not NUMBERED.search(statement):
            return _format_to_marks(statement), tuple(values)
        case _:
            raise UnsupportedFeature(
                f"a library with paramstyle {paramstyle!r} can't run our statements; use another for this database"
            )
