"""What the options of a SQLite driver may be."""

import math
import os

from asynctasq.errors import ConfigError

__all__ = ["absolute_path", "check_limits", "check_options"]


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return the path of the file; raise ConfigError for what is none."""
    text = os.fspath(path)
    if text in {"", ":memory:"}:
        raise ConfigError(f"SQLite path {text!r} is not a file; for messages in memory use memory://")
    if "\0" in text:
        raise ConfigError(f"SQLite path {text!r} has a zero byte; name a file")
    return os.path.abspath(text)


def check_options(durability: str, busy_timeout_s: float, poll_s: float) -> None:
    """Raise ConfigError for an option that can't be."""
    if durability not in {"full", "normal"}:
        raise ConfigError(f"SQLite driver option 'durability' must be 'full' or 'normal', not {durability!r}")
    if not 0 <= busy_timeout_s < math.inf:
        raise ConfigError(f"SQLite driver option 'busy_timeout_s' must be 0 or more seconds, not {busy_timeout_s!r}")
    if not 0 < poll_s < math.inf:
        raise ConfigError(f"SQLite driver option 'poll_s' must be more than 0 seconds, not {poll_s!r}")


def check_limits(body_bytes_max: int | None, max_page_count: int | None) -> None:
    """Raise ConfigError for a limit that can't be."""
    if body_bytes_max is not None and body_bytes_max < 0:
        raise ConfigError(f"SQLite driver option 'body_bytes_max' must be 0 or more, not {body_bytes_max}")
    if max_page_count is not None and max_page_count < 1:
        raise ConfigError(f"SQLite driver option 'max_page_count' must be 1 or more, not {max_page_count}")
