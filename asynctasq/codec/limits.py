"""How large and how deep a body may be, when it is written and when it is read."""

from dataclasses import dataclass

__all__ = ["DEFAULT_LIMITS", "Limits"]

DEPTH_CEILING = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that hold on both sides: what `pack` accepts, `unpack` with the same limits reads.

    `depth_max` counts tuples, sets and rebuilt values along a path, and again the lists and dicts between
    two of them. `items_max` is the length of one list or dict.
    """

    body_bytes_max: int = 10 * 1024 * 1024
    depth_max: int = 64
    items_max: int = 1_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.depth_max <= DEPTH_CEILING:
            raise ValueError(f"depth_max must be 1 to {DEPTH_CEILING} (the interpreter's stack), not {self.depth_max}")
        if self.body_bytes_max < 1 or self.items_max < 1:
            raise ValueError("body_bytes_max and items_max must be at least 1")


DEFAULT_LIMITS = Limits()
