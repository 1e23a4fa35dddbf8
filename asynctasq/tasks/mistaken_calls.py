"""What to write in place of calls that can't work; and the nothing that may be awaited."""

from collections.abc import Generator

from asynctasq.errors import AsyncTasqError

__all__ = ["NOTHING", "no_attribute", "not_awaitable", "not_dispatched"]

SENDING = frozenset({"apply_async", "delay", "enqueue", "send"})
"""What other libraries call a dispatch of a function's arguments."""


class _Nothing:
    """An awaitable that need not be awaited, so that `failed` works with and without `await`."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


NOTHING = _Nothing()


def not_awaitable(task: object) -> TypeError:
    """Return the error of `await add(1)`."""
    name = type(task).__qualname__
    return TypeError(
        f"a call of {name} builds a task, which is not awaited itself; to send it to its queue write "
        f"`await {name}(...).dispatch()`"
    )


def not_dispatched(task: object, what: str) -> AsyncTasqError:
    """Return the error of asking a task for what only its dispatch gives it."""
    return AsyncTasqError(
        f"this {type(task).__qualname__} has no {what}: it was not dispatched, and no worker runs it; "
        "in a test, run it with perform() or in a FakeQueue"
    )


def no_attribute(function: str, name: str, *, of_task: bool) -> AttributeError:
    """Return the error of a function's attribute that is not there, such as `add.delay`.

    `of_task`: the task that a call of the function builds has an attribute of that name.
    """
    if name in SENDING:
        later = f", or `await {function}(...).delay(seconds).dispatch()` to run it later" if of_task else ""
        hint = f"write `await {function}.dispatch(...)` to send it to its queue{later}"
    elif of_task:
        hint = f"build the task first: {function}(...).{name}"
    else:
        hint = f"what was decorated is {function}.function"
    return AttributeError(f"task function {function} has no attribute {name!r}; {hint}")
