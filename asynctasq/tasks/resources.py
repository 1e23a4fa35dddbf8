"""What the lifespans of a worker yielded, for its tasks and hooks to reach by type."""

from contextvars import ContextVar
from typing import Any, Generic, Self, TypeVar, overload

from asynctasq.errors import LifespanError

__all__ = ["Resource", "current_resources", "resource"]

T = TypeVar("T")

current_resources: ContextVar[tuple[object, ...] | None] = ContextVar("asynctasq_resources", default=None)
"""What the lifespans yielded, in their order; None where none was entered."""


def resource(kind: type[T]) -> T:
    """Return what a lifespan of this worker, or of this child process, yielded: its one object of type `kind`.

    Works in `execute`, in hooks and in middleware of attempts. In a test, `with asynctasq.testing.resources(...)`.

    Raises: LifespanError if there is none of that type, or more than one.
    """
    values = current_resources.get()
    found = [value for value in values or () if isinstance(value, kind)]
    if len(found) == 1:
        return found[0]
    raise LifespanError(_why_not(kind.__qualname__, values, len(found)))


def _why_not(name: str, values: tuple[object, ...] | None, found: int) -> str:
    if values is None:
        return (
            f"there is no {name} here: no lifespan was entered. Name one that yields it in the setting `lifespan`: a "
            f"worker enters it before it takes its first message. In a test: with asynctasq.testing.resources(...)"
        )
    yielded = ", ".join(type(value).__qualname__ for value in values) or "nothing"
    if found:
        return f"{found} lifespans of this worker yield a {name} ({yielded}); ask for a type that only one of them has"
    return f"this worker has no lifespan that yields {name}; they yield {yielded}. Is the setting `lifespan` complete?"


class Resource(Generic[T]):
    """The same as an attribute of a task class: `http = Resource(AsyncClient)`, without an annotation.

    `self.http` is then what `resource(AsyncClient)` returns. It is no field, so it is no argument and does not travel;
    a test may assign another object to it.
    """

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind

    @overload
    def __get__(self, task: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, task: object, owner: type[Any]) -> T: ...
    def __get__(self, task: object | None, owner: type[Any]) -> Self | T:
        return self if task is None else resource(self._kind)
