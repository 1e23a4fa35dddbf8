"""Python values to bytes and back: msgpack with a fixed list of extension types; imports and runs nothing.

Types that msgpack's C packer encodes exactly are encoded by it alone; all others are passed to a hook by their exact
type. The path of a value that can't be encoded is searched only after the encoding has failed.
"""

import struct
from collections.abc import Callable
from typing import Final, cast

from asynctasq.codec import annotations
from asynctasq.codec._structure import check_budget, check_hashes, check_structure, needs_structure_check
from asynctasq.codec.extensions import DECODERS, ENCODERS, Unsupported, standard_type
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.orm import references
from asynctasq.codec.orm.references import ModelReference
from asynctasq.codec.records import Record
from asynctasq.codec.typed_msgpack import ExtType, packb, unpackb
from asynctasq.errors import BodyTooLarge, UndecodableBody, UnserializableValue

__all__ = ["DEFAULT_LIMITS", "Decoding", "Encoding", "Limits", "pack", "unpack"]

TUPLE: Final = 1
SET: Final = 2
FROZENSET: Final = 3
RECORD: Final = 13
MODEL: Final = 14

SEARCHED_BYTES_MAX: Final = 64 * 1024
FAILURES: Final = (Unsupported, ValueError, TypeError, OverflowError, RecursionError)
SEQUENCE_CODES: dict[type, int] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}
SEQUENCE_TYPES: dict[int, Callable[[list[object]], object]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
}


def pack(value: object, *, path: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of a value that is decoded equal and of the same type without any annotation.

    Raises: UnserializableValue naming the place under `path`, BodyTooLarge.
    """
    return Encoding(limits, records_allowed=False).encode(value, path=path)


def unpack(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> object:
    """Return the value; a `Record` or `ModelReference` stands where only an annotation can tell the class.

    Raises: UndecodableBody, and nothing else, whatever the bytes are.
    """
    return Decoding(limits).decode(data)


_text_types: set[type[str]] = set()


def register_text(cls: type[str]) -> None:
    """Let values of this kind of string be encoded as the strings they equal; they are decoded as plain ones."""
    _text_types.add(cls)


class Encoding:
    """One encoding. Afterwards `annotated` says whether the value can be decoded only as its annotation allows."""

    __slots__ = ("_depth", "_limits", "_records_allowed", "annotated")

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, records_allowed: bool = True) -> None:
        self._limits = limits
        self._records_allowed = records_allowed
        self._depth = 0
        self.annotated = False

    def encode(self, value: object, *, path: str) -> bytes:
        """Return the bytes, within the limits.

        Raises: UnserializableValue naming the place under `path`, BodyTooLarge.
        """
        return self._encode(value, path, lambda: [(value, path)], depth=0)

    def encode_named(self, values: dict[str, object], *, label: str) -> bytes:
        """Return the bytes of a dict of names; a path under it is `label.name`."""
        return self._encode(
            values, label, lambda: [(part, f"{label}.{name}") for name, part in values.items()], depth=1
        )

    def _encode(self, value: object, path: str, roots: Callable[[], list[tuple[object, str]]], *, depth: int) -> bytes:
        try:
            data = self._pack(value)
            if len(data) <= SEARCHED_BYTES_MAX:
                check_budget(data, self._limits, trusted=True)
        except FAILURES as error:
            from asynctasq.codec._unserializable import find_unserializable  # rarely needed

            for root, root_path in roots():
                find_unserializable(
                    root,
                    path=root_path,
                    limits=self._limits,
                    try_leaf=self._try_leaf,
                    records=self._records_allowed,
                    depth=depth,
                )
            raise UnserializableValue(f"{path}: {error}") from error
        if len(data) > self._limits.body_bytes_max:
            raise BodyTooLarge(
                f"{path} has {len(data):,} bytes when encoded, the limit is {self._limits.body_bytes_max:,}; "
                "store the data elsewhere and pass a reference"
            )
        if len(data) > SEARCHED_BYTES_MAX:
            self._check_budget(data, path)
        return data

    def _check_budget(self, data: bytes, path: str) -> None:
        """Check what a large value holds: too much everywhere has no place that a search would find soon."""
        try:
            check_budget(data, self._limits, trusted=True)
        except Unsupported as error:
            raise UnserializableValue(f"{path}: {error}") from error

    def _try_leaf(self, leaf: object) -> None:
        self._depth = 0
        self._pack(leaf)

    def _pack(self, value: object) -> bytes:
        data = packb(value, default=self._default, strict_types=True)
        # A dict of more than 15 keys begins with one of these bytes, and its keys may be what no worker would read.
        if needs_structure_check(data, self._limits, self._depth) or b"\xde" in data or b"\xdf" in data:
            check_structure(value, self._limits, self._depth)
        return data

    def _nested(self, code: int, value: object) -> object:
        self._depth += 1
        if self._depth >= self._limits.depth_max:
            raise Unsupported(f"it is nested deeper than {self._limits.depth_max} levels")
        data = self._pack(value)
        self._depth -= 1
        return ExtType(code, data)

    def _default(self, value: object) -> object:
        cls = type(value)
        if cls in _text_types:
            return str(value)
        known = ENCODERS.get(cls)
        if known is not None:
            code, encode = known
            return ExtType(code, encode(value))
        code_of_sequence = SEQUENCE_CODES.get(cls)
        if code_of_sequence is not None:
            if cls is not tuple:
                check_hashes(cast("set[object]", value))
            return self._nested(code_of_sequence, list(cast("tuple[object, ...]", value)))
        standard = standard_type(cls)
        if standard is not None:
            code, encode = ENCODERS[standard]
            return ExtType(code, encode(value))
        reference = references.reference_to(value)
        if reference is not None:
            self.annotated = True
            return self._nested(MODEL, _model_fields(reference))
        plain = annotations.to_plain(value)
        if not self._records_allowed:
            raise Unsupported(f"{cls} is only rebuilt from an annotation, and there is none here; pass plain values")
        self.annotated = True
        return self._nested(RECORD, [cls.__qualname__, plain])


class Decoding:
    """One decoding. Afterwards `records` and `references` say whether the value holds such."""

    __slots__ = ("_depth", "_limits", "_on_pairs", "records", "references")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._on_pairs: Callable[[list[tuple[object, object]]], object] | None = None
        self._begin()

    def _begin(self) -> None:
        self._depth = 0
        self.records = False
        self.references = False

    def decode(self, data: bytes) -> object:
        """Return the value; raise UndecodableBody, and nothing else, if the bytes are not one."""
        if len(data) > self._limits.body_bytes_max:
            raise UndecodableBody(f"{len(data):,} bytes, the limit is {self._limits.body_bytes_max:,}")
        try:
            check_budget(data, self._limits)
            try:
                return self._unpack(data)
            except ValueError:  # dicts with other keys than texts are made by us, so that no hashes flood them
                self._begin()
                self._on_pairs = _dict_of
                return self._unpack(data)
        except Unsupported as error:
            raise UndecodableBody(f"not a value that asynctasq writes: {error}") from error
        except (ValueError, TypeError, LookupError, ArithmeticError, struct.error) as error:
            raise UndecodableBody(f"not a value that asynctasq writes: {type(error).__name__}: {error}") from error
        except (MemoryError, RecursionError) as error:
            raise UndecodableBody("the value claims to be larger or deeper than its bytes allow") from error

    def _unpack(self, data: bytes) -> object:
        length_max = min(len(data), self._limits.items_max)
        value = unpackb(
            data,
            ext_hook=self._extension,
            object_pairs_hook=self._on_pairs,
            strict_map_key=self._on_pairs is None,
            # The other lengths are bounded by the bytes there are; these would be allocated unchecked.
            max_array_len=length_max,
            max_map_len=length_max,
        )
        if needs_structure_check(data, self._limits, self._depth):
            check_structure(value, self._limits, self._depth)
        return value

    def _nested(self, data: bytes) -> list[object]:
        self._depth += 1
        if self._depth >= self._limits.depth_max:
            raise UndecodableBody(f"the value is nested deeper than {self._limits.depth_max} levels")
        value = self._unpack(data)
        self._depth -= 1
        if type(value) is not list:
            raise UndecodableBody("an extension type holds something else than its array")
        return cast("list[object]", value)

    def _extension(self, code: int, data: bytes) -> object:
        decode = DECODERS.get(code)
        if decode is not None:
            return decode(data)
        make = SEQUENCE_TYPES.get(code)
        if make is not None:
            items = self._nested(data)
            if code != TUPLE:
                check_hashes(items)
            return make(items)
        if code == RECORD:
            return self._record(*self._nested(data))
        if code == MODEL:
            return self._model(*self._nested(data))
        raise UndecodableBody(f"extension type {code} is not known to this version")

    def _record(self, name: object, value: object) -> Record:
        if type(name) is not str:
            raise UndecodableBody("a record whose class name is not text")
        self.records = True
        return Record(name=name, value=value)

    def _model(self, orm: object, model_name: object, key: object, database: object = None) -> ModelReference:
        if type(orm) is not str or type(model_name) is not str or type(key) is not list or not key:
            raise UndecodableBody("a model reference that is not (ORM, model, primary key)")
        parts = tuple(cast("list[object]", key))
        if not references.KEY_TYPES.issuperset(map(type, parts)) or not (database is None or type(database) is str):
            raise UndecodableBody("a model reference whose primary key or database is not one")
        self.references = True
        return ModelReference(orm=orm, model_name=model_name, key=parts, database=database)


def _dict_of(pairs: list[tuple[object, object]]) -> dict[object, object]:
    check_hashes([key for key, _ in pairs])
    return dict(pairs)


def _model_fields(reference: ModelReference) -> list[object]:
    fields: list[object] = [reference.orm, reference.model_name, list(reference.key)]
    return fields if reference.database is None else [*fields, reference.database]
