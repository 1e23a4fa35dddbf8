"""Texts of unknown origin, made fit for a terminal or a log; decides nothing about where they are shown."""

__all__ = ["printable", "printable_lines"]

SHOWN_CHARS_MAX = 500
LINES_CHARS_MAX = 20_000
NEXT_LINE = "\n    "


def printable(text: str, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """Return `text` as one line: what is not printable is escaped, and of a long one the middle is left out.

    Unescaped, it could move the cursor, begin a line, reverse the reading direction, or not be encodable.
    """
    text = _bounded(text, chars_max)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str, chars_max: int = LINES_CHARS_MAX) -> str:
    """Do `printable` but keep the line breaks; every line but the first is indented, so none passes for another's."""
    return NEXT_LINE.join(printable(line, chars_max) for line in _bounded(text, chars_max).split("\n"))


def _bounded(text: str, chars_max: int) -> str:
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
