"""Fair keys: what a task says of whose it is, so that the work of one does not delay that of others."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from asynctasq.errors import DispatchError
from asynctasq.kernel.fairness import check_fair_key

__all__ = ["fair_key_of"]


def fair_key_of(
    task: object, source: "str | Callable[[Any], object]", arguments: Mapping[str, object], name: str
) -> str:
    """Return the key of a task's message, "" for none; `arguments` are those it was made with.

    Raises: DispatchError for a value that is no key.
    """
    try:
        if callable(source):
            value = source(task)
        else:
            value = arguments[source] if source in arguments else getattr(task, source)
    except Exception as error:
        raise DispatchError(f"{name}: its fair_key can't be read: {type(error).__name__}: {error}") from error
    if value is None:
        return ""
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        value = str(value)
    try:
        return check_fair_key(value)
    except DispatchError as error:
        raise DispatchError(f"{name}: {error}") from None
