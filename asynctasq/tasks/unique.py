"""Unique tasks: which dispatches are the same, for how long one keeps the others out, and what becomes of those."""

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from asynctasq.errors import DispatchError
from asynctasq.kernel.messages import ON_CONFLICTS, UNTILS, OnConflict, UniqueKey, Until
from asynctasq.tasks.options import Duration, one_of, seconds

__all__ = ["KEY_CHARS_MAX", "Unique", "unique_setting"]

KEY_CHARS_MAX = 1_000
DIGEST_BYTES = 24


@dataclass(frozen=True, slots=True)
class Unique:
    """Store a dispatch of a task only if no other one with the same key holds that key.

    key: a text, or what returns it for a task: of a function task, for an object with its arguments as attributes.
        It has 1 to 1,000 characters. None takes all arguments, with those left out at their defaults.
    until: the key is held until a worker takes the message ("started"), or until it is completed, a dead letter or
        removed ("done", which holds unless there is a window).
    window: it is held for so long after the dispatch, in seconds or a timedelta, even if the task is done before.
    on_conflict: where another one holds it, "skip" returns the id of that one, "replace" takes the place of one that
        has not begun and skips otherwise, "raise" raises UniqueConflictError.
    across_tasks: the key is the same for all tasks that say so; otherwise each task has keys of its own.

    Raises: ValueError for a setting that is wrong.
    """

    key: str | Callable[[Any], str] | None = None
    _: KW_ONLY
    until: Until | None = None
    window: Duration | None = None
    on_conflict: OnConflict = "skip"
    across_tasks: bool = False

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.until is not None:
            one_of(self.until, "until", UNTILS)
            if self.window is not None:
                raise ValueError("Unique takes until or window, not both: a window does not ask how far the task is")
        if self.window is not None:
            seconds(self.window, "window", above_zero=True)
        one_of(self.on_conflict, "on_conflict", ON_CONFLICTS)
        if self.across_tasks and self.key is None:
            raise ValueError("Unique(across_tasks=True) needs a key: arguments are those of one task")

    def key_of(self, name: str, subject: object, arguments: Callable[[], bytes]) -> UniqueKey:
        """Return what the message holds; `arguments` returns the bytes that the key is made of without `key`.

        Raises: DispatchError for a key that is no text, or too long.
        """
        if self.key is None:
            content = b"\x01" + arguments()
        else:
            content = b"\x02" + _text_of(self.key, subject, name).encode("utf-8", "surrogatepass")
        space = "" if self.across_tasks else name
        hashed = hashlib.blake2b(space.encode("utf-8", "surrogatepass") + content, digest_size=DIGEST_BYTES)
        return UniqueKey(
            key=hashed.hexdigest(),
            until=self.until or "done",
            window_s=None if self.window is None else seconds(self.window, "window", above_zero=True),
            on_conflict=self.on_conflict,
        )


def unique_setting(value: object) -> Unique | None:
    """Return what the setting `unique` says: True stands for `Unique()`, False for none.

    Raises: ValueError if it is neither.
    """
    if value is True:
        return Unique()
    if value is False or isinstance(value, Unique):
        return value or None
    raise ValueError(f"unique must be Unique(...), True or False, not {value!r}")


def _check_key(key: object) -> None:
    if key is None or (callable(key) and not isinstance(key, type)):
        return
    if not isinstance(key, str):
        raise ValueError(f"the key of Unique must be a text, or a function that returns one, not {key!r}")
    _checked_text(key, "the key of Unique", ValueError)


def _text_of(key: str | Callable[[Any], str], subject: object, name: str) -> str:
    if isinstance(key, str):
        return key
    try:
        text = key(subject)
    except Exception as error:
        raise DispatchError(f"{name}: the key of unique raised {type(error).__name__}: {error}") from error
    return _checked_text(text, f"{name}: the key of unique", DispatchError)


def _checked_text(text: object, what: str, error: type[Exception]) -> str:
    if not isinstance(text, str):
        raise error(f"{what} must be a text, not of {type(text)}; make one of it: str(...)")
    if not 0 < len(text) <= KEY_CHARS_MAX:
        raise error(f"{what} must have 1 to {KEY_CHARS_MAX:,} characters, not {len(text):,}")
    return str(text)
