"""Checks what the C packer and unpacker don't: nesting, lengths, and types that they misread.

For most data a count of its bytes, at C speed, is enough: msgpack marks every container, bytes and extension with a
byte from a small set. Only where there are too many of these, the containers are walked.
"""

from typing import Final, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.codec.limits import Limits
from asynctasq.codec.typed_msgpack import ExtType, Timestamp

__all__ = ["LEAVES", "check_structure", "needs_structure_check", "short_text"]

REPR_LENGTH_MAX = 40
CONTAINER_MARKS = frozenset({*range(0x80, 0xA0), *range(0xDC, 0xE0)})
BINARY_MARKS = frozenset({*range(0xC4, 0xCA), *range(0xD4, 0xD9)})
NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in CONTAINER_MARKS | BINARY_MARKS)
NO_BINARY_MARKS: Final = bytes(byte for byte in range(256) if byte not in BINARY_MARKS)

# Types whose values hold no others; a container with nothing else needs no walk.
LEAVES: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
# The C packer writes these as bytes or as extensions of ours; they would be decoded as something else.
MISREAD_TYPES: dict[type, str] = {
    bytearray: "use bytes(...)",
    memoryview: "use bytes(...)",
    cast("type", ExtType): "use plain values",
    Timestamp: "use datetime.datetime",
}


def needs_structure_check(data: bytes, limits: Limits, depth: int) -> bool:
    """Return whether a value must be walked to know that it keeps the limits and has no misread types."""
    marks = data.translate(None, NO_MARKS)
    return (
        depth + len(marks) > limits.depth_max
        or len(data) > limits.items_max
        or bool(marks.translate(None, NO_BINARY_MARKS))
    )


def check_structure(value: object, limits: Limits, depth: int) -> None:
    """Walk the lists and dicts of one level.

    Raises: Unsupported for what is nested too deep, too long, or of a type that msgpack misreads.
    """
    layer = [value]
    while layer:
        below: list[object] = []
        for item in layer:
            cls = type(item)
            if cls is list:
                below += _containers_in(cast("list[object]", item), limits)
            elif cls is dict:
                mapping = cast("dict[object, object]", item)
                below += _containers_in(list(mapping), limits)
                below += _containers_in(list(mapping.values()), limits)
            elif cls in MISREAD_TYPES:
                raise Unsupported(f"{cls} can't be serialized: {MISREAD_TYPES[cls]}")
            else:
                continue
            if depth >= limits.depth_max:
                raise Unsupported(f"it is nested deeper than {limits.depth_max} levels")
        layer = below
        depth += 1


def _containers_in(items: list[object], limits: Limits) -> list[object]:
    if len(items) > limits.items_max:
        raise Unsupported(f"it has {len(items):,} items, the limit is {limits.items_max:,}; split it")
    if set(map(type, items)) <= LEAVES:
        return []
    return [item for item in items if type(item) not in LEAVES]


def short_text(value: object) -> str:
    """Return a short text for a key or element; only plain ones are shown, others could be long or secret."""
    if type(value) not in {str, int, float, bool, type(None)}:
        return f"<{type(value).__name__}>"
    text = ascii(value)
    return text if len(text) <= REPR_LENGTH_MAX else f"{text[:REPR_LENGTH_MAX]}..."
