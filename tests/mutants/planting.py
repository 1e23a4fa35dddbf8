"""How a defect is planted: one function, method or constant of the product is replaced for the time of a run."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Change", "Mutant", "attribute", "planted", "planter"]

Make: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`name` of `owner`, a module or class, becomes what `make` returns for the original."""

    owner: Any
    name: str
    make: Make


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted defect: what it breaks, and how. `recorded` is where another queue had it."""

    name: str
    breaks: str
    changes: tuple[Change, ...]
    recorded: str = ""


def attribute(owner: Any, name: str, make: Make) -> tuple[Change, ...]:
    """Return the one change most mutants are."""
    return (Change(owner=owner, name=name, make=make),)


def planter(table: list[Mutant]) -> Callable[[Any, str, str, str], Callable[[Make], Make]]:
    """Return a decorator that enters a defect in `table`.

    It takes owner, name, what the defect is called and what it breaks; the function below it makes the defect of the
    original.
    """

    def plant(owner: Any, name: str, called: str, breaks: str) -> Callable[[Make], Make]:
        def enter(make: Make) -> Make:
            table.append(Mutant(name=called, breaks=breaks, changes=attribute(owner, name, make)))
            return make

        return enter

    return plant


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
