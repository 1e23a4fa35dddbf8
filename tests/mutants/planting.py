"""How a defect is planted: one function, method or constant of the product is replaced for the time of a run."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Change", "Mutant", "attribute", "planted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`name` of `owner`, a module or class, becomes what `make` returns for the original."""

    owner: Any
    name: str
    make: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted defect: what it breaks, and how. `recorded` is where another queue had it."""

    name: str
    breaks: str
    changes: tuple[Change, ...]
    recorded: str = ""


def attribute(owner: Any, name: str, make: Callable[[Any], Any]) -> tuple[Change, ...]:
    """Return the one change most mutants are."""
    return (Change(owner=owner, name=name, make=make),)


@contextmanager
def planted(mutant: Mutant) -> Generator[None]:
    """Let the product be wrong in this way."""
    before: list[tuple[Change, Any]] = []
    try:
        for change in mutant.changes:
            before.append((change, vars(change.owner)[change.name]))
            setattr(change.owner, change.name, change.make(getattr(change.owner, change.name)))
        yield
    finally:
        for change, value in reversed(before):
            setattr(change.owner, change.name, value)
