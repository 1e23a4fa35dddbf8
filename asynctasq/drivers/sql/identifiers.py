"""Names of tables and schemas that stand in statements as text: checked, then quoted."""

import re

from asynctasq.errors import ConfigError

__all__ = ["check_identifier", "quote"]

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check_identifier(name: str, what: str, *, characters_max: int = 40) -> str:
    """Return `name`, or raise `ConfigError` if it is not a plain SQL name; `what` says which setting it is.

    The limit leaves room for the suffixes that drivers add (databases take 63 or 64 characters).
    """
    # A setting may come from anywhere, so what is not a text is refused too.
    if isinstance(name, str) and len(name) <= characters_max and IDENTIFIER.match(name):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return name
    raise ConfigError(
        f"{what} {name!r} is not valid: use 1 to {characters_max} letters, digits or '_', not starting with a digit"
    )


def quote(name: str, *, mark: str = '"') -> str:
    """Return a name in the quotes of the dialect: `"` for PostgreSQL, a backtick for MySQL."""
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"
