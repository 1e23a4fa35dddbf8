"""The fixed list of extension types and the exact bytes of each; no other type is ever decoded.

Every function here is pure and handles one type. Nesting is handled by `values`.
"""

import datetime as dt
import decimal
import pathlib
import re
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Final, cast

from asynctasq.errors import UndecodableBody

__all__ = ["DECODERS", "ENCODERS", "Unsupported", "standard_type"]

BIG_INT: Final = 4
COMPLEX: Final = 5
DECIMAL: Final = 6
DATETIME: Final = 7
DATE: Final = 8
TIME: Final = 9
TIMEDELTA: Final = 10
UUID: Final = 11
PATH: Final = 12

TIMEDELTA_LAYOUT = struct.Struct(">iii")
COMPLEX_LAYOUT = struct.Struct(">dd")
MICROSECOND = dt.timedelta(microseconds=1)
MICROSECOND_OFFSET = re.compile(r"=-?[0-9]{1,11}\Z", re.ASCII)
ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]+(?:/[A-Za-z0-9_+\-]+){0,3}\Z")
# Own context: the caller's may have the trap off that turns a malformed text into NaN.
DECIMAL_CONTEXT = decimal.Context(traps=[decimal.InvalidOperation])


class Unsupported(Exception):
    """A value that can't be serialized; the text says why and what to do, without the path.

    Never leaves the codec: `values` turns it into UnserializableValue.
    """


def _real(name: str) -> type:
    """Return the class of the standard library, also while freezegun has put a fake in its place."""
    mro = cast("type", getattr(dt, name)).__mro__
    return next(cls for cls in mro if cls.__module__ == "datetime" and cls.__name__ == name)


class _Real:
    """The real classes. Attributes of a class: freezegun replaces those of modules."""

    datetime = cast("type[dt.datetime]", _real("datetime"))
    date = cast("type[dt.date]", _real("date"))


def standard_type(cls: type) -> type | None:
    """Return the standard class whose values another library's class replaces and equals, else None."""
    return {
        ("freezegun.api", "FakeDatetime"): _Real.datetime,
        ("freezegun.api", "FakeDate"): _Real.date,
        ("asyncpg.pgproto.pgproto", "UUID"): uuid.UUID,
    }.get((cls.__module__, cls.__name__))


# --- numbers ---------------------------------------------------------------------------------------------------


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _encode_complex(value: complex) -> bytes:
    return COMPLEX_LAYOUT.pack(value.real, value.imag)


def _decode_complex(data: bytes) -> complex:
    real, imaginary = COMPLEX_LAYOUT.unpack(data)
    return complex(real, imaginary)


def _encode_decimal(value: decimal.Decimal) -> bytes:
    return str(value).encode("ascii")


def _decode_decimal(data: bytes) -> decimal.Decimal:
    return decimal.Decimal(data.decode("ascii"), DECIMAL_CONTEXT)


# --- identifiers and paths -------------------------------------------------------------------------------------


def _encode_uuid(value: uuid.UUID) -> bytes:
    return value.bytes


def _decode_uuid(data: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=data)


PATH_KINDS: dict[bytes, type[pathlib.PurePath]] = {
    b"L": pathlib.Path,
    b"P": pathlib.PurePosixPath,
    b"W": pathlib.PureWindowsPath,
}


def _path_encoder(kind: bytes) -> Callable[[pathlib.PurePath], bytes]:
    # File names need not be text; Python shows such bytes as lone surrogates, which pass here alone.
    return lambda value: kind + str(value).encode("utf-8", "surrogatepass")


def _decode_path(data: bytes) -> pathlib.PurePath:
    return PATH_KINDS[data[:1]](data[1:].decode("utf-8", "surrogatepass"))


# --- dates and times -------------------------------------------------------------------------------------------


def _encode_timedelta(value: dt.timedelta) -> bytes:
    return TIMEDELTA_LAYOUT.pack(value.days, value.seconds, value.microseconds)


def _decode_timedelta(data: bytes) -> dt.timedelta:
    days, seconds, microseconds = TIMEDELTA_LAYOUT.unpack(data)
    return dt.timedelta(days, seconds, microseconds)


def _encode_date(value: dt.date) -> bytes:
    return value.isoformat().encode("ascii")


def _decode_date(data: bytes) -> dt.date:
    return _Real.date.fromisoformat(data.decode("ascii"))


def _zone_fields(value: dt.datetime | dt.time) -> tuple[str, str | None]:
    """Return (key of the ZoneInfo or empty, name of the fixed offset if it was given one).

    An offset with microseconds stands in the place of the key: `fromisoformat` does not read every one of them.
    """
    zone, offset = value.tzinfo, value.utcoffset()
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key and ZONE_KEY.match(zone.key):
        return zone.key, None
    if zone is not None and offset is None:
        raise Unsupported(
            f"its time zone {type(zone)} gives it no UTC offset; use zoneinfo.ZoneInfo(...) or datetime.timezone"
        )
    key = f"={offset // MICROSECOND}" if offset is not None and offset.microseconds else ""
    if type(zone) is dt.timezone:
        arguments = zone.__reduce__()[1]
        return key, str(arguments[1]) if len(arguments) > 1 else None
    return key, None


def _encode_time_or_datetime(value: dt.datetime | dt.time) -> bytes:
    """Encode as ISO 8601; fold, key and name follow on lines of their own where there are any."""
    text = value.isoformat()
    if value.tzinfo is None and not value.fold:
        return text.encode("ascii")
    key, name = _zone_fields(value)
    if key or name is not None or value.fold:
        text = f"{text}\n{value.fold}\n{key}" + ("" if name is None else f"\n{name}")
    return text.encode("utf-8", "surrogatepass")


def _split_time_or_datetime(data: bytes) -> tuple[str, int, dt.tzinfo | None, str | None]:
    text, *rest = data.decode("utf-8", "surrogatepass").split("\n", 3)
    if not rest:
        return text, 0, None, None
    fold, key, *names = rest
    name = names[0] if names else None
    if fold not in {"0", "1"}:
        raise UndecodableBody("a time with a fold other than 0 or 1")
    return text, int(fold), _named(_zone(key), name) if key else None, name


def _zone(key: str) -> dt.tzinfo:
    if MICROSECOND_OFFSET.match(key):
        return dt.timezone(dt.timedelta(microseconds=int(key[1:])))
    if not ZONE_KEY.match(key):
        raise UndecodableBody("a time zone whose name is not one")
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise UndecodableBody(f"time zone {key!r} is not known here; install the package 'tzdata'") from error


def _named(zone: dt.tzinfo | None, name: str | None) -> dt.tzinfo | None:
    if name is None or not isinstance(zone, dt.timezone):
        return zone
    return dt.timezone(zone.utcoffset(None), name)


def _decode_datetime(data: bytes) -> dt.datetime:
    text, fold, zone, name = _split_time_or_datetime(data)
    value = _Real.datetime.fromisoformat(text)
    if zone is None:
        return value.replace(fold=fold, tzinfo=_named(value.tzinfo, name)) if fold or name is not None else value
    local = value.replace(tzinfo=zone, fold=fold)
    if isinstance(zone, dt.timezone):
        return local
    # The instant wins where the rules of the zone differ from those it was written under.
    return local if local.utcoffset() == value.utcoffset() else value.astimezone(zone)


def _decode_time(data: bytes) -> dt.time:
    text, fold, zone, name = _split_time_or_datetime(data)
    value = dt.time.fromisoformat(text)
    return value.replace(fold=fold, tzinfo=zone or _named(value.tzinfo, name))


# --- tables ----------------------------------------------------------------------------------------------------

Encoder = Callable[[object], bytes]

ENCODERS: dict[type, tuple[int, Encoder]] = {
    cls: (code, cast("Encoder", encode))
    for cls, code, encode in [
        (int, BIG_INT, _encode_int),
        (complex, COMPLEX, _encode_complex),
        (decimal.Decimal, DECIMAL, _encode_decimal),
        (_Real.datetime, DATETIME, _encode_time_or_datetime),
        (_Real.date, DATE, _encode_date),
        (dt.time, TIME, _encode_time_or_datetime),
        (dt.timedelta, TIMEDELTA, _encode_timedelta),
        (uuid.UUID, UUID, _encode_uuid),
        (type(pathlib.Path()), PATH, _path_encoder(b"L")),
        (pathlib.PurePosixPath, PATH, _path_encoder(b"P")),
        (pathlib.PureWindowsPath, PATH, _path_encoder(b"W")),
    ]
}
"""Exact type -> (code, encoder)."""

DECODERS: dict[int, Callable[[bytes], object]] = {
    BIG_INT: _decode_int,
    COMPLEX: _decode_complex,
    DECIMAL: _decode_decimal,
    DATETIME: _decode_datetime,
    DATE: _decode_date,
    TIME: _decode_time,
    TIMEDELTA: _decode_timedelta,
    UUID: _decode_uuid,
    PATH: _decode_path,
}
"""Code -> decoder."""
