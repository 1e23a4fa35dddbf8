"""Checks what the C packer and unpacker don't: nesting, number of items, equal hashes, and types that they misread.

For most data a count of its bytes, at C speed, is enough: msgpack marks every container, bytes and extension with a
byte from a small set. Only where there are too many of these, the containers are walked, or the bytes are.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.codec.limits import (
    CLAIMS_MAX,
    CONTAINER_WEIGHT,
    EXTENSION_WEIGHT,
    NESTED_BYTES_MAX,
    SAME_HASH_MAX,
    Limits,
)
from asynctasq.codec.typed_msgpack import ExtType, Timestamp

__all__ = [
    "LEAVES",
    "NESTED_CODES",
    "check_budget",
    "check_hashes",
    "check_structure",
    "count_items",
    "needs_structure_check",
    "short_text",
]

REPR_LENGTH_MAX = 40
REPR_BITS_MAX = 128
CONTAINER_MARKS = frozenset({*range(0x80, 0xA0), *range(0xDC, 0xE0)})
BINARY_MARKS = frozenset({*range(0xC4, 0xCA), *range(0xD4, 0xD9)})
# What the head of each value says: how many bytes it takes if that is all, else its kind, bytes of length, and length.
TEXT: Final = "text"
ARRAY: Final = "array"
MAP: Final = "map"
EXTENSION: Final = "extension"
SCALARS = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
HEADS: Final[dict[int, tuple[str, int, int]]] = {
    **{mark: (MAP, 0, mark & 0x0F) for mark in range(0x80, 0x90)},
    **{mark: (ARRAY, 0, mark & 0x0F) for mark in range(0x90, 0xA0)},
    **{mark: (TEXT, 1 << mark - 0xC4, 0) for mark in range(0xC4, 0xC7)},
    **{mark: (EXTENSION, 1 << mark - 0xC7, 0) for mark in range(0xC7, 0xCA)},
    **{mark: (EXTENSION, 0, 1 << mark - 0xD4) for mark in range(0xD4, 0xD9)},
    **{mark: (TEXT, 1 << mark - 0xD9, 0) for mark in range(0xD9, 0xDC)},
    **{mark: (ARRAY, 2 << mark - 0xDC, 0) for mark in range(0xDC, 0xDE)},
    **{mark: (MAP, 2 << mark - 0xDE, 0) for mark in range(0xDE, 0xE0)},
}
SCALAR_BYTES: Final = bytes(
    0 if mark in HEADS else SCALARS.get(mark, mark - 0x9F if 0xA0 <= mark < 0xC0 else 1) for mark in range(256)
)
NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in CONTAINER_MARKS | BINARY_MARKS)
NO_BINARY_MARKS: Final = bytes(byte for byte in range(256) if byte not in BINARY_MARKS)

# Types whose values hold no others; a container with nothing else needs no walk.
LEAVES: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
# Texts and bytes are hashed with a secret of the process; None, True and False are three.
KEYED_HASHES: Final[frozenset[type]] = frozenset({type(None), bool, str, bytes})
# Extensions whose content is packed as well: tuples, sets, frozensets, records, references.
NESTED_CODES: Final = frozenset(bytes((code,)) for code in (1, 2, 3, 13, 14))
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
    return depth + len(marks) > limits.depth_max or bool(marks.translate(None, NO_BINARY_MARKS))


def check_structure(value: object, limits: Limits, depth: int) -> None:
    """Walk the lists and dicts of one level.

    Raises: Unsupported for what is nested too deep, has keys of one hash, or a type that msgpack misreads.
    """
    layer = [value]
    while layer:
        below: list[object] = []
        for item in layer:
            cls = type(item)
            if cls is list:
                below += _containers_in(cast("list[object]", item))
            elif cls is dict:
                mapping = cast("dict[object, object]", item)
                check_hashes(mapping)
                below += _containers_in(list(mapping))
                below += _containers_in(list(mapping.values()))
            elif cls in MISREAD_TYPES:
                raise Unsupported(f"{cls} can't be serialized: {MISREAD_TYPES[cls]}")
            else:
                continue
            if depth >= limits.depth_max:
                raise Unsupported(f"it is nested deeper than {limits.depth_max} levels")
        layer = below
        depth += 1


def _containers_in(items: list[object]) -> list[object]:
    if set(map(type, items)) <= LEAVES:
        return []
    return [item for item in items if type(item) not in LEAVES]


def check_hashes(values: Collection[object]) -> None:
    """Raise Unsupported if more than SAME_HASH_MAX different ones of these keys or elements have one hash.

    Texts and bytes are left out: their hashes depend on a secret of the process.
    """
    if len(values) <= SAME_HASH_MAX or KEYED_HASHES.issuperset(map(type, values)):
        return
    crowded = {number for number, count in Counter(map(hash, values)).items() if count > SAME_HASH_MAX}
    if not crowded:
        return
    different: dict[int, list[object]] = {number: [] for number in crowded}
    for value in values:
        same = different.get(hash(value))
        if same is not None and value not in same:
            same.append(value)
            if len(same) > SAME_HASH_MAX:
                raise Unsupported(f"more than {SAME_HASH_MAX} of its keys or elements have the same hash; use texts")


# --- how much a value holds ------------------------------------------------------------------------------------


def check_budget(data: bytes, limits: Limits, *, trusted: bool = False) -> None:
    """Raise Unsupported if the packed value holds more than the limits allow; it is not decoded for that.

    Of `trusted` data, our own, the array's heads are not doubted.
    """
    size = len(data)
    if size * (1 + EXTENSION_WEIGHT) <= limits.items_max and size * size <= CLAIMS_MAX:
        return  # whatever the bytes are
    marks = len(data.translate(None, NO_MARKS))
    if size + EXTENSION_WEIGHT * marks > limits.items_max or (
        not trusted and (data.count(0xDC) + data.count(0xDD)) * min(size, limits.items_max) > CLAIMS_MAX
    ):
        count_items(data, limits)


def count_items(data: bytes, limits: Limits) -> None:
    """Do `check_budget` for certain: walk over the bytes as the unpacker will.

    Damaged ones end the walk where they end the unpacking.
    """
    left, position, end = limits.items_max, 0, len(data)
    nested: list[tuple[int, int]] = []
    for _ in range(limits.items_max + 1):  # more would have to be in arrays or dicts that say so
        if position >= end or left < 0:
            break
        mark = data[position]
        size = SCALAR_BYTES[mark]
        if size:
            position += size
            continue
        kind, width, length = HEADS[mark]
        position += 1
        if width:
            length = int.from_bytes(data[position : position + width], "big")
            position += width
        if kind is EXTENSION:
            left -= EXTENSION_WEIGHT
            code = data[position : position + 1]
            position += 1
            if code in NESTED_CODES:
                _check_nested_bytes(nested, position, length)
            else:  # the parts of a path are made one by one
                left -= data.count(b"/", position, position + length) + data.count(b"\\", position, position + length)
                position += length
        elif kind is TEXT:
            position += length
        else:
            left -= CONTAINER_WEIGHT + (length if kind is ARRAY else 2 * length)
    if left < 0:
        raise Unsupported(f"it holds more than {limits.items_max:,} items in all; split it")


def _check_nested_bytes(nested: list[tuple[int, int]], position: int, length: int) -> None:
    """Add an extension to those around `position`; raise Unsupported if they are too large together."""
    while nested and nested[-1][0] <= position:
        nested.pop()
    nested.append((position + length, length))
    if sum(size for _, size in nested) > NESTED_BYTES_MAX:
        raise Unsupported("it has too many bytes nested too deep; flatten the value, or store the data elsewhere")


def short_text(value: object) -> str:
    """Return a short text for a key or element; only plain ones are shown, others could be long or secret."""
    if type(value) not in {str, int, float, bool, type(None)}:
        return f"<{type(value).__name__}>"
    if type(value) is int and value.bit_length() > REPR_BITS_MAX:  # Python refuses to write out very long ones
        return f"<int of {value.bit_length():,} bits>"
    text = ascii(value[: REPR_LENGTH_MAX + 1] if type(value) is str else value)
    return text if len(text) <= REPR_LENGTH_MAX else f"{text[:REPR_LENGTH_MAX]}..."
