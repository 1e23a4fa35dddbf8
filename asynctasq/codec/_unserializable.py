"""Finds which part of a value can't be serialized, after an encoding has failed; encodes nothing itself."""

from collections.abc import Callable, Iterator
from typing import cast

from asynctasq.codec import annotations
from asynctasq.codec._structure import short_text
from asynctasq.codec.extensions import Unsupported
from asynctasq.codec.limits import Limits
from asynctasq.errors import UnserializableValue

__all__ = ["find_unserializable"]

PATH_LENGTH_MAX = 300


def find_unserializable(
    value: object, *, path: str, limits: Limits, try_leaf: Callable[[object], None], records: bool, depth: int
) -> None:
    """Raise UnserializableValue for the first part of `value` that can't be encoded; return if there is none.

    `records` says whether values that an annotation rebuilds are allowed, `depth` how many lists and dicts
    the value is in already.
    """
    _Search(limits, try_leaf, records=records).visit(value, path, levels=0, depth=depth)


class _Search:
    """`levels` counts nested extension types, `depth` the lists and dicts since the last of them."""

    def __init__(self, limits: Limits, try_leaf: Callable[[object], None], *, records: bool) -> None:
        self._limits = limits
        self._try_leaf = try_leaf
        self._records = records
        self._open: set[int] = set()

    def visit(self, value: object, path: str, *, levels: int, depth: int) -> None:
        cls = type(value)
        if cls is list or cls is dict:
            self._check_here(value, path, too_deep=levels + depth >= self._limits.depth_max)
            depth += 1
        elif not self._is_nested(value):
            self._check_leaf(value, path)
            return
        else:
            levels, depth = levels + 1, 0
            self._check_here(value, path, too_deep=levels >= self._limits.depth_max)
        self._open.add(id(value))
        for part, part_path in parts_of(value, path):
            self.visit(part, part_path, levels=levels, depth=depth)
        self._open.discard(id(value))

    def _is_nested(self, value: object) -> bool:
        return type(value) in {tuple, set, frozenset} or (self._records and annotations.is_record(value))

    def _check_here(self, value: object, path: str, *, too_deep: bool) -> None:
        if id(value) in self._open:
            raise UnserializableValue(
                f"{_shorten(path)}: the {type(value).__name__} contains itself; pass a tree of values"
            )
        if too_deep:
            raise UnserializableValue(
                f"{_shorten(path)}: nested deeper than {self._limits.depth_max} levels; flatten the value"
            )
        try:
            self._check_own_rules(value)
        except Unsupported as error:
            raise UnserializableValue(f"{_shorten(path)}: {error}") from error

    def _check_own_rules(self, value: object) -> None:
        if type(value) not in {list, dict, tuple, set, frozenset}:
            annotations.to_plain(value)
            return
        count = len(cast("list[object]", value))
        if count > self._limits.items_max:
            raise Unsupported(f"it has {count:,} items, the limit is {self._limits.items_max:,}; split it")

    def _check_leaf(self, value: object, path: str) -> None:
        try:
            self._try_leaf(value)
        except UnicodeEncodeError as error:
            raise UnserializableValue(
                f"{_shorten(path)}: the text has a lone surrogate at position {error.start}, which is no character; "
                "clean it with text.encode('utf-8', 'replace').decode()"
            ) from error
        except (Unsupported, ValueError, TypeError, OverflowError) as error:
            raise UnserializableValue(f"{_shorten(path)}: {error}") from error


def parts_of(value: object, path: str) -> Iterator[tuple[object, str]]:
    """Yield the parts of a container, each with its own path."""
    cls = type(value)
    if cls is dict:
        for key, item in cast("dict[object, object]", value).items():
            yield key, f"key {short_text(key)} of {path}"
            yield item, f"{path}[{short_text(key)}]"
    elif cls is list or cls is tuple:
        for index, item in enumerate(cast("list[object]", value)):
            yield item, f"{path}[{index}]"
    elif cls is set or cls is frozenset:
        for item in cast("set[object]", value):
            yield item, f"{path}{{{short_text(item)}}}"
    else:
        yield from annotations.parts_of_record(value, path)


def _shorten(path: str) -> str:
    return path if len(path) <= PATH_LENGTH_MAX else f"{path[:PATH_LENGTH_MAX]}..."
