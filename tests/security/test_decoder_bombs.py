"""No body of 10 MB takes a second or 200 MB to decode, whatever it is made of; large ones never in the event loop."""

import dataclasses
import enum
import itertools
import os
import resource
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.codec.arguments import unpack_arguments
from asynctasq.codec.envelope import MAGIC, WIRE_VERSION, decode_envelope, encode_envelope
from asynctasq.codec.limits import OFF_LOOP_BYTES, SAME_HASH_MAX, Limits
from asynctasq.codec.orm.references import resolve_references
from asynctasq.codec.typed_msgpack import packb
from asynctasq.codec.values import pack, unpack
from asynctasq.core import task_factory as task_factory_module
from asynctasq.core.task_factory import TaskFactory, dead_reason_of
from asynctasq.errors import CodecError, UndecodableBody, UnserializableValue
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import DeadReason
from asynctasq.kernel.retry import Fixed
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from tests.patience import patient_s

BODY_BYTES = 10 * 1024 * 1024
DECODING_S_MAX = patient_s(3)
"""CPU seconds: half a second on a free core, minutes where what bounds the cost is missing."""
SCALE = 1024
JUDGED = 2
LARGEST = (("short text", "list"), ("wide text", "list"))
"""What takes most memory of what is accepted."""
MODULUS = 2**61 - 1  # of the hashes of numbers


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Item:
    number: int
    name: str = ""


ANNOTATIONS: dict[str, object] = {"x": list[Item | Color] | dict[Item, int] | set[Item]}


def extension(code: int, content: bytes) -> bytes:
    if len(content) in (1, 2, 4, 8, 16):
        return bytes((0xD4 + (1, 2, 4, 8, 16).index(len(content)), code)) + content
    return b"\xc9" + len(content).to_bytes(4, "big") + bytes((code,)) + content


def big_int(value: int) -> bytes:
    return extension(4, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def record(name: bytes, plain: bytes) -> bytes:
    return extension(13, b"\x92" + bytes((0xA0 + len(name),)) + name + plain)


def item(number: int) -> bytes:
    return record(b"Item", b"\x81\xa6number" + big_int(number))


def tree(leaf: bytes, levels: int) -> bytes:
    for _ in range(levels):
        leaf = b"\x92" + leaf + leaf
    return leaf


UNITS: dict[str, Callable[[int], bytes]] = {
    "nil": lambda i: b"\xc0",
    "short text": lambda i: b"\xa2" + bytes((97 + i % 26, 97 + i // 26 % 26)),
    "wide text": lambda i: b"\xa4\xf0\x9f\x98\x80",
    "text with one wide character": lambda i: b"\xd9\x44" + b"a" * 64 + b"\xf0\x9f\x98\x80",
    "float": lambda i: b"\xcb" + struct.pack(">d", i * 2.0**50),
    "integer": lambda i: b"\xcf" + (i << 40).to_bytes(8, "big"),
    "colliding integer": lambda i: big_int(i * MODULUS + 7),
    "integers of sixteen a hash": lambda i: big_int((i % SAME_HASH_MAX + 8) * MODULUS + i // SAME_HASH_MAX),
    "colliding decimal": lambda i: extension(6, str(i * MODULUS + 7).encode()),
    "colliding complex": lambda i: extension(5, struct.pack(">dd", float(-1000003 * i), float(i))),
    "colliding tuple": lambda i: extension(1, b"\x91" + big_int(i * MODULUS + 7)),
    "empty list": lambda i: b"\x90",
    "empty dict": lambda i: b"\x80",
    "dict of one": lambda i: b"\x81\x00\x00",
    "dict of one text": lambda i: b"\x81\xa1a\x00",
    "dict of collisions": lambda i: b"\xde\x00\x40" + b"".join(big_int((j + 9) * MODULUS) + b"\0" for j in range(64)),
    "list of one list of one": lambda i: b"\x91\x91\x91\x91\x91\x90",
    "tree": lambda i: tree(b"\x90", 4),
    "list that claims a million": lambda i: b"\xdd\x00\x0f\x42\x40",
    "list that claims many": lambda i: b"\xdc\xff\xff",
    "empty tuple": lambda i: extension(1, b"\x90"),
    "empty set": lambda i: extension(2, b"\x90"),
    "set of one": lambda i: extension(2, b"\x91\x00"),
    "frozenset of one": lambda i: extension(3, b"\x91\xcd" + (i % 65536).to_bytes(2, "big")),
    "tuple in a tuple": lambda i: extension(1, b"\x91" + extension(1, b"\x91" + extension(1, b"\x90"))),
    "decimal": lambda i: extension(6, b"1E+999999999"),
    "date": lambda i: extension(8, b"2024-01-01"),
    "datetime with a zone": lambda i: extension(7, b"2024-01-01T00:00:00+01:00\n0\nEurope/Berlin"),
    "datetime with a name": lambda i: extension(7, b"2024-01-01T00:00:00+01:00\n0\n\nname"),
    "time": lambda i: extension(9, b"00:00:00.000001+01:00"),
    "timedelta": lambda i: extension(10, bytes(12)),
    "UUID": lambda i: extension(11, i.to_bytes(16, "big")),
    "path": lambda i: extension(12, b"La"),
    "path of many parts": lambda i: extension(12, b"P" + b"/".join(b"%x" % (i + j) for j in range(1000))),
    "record": item,
    "enum": lambda i: record(b"Color", b"\x01"),
    "colliding record": lambda i: item(i * MODULUS + 7),
    "reference": lambda i: extension(14, b"\x93\xa1C\xa1D\x91" + big_int(i * MODULUS + 7)),
}
SHAPES: dict[str, Callable[[list[bytes]], bytes]] = {
    "list": lambda units: b"\xdd" + len(units).to_bytes(4, "big") + b"".join(units),
    "open lists": lambda units: b"".join(
        b"\xdd" + (1001).to_bytes(4, "big") + b"".join(units[at : at + 1000]) for at in range(0, len(units), 1000)
    ),
    "dict": lambda units: b"\xdf" + len(units).to_bytes(4, "big") + b"".join(unit + b"\0" for unit in units),
    "set": lambda units: extension(2, SHAPES["list"](units)),
}


PARTS = (1, 3, 5, 8, 14, 24, 50)
"""Which parts of the limit of items are tried as a number of units."""


def body(unit: Callable[[int], bytes], shape: str, limits: Limits, part: int) -> bytes:
    """Return arguments of so many of these units, fewer if the bytes do not allow it."""
    units: list[bytes] = []
    left = limits.body_bytes_max - 64
    for i in range(limits.items_max // part):
        units.append(unit(i))
        left -= len(units[-1]) + 1
        if left < 0:
            units.pop()
            break
    return b"\x81\xa1x" + SHAPES[shape](units)


def decode(data: bytes, limits: Limits) -> bool:
    try:
        unpack_arguments(data, ANNOTATIONS, limits)
    except CodecError:
        return False
    return True


def seconds(data: bytes, limits: Limits) -> float:
    began = time.thread_time()
    decode(data, limits)
    return time.thread_time() - began


def slowest_part(unit: Callable[[int], bytes], shape: str, limits: Limits) -> tuple[float, int]:
    """Return the seconds of the slowest body, the largest accepted one among them, and how it is made."""
    slowest = (0.0, 1)
    for part in PARTS:
        data = body(unit, shape, limits, part)
        began = time.thread_time()
        was_accepted = decode(data, limits)
        slowest = max(slowest, (time.thread_time() - began, part))
        if was_accepted:
            break
    return slowest


def in_a_process_of_its_own(data: bytes) -> tuple[float, float]:
    """Return the seconds and the megabytes that decoding takes."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took = seconds(data, Limits())
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        os.write(write, struct.pack("dd", took, grown))
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    took, grown = struct.unpack("dd", os.read(read, 16))
    os.close(read)
    return took, grown


def test_the_worst_family_that_a_search_finds_stays_below_a_second_and_200_megabytes() -> None:
    """Searched at a small size, where no family may be more than linear; the worst are judged at full size."""
    small = Limits(items_max=Limits().items_max // SCALE, body_bytes_max=BODY_BYTES // SCALE)
    found = {(unit, shape): slowest_part(UNITS[unit], shape, small) for unit, shape in itertools.product(UNITS, SHAPES)}
    slowest = sorted(found, key=lambda family: -found[family][0])[:JUDGED]

    for unit, shape in [*slowest, *LARGEST]:
        took, grown = in_a_process_of_its_own(body(UNITS[unit], shape, Limits(), found[unit, shape][1]))
        assert took < DECODING_S_MAX, f"{unit} in a {shape}: {took:.2f} s"
        assert grown < 200, f"{unit} in a {shape}: {grown:.0f} MB"


@pytest.mark.parametrize(
    "content",
    [
        extension(4, b"\x7f" * BODY_BYTES),
        extension(6, b"7" * BODY_BYTES),
        extension(12, b"L" + b"/".join(b"%x" % i for i in range(BODY_BYTES // 8))),
        extension(7, b"2024-01-01T00:00:00." + b"1" * BODY_BYTES),
        b"\xdd\x00\x0f\x42\x40" * 511 + b"\0" * 900_000,
        b"\xdd\x00\x00\x0f\xff" * 511 + b"\0" * 1500,
        b"\0" * BODY_BYTES,
        b"\xdb" + BODY_BYTES.to_bytes(4, "big") + b"a" * (BODY_BYTES - 4) + b"\xf0\x9f\x98\x80",
    ],
    ids=["int", "Decimal", "path", "datetime", "claims", "smaller claims", "what follows", "wide text"],
)
def test_no_single_value_is_slow_or_large(content: bytes) -> None:
    took, grown = in_a_process_of_its_own((b"\x81\xa1x" + content)[:BODY_BYTES])

    assert took < DECODING_S_MAX
    assert grown < 200


def test_a_large_value_inside_of_many_others_is_not_copied_for_each() -> None:
    content = b"\xc6" + (9_000_000).to_bytes(4, "big") + b"a" * 9_000_000
    for _ in range(60):
        content = extension(1, b"\x91" + content)

    with pytest.raises(UndecodableBody, match="too many bytes nested too deep"):
        unpack(content)
    nested: Any = b"a" * 9_000_000
    for _ in range(10):
        nested = (nested,)
    with pytest.raises(UnserializableValue, match="too many bytes nested too deep"):
        pack(nested, path="x")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_colliding_keys_are_refused_wherever_they_are(data: st.DataObject) -> None:
    """Of any type that has a hash an attacker can choose, on both sides."""
    number = data.draw(st.integers(0, 1000))
    make: Callable[[int], object] = data.draw(
        st.sampled_from(
            [
                lambda i: i * MODULUS + number,
                lambda i: (i * MODULUS + number, "x"),
                lambda i: frozenset({i * MODULUS + number}),
            ]
        )
    )
    colliding = [make(i) for i in range(1, SAME_HASH_MAX + 2)]
    wrap: Callable[[list[Any]], object] = data.draw(
        st.sampled_from([dict.fromkeys, set, frozenset, lambda keys: [({"a": dict.fromkeys(keys)},)]])
    )

    with pytest.raises(UnserializableValue, match="have the same hash"):
        pack(wrap(colliding), path="x")
    fine = wrap(colliding[1:])
    assert unpack(pack(fine, path="x")) == fine


@pytest.mark.parametrize("shape", ["dict", "set"])
@pytest.mark.parametrize(
    "unit", ["colliding integer", "colliding decimal", "colliding complex", "colliding tuple", "colliding record"]
)
def test_forged_collisions_are_refused(unit: str, shape: str) -> None:
    data = body(UNITS[unit], shape, Limits(items_max=1000), 1)

    with pytest.raises(UndecodableBody, match="have the same hash"):
        unpack_arguments(data, ANNOTATIONS)


async def test_colliding_references_are_refused() -> None:
    arguments = unpack_arguments(body(UNITS["reference"], "list", Limits(items_max=1000), 1), {})

    with pytest.raises(UndecodableBody, match="have the same hash"):
        await resolve_references(arguments)


def test_what_a_whole_value_holds_is_limited_on_both_sides() -> None:
    rows = [[{"id": 1} for _ in range(50_000)] for _ in range(4)]

    with pytest.raises(UnserializableValue, match=r"^x: it holds more than 1,000,000 items in all; split it"):
        pack(rows, path="x")
    with pytest.raises(UndecodableBody, match=r"it holds more than 1,000,000 items in all; split it"):
        unpack(packb(rows))
    assert unpack(pack(rows[:2], path="x")) == rows[:2]


ENVELOPE = Envelope(task="a:B", arguments=b"\x80", max_attempts=3, retry=Fixed(delay_s=1), dispatched_at=1.0)


@pytest.mark.parametrize("unit", [b"\x80", b"\x90", b"\x91\x91\x91\x90", b"\xa2ab", b"\x81\xa1a\xc0"])
def test_the_envelope_itself_is_no_bomb(unit: bytes) -> None:
    count = min(BODY_BYTES // len(unit) - 100, 1_000_000)
    bomb = bytes((MAGIC, WIRE_VERSION, 0)) + b"\x95\xdd" + count.to_bytes(4, "big") + unit * count

    began = time.thread_time()
    with pytest.raises(UndecodableBody, match="holds more than"):
        decode_envelope(bomb)
    assert time.thread_time() - began < DECODING_S_MAX


THREADS: list[int] = []
RELEASED = threading.Event()


class Slow(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> "Slow":
        THREADS.append(threading.get_ident())
        if value == 3:
            RELEASED.wait(5)
        return cls.ONE


class Large(AsyncTask[None]):
    def __init__(self, x: list[Slow | str], **kwargs: Any) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None: ...


def large(value: int) -> bytes:
    content = b"\x81\xa1x\x92" + record(b"Slow", bytes((value,))) + b"\xdb" + (2 * OFF_LOOP_BYTES).to_bytes(4, "big")
    arguments = content + b"a" * 2 * OFF_LOOP_BYTES
    return encode_envelope(dataclasses.replace(ENVELOPE, task=f"{__name__}:Large", arguments=arguments))


@pytest.mark.parametrize(("in_threads", "elsewhere"), [(True, True), (False, False)])
async def test_large_arguments_are_decoded_outside_of_the_event_loop(in_threads: bool, elsewhere: bool) -> None:
    THREADS.clear()
    factory = TaskFactory(Application(()), decode_in_threads=in_threads)

    await factory.build(await factory.find("id", 1, factory.decode("id", large(2))))
    small = MessageFactory().message(Large([Slow.ONE])).body
    await factory.build(await factory.find("id", 1, factory.decode("id", small)))

    assert [ident != threading.get_ident() for ident in THREADS] == [elsewhere]


async def test_decoding_that_does_not_end_in_time_makes_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_factory_module, "DECODE_S_MAX", 0.05)
    factory = TaskFactory(Application(()), decode_in_threads=True)

    try:
        with pytest.raises(UndecodableBody, match=r"not decoded within 0.05 s") as caught:
            await factory.build(await factory.find("id", 1, factory.decode("id", large(3))))
    finally:
        RELEASED.set()

    assert dead_reason_of(caught.value) is DeadReason.UNDECODABLE


@given(bits=st.integers(1, 40_000))
@settings(max_examples=30, deadline=None)
def test_a_huge_integer_as_a_key_beside_a_record_is_undecodable(bits: int) -> None:
    """Python refuses to write it out, which was an error that is retried."""
    huge = big_int(1 << bits)
    beside = b"\x82\xa1x\x91" + record(b"Nobody", b"\x01") + b"\xa1y\x81" + huge + b"\x91" + record(b"Nobody", b"\x01")
    fields = b"\x81\xa1x\x91" + record(b"Item", b"\x81" + huge + b"\x01")
    first = b"\x81\xa1y\x81" + huge + b"\x91" + record(b"Nobody", b"\x01")

    for data in (beside, fields, first):
        with pytest.raises(UndecodableBody) as caught:
            unpack_arguments(data, ANNOTATIONS)
        assert len(str(caught.value)) < 500
