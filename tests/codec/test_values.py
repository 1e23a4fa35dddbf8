"""What travels, what is refused and how the refusal reads."""

import collections
import datetime as dt
import enum
import pathlib
import socket
import subprocess
import sys
import zoneinfo

import msgpack
import pytest

from asynctasq.codec.limits import Limits
from asynctasq.codec.values import pack, unpack
from asynctasq.errors import BodyTooLarge, UndecodableBody, UnserializableValue

LIMIT = 64


def there_and_back(value: object) -> object:
    return unpack(pack(value, path="value"))


def nested(make, levels: int) -> object:
    value = make(0)
    for _ in range(levels - 1):
        value = make(value)
    return value


def frozenset_of(value: object) -> object:
    return frozenset([value])


NESTS = {
    "lists": lambda value: [value],
    "dicts": lambda value: {"a": value},
    "tuples": lambda value: (value,),
    "sets": frozenset_of,
    "lists and tuples": lambda value: [value] if isinstance(value, tuple) else (value,),
}


# --- exactness -------------------------------------------------------------------------------------------------


def test_a_dict_may_have_any_keys():
    value = {"__type__": "datetime", "$ref": 1, "": 2, 1: 3, (1, ("a",)): 4, None: 5, dt.date(2026, 1, 1): 6, b"1": 7}

    assert list(there_and_back(value).items()) == list(value.items())


def test_true_is_not_one():
    assert [type(item) for item in there_and_back([True, 1, 1.0, False, 0])] == [bool, int, float, bool, int]


def test_a_zone_keeps_its_key_and_fold_its_side_of_the_hour():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    first, second = (dt.datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=berlin) for fold in (0, 1))

    back = there_and_back([first, second])

    assert [item.tzinfo for item in back] == [berlin, berlin]
    assert [item.utcoffset() for item in back] == [dt.timedelta(hours=2), dt.timedelta(hours=1)]


def test_a_foreign_time_zone_keeps_its_offset():
    class Shop(dt.tzinfo):
        def utcoffset(self, moment):
            return dt.timedelta(hours=5, minutes=30)

    moment = dt.datetime(2026, 1, 1, tzinfo=Shop())

    back = there_and_back(moment)

    assert back == moment
    assert back.tzinfo == dt.timezone(dt.timedelta(hours=5, minutes=30))


def test_an_offset_of_one_microsecond_is_not_utc():
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1)))

    assert there_and_back(moment).utcoffset() == dt.timedelta(microseconds=1)


def test_the_instant_wins_where_the_rules_of_a_zone_have_changed():
    data = pack(dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), path="x")
    older_rules = data.replace(b"+02:00", b"+03:00")

    moment = unpack(older_rules)

    assert moment == dt.datetime(2026, 7, 1, 9, tzinfo=dt.UTC)
    assert moment.tzinfo.key == "Europe/Berlin"


def test_file_names_that_are_no_text_travel():
    path = pathlib.Path(b"caf\xe9".decode("utf-8", "surrogateescape"))

    assert there_and_back(path) == path


def test_integers_have_no_limit_of_digits():
    number = 7**200_000

    assert there_and_back(number) == number


# --- refusals --------------------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Moment(dt.datetime):
    pass


class Silent(dt.tzinfo):
    def utcoffset(self, moment):
        return None


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Text("x"), "plain str"),
        (Number(1), "plain str, int"),
        (Moment(2026, 1, 1), "Moment'> can't be serialized"),
        (collections.OrderedDict(a=1), r"dict\(\.\.\.\)"),
        (collections.defaultdict(list), r"dict\(\.\.\.\)"),
        (collections.deque(), "pass plain values"),
        (bytearray(b"x"), r"use bytes\(\.\.\.\)"),
        (memoryview(b"x"), r"use bytes\(\.\.\.\)"),
        (msgpack.ExtType(1, b"x"), "use plain values"),
        (msgpack.Timestamp(1), "use datetime"),
        (print, "let the task choose the function"),
        (int, "pass its name"),
        (ValueError("x"), "pass its text"),
        (iter([1]), r"pass list\(\.\.\.\)"),
        (object(), "make the object inside the task"),
        (dt.datetime(2026, 1, 1, tzinfo=Silent()), "UTC offset"),
        (dt.time(1, tzinfo=Silent()), "UTC offset"),
        ("\ud800", "lone surrogate at position 0"),
        (Color.RED, "only rebuilt from an annotation"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
@pytest.mark.parametrize(
    "wrap", [lambda value: [1, {"x": value}], lambda value: [0, {"x": (value,)}]], ids=["list", "tuple"]
)
def test_what_would_not_come_back_is_refused_by_its_path(value, says, wrap):
    with pytest.raises(UnserializableValue, match=says) as caught:
        pack(wrap(value), path="Task.value")

    assert str(caught.value).startswith("Task.value[1]['x']")


def test_an_open_socket_is_named():
    with socket.socket() as opened, pytest.raises(UnserializableValue) as caught:
        pack({"attachments": [1, 2, opened]}, path="mail")

    assert str(caught.value).startswith("mail['attachments'][2]: <class 'socket.socket'> can't be serialized; ")


def test_an_offender_among_keys_and_elements_is_found():
    with pytest.raises(UnserializableValue, match=r"^key <tuple> of x\[1\]\[0\]: <class 'object'>"):
        pack([0, {(object(),): 1}], path="x")
    with pytest.raises(UnserializableValue, match=r"^x\{<Text>\}: .*Text"):
        pack({Text("secret")}, path="x")


def test_a_message_never_shows_the_value():
    with pytest.raises(UnserializableValue) as caught:
        pack({"a": Text("hunter2"), "b": "hunter2\ud800"}, path="x")

    assert "hunter2" not in str(caught.value)


def test_bytes_beside_a_bytearray_do_not_hide_it():
    with pytest.raises(UnserializableValue, match=r"^x\[500\]\['b'\]: "):
        pack([b"x"] * 500 + [{"b": bytearray(b"y")}], path="x")


# --- limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_nesting_at_the_limit_travels(nest):
    value = nested(nest, LIMIT - 1)

    assert there_and_back(value) == value


@pytest.mark.parametrize("levels", [LIMIT * 2 + 1, 600, 2000])
@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_nesting_beyond_the_limit_is_refused_by_its_path(nest, levels):
    with pytest.raises(UnserializableValue, match=r"^x.*nested deeper than 64 levels") as caught:
        pack(nested(nest, levels), path="x")

    assert len(str(caught.value)) < 500


def test_lists_one_level_beyond_the_limit_are_refused():
    assert pack(nested(NESTS["lists"], LIMIT), path="x")
    with pytest.raises(UnserializableValue, match="nested deeper"):
        pack(nested(NESTS["lists"], LIMIT + 1), path="x")


def test_wide_values_are_not_taken_for_deep_ones():
    value = [[{"a": [number]}] for number in range(5000)]

    assert there_and_back(value) == value


@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_a_value_that_contains_itself_is_refused(kind):
    value: list[object] = [1]
    value.append({"list": value, "dict": {"again": value}, "tuple": (value,)}[kind])

    with pytest.raises(UnserializableValue, match=r"^x\[1\].*contains itself"):
        pack(value, path="x")


def test_a_value_that_stands_in_two_places_is_no_cycle():
    shared = [1]

    assert there_and_back([shared, shared, (shared,)]) == [[1], [1], ([1],)]


def test_fifty_megabytes_are_refused_with_both_sizes():
    with pytest.raises(BodyTooLarge, match=r"^x has 50,000,005 bytes when encoded, the limit is 10,485,760; store"):
        pack(b"x" * 50_000_000, path="x")


@pytest.mark.parametrize("value", [[0] * 11, tuple(range(11)), set(range(11)), dict.fromkeys(range(11))])
def test_too_many_items_are_refused(value):
    limits = Limits(items_max=10)

    with pytest.raises(UnserializableValue, match=r"^x\[0\]: it has 11 items, the limit is 10"):
        pack([value], path="x", limits=limits)


@pytest.mark.parametrize("wrong", [{"depth_max": 0}, {"depth_max": 1000}, {"body_bytes_max": 0}, {"items_max": 0}])
def test_limits_that_could_not_hold_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)


# --- hostile bytes ---------------------------------------------------------------------------------------------


def extension(code: int, content: object) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, content if isinstance(content, bytes) else msgpack.packb(content)))


def deep_extension(levels: int) -> bytes:
    data = msgpack.packb(0)
    for _ in range(levels):
        data = msgpack.packb(msgpack.ExtType(1, b"\x91" + data))
    return data


HOSTILE = {
    "nothing": b"",
    "trailing bytes": b"\x01\x02",
    "cut short": b"\xd9\x05ab",
    "bad utf-8": b"\xa2\xff\xfe",
    "never used": b"\xc1",
    "unknown extension": extension(99, b""),
    "timestamp": msgpack.packb(msgpack.Timestamp(1)),
    "timestamp in a set": extension(2, [msgpack.Timestamp(1)]),
    "an array that claims four billion items": b"\xdd\xff\xff\xff\xff",
    "a thousand arrays that claim a million items": b"\xdd\x00\x0f\x42\x40" * 1000,
    "a map that claims four billion items": b"\xdf\xff\xff\xff\xff",
    "a deep array": b"\x91" * 100_000,
    "an array deeper than the limit": b"\x91" * 65 + b"\x00",
    "deep extensions": deep_extension(100),
    "unhashable key": b"\x81\x90\x01",
    "unhashable element": extension(2, [[]]),
    "a set that is a map": extension(2, {"a": 1}),
    "a tuple that is not packed": extension(1, b"\xc1"),
    "trailing bytes in a tuple": extension(1, b"\x90\x90"),
    "a decimal that is none": extension(6, b"abc"),
    "a decimal with an exponent beyond all": extension(6, b"1e9999999999999999999999"),
    "a signaling NaN as key": b"\x81" + extension(6, b"sNaN") + b"\x01",
    "a date that is none": extension(8, b"2026-02-30"),
    "a time with odd lines": extension(9, b"10:00\n0"),
    "a fold of 7": extension(7, b"2026-01-01\n7\n\n"),
    "a zone outside of the zones": extension(7, b"2026-01-01\n0\n../../../etc/passwd"),
    "a zone that is a module": extension(7, b"2026-01-01\n0\nos.path"),
    "a zone nobody knows": extension(7, b"2026-01-01\n0\nMars/Olympus"),
    "an offset beyond a day": extension(7, b"2026-01-01\n0\n=99999999999"),
    "a timedelta beyond all": extension(10, b"\x7f" * 12),
    "a timedelta of three bytes": extension(10, b"abc"),
    "a UUID of three bytes": extension(11, b"abc"),
    "a path of no kind": extension(12, b"Xabc"),
    "an empty path": extension(12, b""),
    "a complex number of three bytes": extension(5, b"abc"),
    "a record without a name": extension(13, [1, 2]),
    "a record of three": extension(13, ["A", 2, 3]),
    "a reference without a key": extension(14, ["sqlalchemy", "a:B", []]),
    "a reference to a number": extension(14, ["sqlalchemy", 1, [1]]),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_give_one_kind_of_error(data):
    with pytest.raises(UndecodableBody):
        unpack(data)


def test_bytes_beyond_the_limit_are_not_even_read():
    with pytest.raises(UndecodableBody, match="11 bytes, the limit is 10"):
        unpack(b"\xc1" * 11, limits=Limits(body_bytes_max=10))


@pytest.mark.parametrize("name", ["a zone outside of the zones", "a zone that is a module"])
def test_a_strange_zone_is_not_even_looked_for(name):
    with pytest.raises(UndecodableBody, match="whose name is not one"):
        unpack(HOSTILE[name])


def test_nothing_is_allocated_on_a_promise():
    with pytest.raises(UndecodableBody, match="exceeds max_array_len"):
        unpack(b"\xdd\x00\x01\x00\x00" + b"\x00" * 1000)
    with pytest.raises(UndecodableBody, match="exceeds max_map_len"):
        unpack(b"\xdf\x00\x01\x00\x00" + b"\x00" * 1000)


def test_a_zone_that_is_missing_here_says_what_to_install():
    with pytest.raises(UndecodableBody, match=r"time zone 'Mars/Olympus' is not known here; install .*tzdata"):
        unpack(HOSTILE["a zone nobody knows"])


def test_no_optional_library_is_imported():
    program = (
        "import sys, asynctasq.codec.arguments; "
        "print([name for name in ('freezegun', 'pydantic', 'sqlalchemy', 'django', 'tortoise') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_a_codec_imported_under_frozen_time_knows_the_real_types():
    program = """
import datetime, freezegun
with freezegun.freeze_time("2026-01-01"):
    from asynctasq.codec.values import pack, unpack
    back = unpack(pack([datetime.datetime.now(), datetime.date.today()], path="x"))
print([type(item).__module__ for item in back], back)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "['datetime', 'datetime'] [datetime.datetime(2026, 1, 1, 0, 0), datetime.date(2026, 1, 1)]\n"
