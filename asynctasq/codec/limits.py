"""How large and how deep a body may be, when it is written and when it is read."""

from dataclasses import dataclass

__all__ = [
    "CLAIMS_MAX",
    "CONTAINER_WEIGHT",
    "DECODE_S_MAX",
    "DEFAULT_LIMITS",
    "EXTENSION_WEIGHT",
    "NESTED_BYTES_MAX",
    "OFF_LOOP_BYTES",
    "SAME_HASH_MAX",
    "Limits",
]

DEPTH_CEILING = 128
CONTAINER_WEIGHT = 3
EXTENSION_WEIGHT = 6
SAME_HASH_MAX = 16
"""How many keys of one dict, or elements of one set, may have the same hash: looking among them takes their number."""
NESTED_BYTES_MAX = 64 * 1024 * 1024
"""How many bytes the extensions around one value may have together: each is copied while the inner ones are read."""
CLAIMS_MAX = 8_000_000
"""Arrays times bytes up to which a body is read without counting; msgpack makes an array as long as its head says."""
OFF_LOOP_BYTES = 64 * 1024
"""Arguments of more bytes are decoded outside of the worker's event loop."""
DECODE_S_MAX = 30.0
"""How long that may take, in seconds, before the message becomes a dead letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that hold on both sides: what `pack` accepts, `unpack` with the same limits reads.

    `depth_max` counts tuples, sets and rebuilt values along a path, and again the lists and dicts between
    two of them. `items_max` bounds what the whole value holds: a plain value counts 1, a list or dict CONTAINER_WEIGHT
    more, a value of any other type EXTENSION_WEIGHT, for these take so much more memory and time.
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
