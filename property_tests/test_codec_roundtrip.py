"""The codec under Hypothesis: every supported value comes back equal and of the same type; no bytes do harm."""

import contextlib
import dataclasses
import datetime as dt
import enum
import math
import pathlib
import random
import struct
import zoneinfo
from decimal import Decimal
from typing import NamedTuple, TypedDict

import msgpack
import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.envelope import Envelope, decode_envelope, encode_envelope
from asynctasq.codec.signing import SigningKeys
from asynctasq.codec.values import pack, unpack
from asynctasq.errors import (
    DELAY_S_MAX,
    BadSignature,
    CodecError,
    UndecodableBody,
    UnserializableValue,
    UnsupportedVersion,
)
from asynctasq.kernel.envelope import MISSING
from asynctasq.kernel.retry import Delays, Exponential, Fixed
from tests.effort import examples

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no finding."""

ZONES = [
    zoneinfo.ZoneInfo(key) for key in ("Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "UTC")
]
OFFSETS = st.timedeltas(min_value=dt.timedelta(hours=-23, minutes=-59), max_value=dt.timedelta(hours=23, minutes=59))
FIXED_ZONES = st.one_of(
    st.just(dt.UTC),
    st.builds(dt.timezone, OFFSETS),
    st.builds(dt.timezone, OFFSETS, st.text(st.characters(codec="utf-8"), max_size=5)),
)
ANY_ZONE = st.one_of(st.none(), st.sampled_from(ZONES), FIXED_ZONES)

DATETIMES = st.builds(
    lambda naive, zone, fold: naive.replace(tzinfo=zone, fold=fold), st.datetimes(), ANY_ZONE, st.integers(0, 1)
)
TIMES = st.builds(
    lambda naive, zone, fold: naive.replace(tzinfo=zone, fold=fold), st.times(), ANY_ZONE, st.integers(0, 1)
)
TEXTS = st.text(st.characters(codec="utf-8"))
PATH_TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=20)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    st.dates(),
    DATETIMES,
    TIMES,
    st.timedeltas(),
    st.uuids(),
    st.builds(pathlib.Path, PATH_TEXTS),
    st.builds(pathlib.PurePosixPath, PATH_TEXTS),
    st.builds(pathlib.PureWindowsPath, PATH_TEXTS),
)
KEYS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.tuples(inner), st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=25,
)


def same(left: object, right: object) -> bool:
    """Equal, of the same type, and so in every part; fold, zone and the sign of zero too."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(*keys) and same(left[keys[0]], right[keys[1]]) for keys in zip(left, right, strict=True)
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, set | frozenset):
        types = {item: type(item) for item in right}
        return left == right and all(types[item] is type(item) for item in left)
    if isinstance(left, dt.datetime | dt.time):
        return (left.replace(tzinfo=None), left.fold, repr(left.tzinfo)) == (
            right.replace(tzinfo=None),
            right.fold,
            repr(right.tzinfo),
        )
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    return left == right


@given(VALUES)
@settings(STEADY, max_examples=examples(400))
@example({"__type__": "datetime", "__class__": "os:system", "$ref": [1], "": None})
@example({1: "a", "1": "b", b"1": "c", (1,): "d", None: "e"})
@example(dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=23))))
@example(dt.datetime.max.replace(tzinfo=zoneinfo.ZoneInfo("America/New_York")))
@example(dt.datetime(2000, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))))
@example(dt.time(1, tzinfo=dt.timezone(-dt.timedelta(microseconds=1), "X")))
@example(dt.time(1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1))
@example([-0.0, math.inf, -math.inf, 5e-324, Decimal("-0E+20"), Decimal("-Infinity")])
def test_every_value_comes_back_equal_and_of_the_same_type(value):
    assert same(unpack(pack(value, path="value")), value)


NANS = st.integers(1, 2**52 - 1).flatmap(
    lambda payload: st.sampled_from([0x7FF, 0xFFF]).map(
        lambda head: struct.unpack(">d", struct.pack(">Q", head << 52 | payload))[0]
    )
)


@given(NANS, st.sampled_from(["NaN", "-NaN", "sNaN", "NaN123"]))
@STEADY
def test_not_a_number_comes_back_as_it_was(number, text):
    number_back, decimal_back = unpack(pack([number, Decimal(text)], path="value"))

    assert struct.pack(">d", number_back) == struct.pack(">d", number)
    assert str(decimal_back) == text


@given(DATETIMES)
@STEADY
def test_a_moment_keeps_its_offset_and_instant(moment):
    back = unpack(pack(moment, path="value"))

    assert back.utcoffset() == moment.utcoffset()
    if moment.tzinfo is dt.UTC:
        assert back.tzinfo is dt.UTC


@given(st.datetimes(min_value=dt.datetime(1900, 1, 1), max_value=dt.datetime(2500, 1, 1)), VALUES)
@settings(STEADY, max_examples=examples(25))
def test_frozen_time_travels_as_the_real_thing(moment, value):
    with freeze_time(moment, real_asyncio=True):
        now, today = dt.datetime.now(dt.UTC), dt.date.today()
        naive = dt.datetime.now()
        assert {type(now).__name__, type(today).__name__} == {"FakeDatetime", "FakeDate"}
        back = unpack(pack({"now": now, "naive": (naive,), "today": {today: value}}, path="value"))

    assert [type(item).__module__ for item in (back["now"], back["naive"][0], *back["today"])] == ["datetime"] * 3
    assert back["now"] == now
    assert back["naive"] == (naive,)
    assert list(back["today"]) == [today]
    assert same(back["today"][today], value)


# --- rebuilt from annotations ----------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"
    GREEN = ("a", "tuple")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    color: Color


@dataclasses.dataclass(frozen=True)
class Leaf:
    color: Color
    level: Level | None


@dataclasses.dataclass
class Tree:
    name: str
    leaves: list[Leaf]
    by_level: dict[Level, tuple["Leaf", ...]]
    children: list["Tree"]


class Form(BaseModel):
    title: str
    rights: Rights
    points: list[Point]
    leaf: Leaf | None = None


class Options(TypedDict, total=False):
    color: Color
    forms: list[Form]


COLORS, LEVELS = st.sampled_from(Color), st.sampled_from(Level)
RIGHTS = st.sampled_from([Rights(0), Rights.READ, Rights.WRITE, Rights.READ | Rights.WRITE])
POINTS = st.builds(Point, st.integers(), COLORS)
LEAVES = st.builds(Leaf, COLORS, st.none() | LEVELS)
TREES = st.recursive(
    st.builds(Tree, TEXTS, st.lists(LEAVES, max_size=2), st.just({}), st.just([])),
    lambda inner: st.builds(
        Tree,
        TEXTS,
        st.lists(LEAVES, max_size=2),
        st.dictionaries(LEVELS, st.lists(LEAVES, max_size=2).map(tuple), max_size=2),
        st.lists(inner, max_size=2),
    ),
    max_leaves=5,
)
FORMS = st.builds(Form, title=TEXTS, rights=RIGHTS, points=st.lists(POINTS, max_size=2), leaf=st.none() | LEAVES)
CASES = st.one_of(
    st.tuples(st.just(Color | Level | str | None), st.one_of(COLORS, LEVELS, TEXTS, st.none())),
    st.tuples(st.just(list[Color] | dict[Level, Leaf]), st.lists(COLORS) | st.dictionaries(LEVELS, LEAVES)),
    st.tuples(st.just(tuple[Rights, Point]), st.tuples(RIGHTS, POINTS)),
    st.tuples(st.just(frozenset[Leaf]), st.frozensets(LEAVES)),
    st.tuples(st.just(Tree), TREES),
    st.tuples(st.just(list[Form]), st.lists(FORMS, max_size=2)),
    st.tuples(
        st.just(Options), st.fixed_dictionaries({}, optional={"color": COLORS, "forms": st.lists(FORMS, max_size=2)})
    ),
)


@given(CASES)
@STEADY
def test_annotated_classes_are_rebuilt(case):
    annotation, value = case

    data = pack_arguments("app:Task", {"value": value}, {"value": annotation})
    back = unpack_arguments(data, {"value": annotation})["value"]

    assert back == value
    assert type(back) is type(value)


@given(CASES)
@STEADY
def test_without_the_annotation_it_is_the_same_value_or_an_error(case):
    _, value = case

    try:
        data = pack_arguments("app:Task", {"value": value}, {})
    except UnserializableValue as error:
        named = "Task.value" in str(error)
    else:
        named = same(unpack_arguments(data, {})["value"], value)

    assert named


# --- hostile bytes ---------------------------------------------------------------------------------------------

EXTENSIONS = st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=24))
HOSTILE = st.recursive(
    st.one_of(SCALARS.filter(lambda value: isinstance(value, int | str | bytes | float) or value is None), EXTENSIONS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.integers(0, 9), TEXTS, EXTENSIONS), inner, max_size=3),
        st.builds(lambda code, item: msgpack.ExtType(code, _packed(item)), st.integers(1, 16), inner),
    ),
    max_leaves=10,
)


def _packed(value: object) -> bytes:
    return msgpack.packb(value, default=lambda _: None)


def _reads_or_refuses(data: bytes) -> None:
    with contextlib.suppress(UndecodableBody):
        unpack(data)
    with contextlib.suppress(UndecodableBody):
        unpack_arguments(data, {"value": Tree, "a": list[Form], "b": Options})
    with contextlib.suppress(UndecodableBody, UnsupportedVersion):
        decode_envelope(data)


@given(st.binary(max_size=200))
@settings(STEADY, max_examples=examples(500))
def test_random_bytes_only_ever_give_a_value_or_one_error(data):
    _reads_or_refuses(data)
    _reads_or_refuses(b"\xc1\x01\x00" + data)


@given(HOSTILE)
@settings(STEADY, max_examples=examples(300))
@example(
    {"value": msgpack.ExtType(13, msgpack.packb(["Tree", {"name": 1, "leaves": [], "by_level": {}, "children": 3}]))}
)
@example(msgpack.Timestamp(1, 2))
@example(msgpack.ExtType(14, msgpack.packb(["sqlalchemy", "os:system", ["x"]])))
@example(msgpack.ExtType(7, b"2020-01-01T00:00:00+00:00\n0\n../../etc/passwd\n"))
@example(msgpack.ExtType(6, b"1e999999999999999999999999"))
def test_hostile_structures_only_ever_give_a_value_or_one_error(value):
    _reads_or_refuses(_packed({"value": value}))
    _reads_or_refuses(_packed(value))


@given(VALUES, st.integers(0, 2**32), st.integers(1, 5))
@settings(STEADY, max_examples=examples(300))
def test_damaged_bytes_only_ever_give_a_value_or_one_error(value, seed, changes):
    data = bytearray(pack({"value": value}, path="value"))
    rng = random.Random(seed)
    for _ in range(changes):
        data[rng.randrange(len(data))] = rng.randrange(256)
    cut = rng.randrange(len(data) + 1) if rng.random() < 0.3 else len(data)

    _reads_or_refuses(bytes(data[:cut]))


# --- envelopes -------------------------------------------------------------------------------------------------

FACTORS = st.floats(min_value=0, allow_infinity=False)
SECONDS = st.floats(min_value=0, max_value=DELAY_S_MAX) | st.integers(0, 10**9)
LIMITS_S = st.floats(min_value=0, max_value=DELAY_S_MAX, exclude_min=True) | st.integers(1, 10**9)
RETRIES = st.one_of(
    st.builds(Fixed, delay_s=SECONDS),
    st.builds(Exponential, base_s=SECONDS, factor=FACTORS, cap_s=SECONDS, jitter=st.booleans()),
    st.builds(Delays, delays_s=st.lists(SECONDS, min_size=1, max_size=4).map(tuple)),
)
ENVELOPES = st.builds(
    Envelope,
    task=TEXTS,
    arguments=st.binary(max_size=50),
    max_attempts=st.integers(0, 100),
    retry=RETRIES,
    dispatched_at=st.floats(0, 253402300799),
    timeout_s=st.none() | LIMITS_S,
    keep_result_s=st.none() | LIMITS_S,
    max_crashes=st.integers(1, 10),
    headers=st.dictionaries(TEXTS, TEXTS, max_size=2),
    missing=st.sampled_from(MISSING),
    expires_s=st.none() | LIMITS_S,
)
KEYS_OLD = SigningKeys({"old": b"o" * 32})
KEYS_BOTH = SigningKeys({"old": b"o" * 32, "new": b"n" * 32}, sign_with="new")


@given(ENVELOPES)
@STEADY
def test_every_envelope_comes_back(envelope):
    assert decode_envelope(encode_envelope(envelope)) == envelope
    assert decode_envelope(encode_envelope(envelope, key=KEYS_BOTH), keys=KEYS_BOTH) == envelope
    assert decode_envelope(encode_envelope(envelope, key=KEYS_OLD), keys=KEYS_BOTH) == envelope


@given(ENVELOPES, st.integers(0, 2**32))
@STEADY
def test_one_changed_byte_of_a_signed_body_is_noticed(envelope, seed):
    rng = random.Random(seed)
    body = bytearray(encode_envelope(envelope, key=KEYS_BOTH))
    index = rng.randrange(len(body))
    body[index] ^= 1 << rng.randrange(8)

    with pytest.raises(CodecError) as caught:
        decode_envelope(bytes(body), keys=KEYS_BOTH)

    assert index < 3 or isinstance(caught.value, BadSignature)
