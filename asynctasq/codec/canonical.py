"""Encoded values in one order: equal values have equal bytes, whatever the order of their sets and dicts."""

from typing import Final, cast

from asynctasq.codec._structure import NESTED_CODES
from asynctasq.codec.typed_msgpack import ExtType, packb, unpackb
from asynctasq.codec.values import FROZENSET, SET

__all__ = ["canonical"]

MAP: Final = 127
"""The extension type that stands for a dict here, as its sorted pairs; it is never decoded."""


def canonical(data: bytes) -> bytes:
    """Return other bytes for an encoded value, to be compared and not decoded: dicts and sets are sorted in them."""
    return packb(_ordered(data))


def _ordered(data: bytes) -> object:
    return unpackb(data, ext_hook=_extension, object_pairs_hook=_map, strict_map_key=False)


def _map(pairs: list[tuple[object, object]]) -> object:
    return ExtType(MAP, packb(sorted(packb(list(pair)) for pair in pairs)))


def _extension(code: int, data: bytes) -> object:
    if bytes((code,)) not in NESTED_CODES:
        return ExtType(code, data)
    inner = _ordered(data)
    if code in (SET, FROZENSET):
        inner = sorted(map(packb, cast("list[object]", inner)))
    return ExtType(code, packb(inner))
