"""Values as failures show them: short, and with the part that differs in sight."""

from typing import Final

__all__ = ["contrast", "short"]

SHOWN_MAX: Final = 100
TAIL: Final = 20
BEFORE: Final = 20


def short(value: object) -> str:
    """Return a value's repr; of a long one both ends, and how long it is."""
    text = repr(value)
    if len(text) <= SHOWN_MAX:
        return text
    return f"{text[: SHOWN_MAX - TAIL]}...{text[-TAIL:]} ({len(text):,} characters)"


def contrast(wanted: object, actual: object) -> str:
    """Return "wanted A, was B"; of long values the part that begins shortly before the first difference."""
    left, right = repr(wanted), repr(actual)
    if left == right:
        return f"wanted {short(wanted)}, was one that looks the same and is not equal to it"
    same = next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return f"wanted {_around(left, same)}, was {_around(right, same)}"


def _around(text: str, place: int) -> str:
    if len(text) <= SHOWN_MAX:
        return text
    begin = max(0, min(place - BEFORE, len(text) - SHOWN_MAX))
    end = begin + SHOWN_MAX
    before, after = "..." if begin else "", "..." if end < len(text) else ""
    return f"{before}{text[begin:end]}{after} ({len(text):,} characters)"
