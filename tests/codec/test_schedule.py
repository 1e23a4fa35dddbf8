"""Tickers as bytes: every one comes back, and what was not written by us is undecodable."""

import contextlib
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.codec.schedule import decode_note, decode_ticker, encode_note, encode_ticker
from asynctasq.errors import UndecodableBody
from asynctasq.kernel.messages import ON_CONFLICTS, UNTILS, UniqueKey
from asynctasq.kernel.priority import PRIORITIES
from asynctasq.kernel.schedule import MISFIRES, CronRule, EveryRule, ScheduleDefinition, Ticker

instants = st.none() | st.floats(0, 2.5e11)
tickers = st.builds(
    Ticker,
    definition=st.builds(
        ScheduleDefinition,
        name=st.text(max_size=50),
        queue=st.sampled_from(["default", "a.b:c-d"]),
        rule=st.builds(CronRule, expression=st.text(max_size=30), tz=st.text(max_size=30))
        | st.builds(EveryRule, period_s=st.floats(1, 1e9)),
        misfire=st.sampled_from(MISFIRES),
        jitter_s=st.floats(0, 1e9),
        template=st.binary(max_size=50),
        unique=st.none()
        | st.builds(
            UniqueKey,
            key=st.text("0123456789abcdef", min_size=1, max_size=64),
            until=st.sampled_from(UNTILS),
            window_s=st.none() | st.floats(1, 1e9),
            on_conflict=st.sampled_from(ON_CONFLICTS),
        ),
        priority=st.sampled_from(PRIORITIES),
        fair_key=st.sampled_from(["", "acme", "é b"]),
    ),
    next_at=instants,
    last_at=instants,
)
STATE = [None, 1.0]
GOOD = [1, "report", "default", ["* * * * *", "UTC"], ["skip", 0.0], b"", STATE]


def packed_texts(count: int) -> bytes:
    return bytes(msgpack.packb(["text"] * count))


def changed(index: int, value: object) -> bytes:
    return msgpack.packb([*GOOD[:index], value, *GOOD[index + 1 :]])


@given(tickers)
def test_every_ticker_comes_back(ticker: Ticker) -> None:
    assert decode_ticker(encode_ticker(ticker)) == ticker


def test_the_bytes_of_version_one_stay_as_they_are() -> None:
    ticker = decode_ticker(msgpack.packb(GOOD))

    assert (ticker.definition.name, ticker.definition.rule) == ("report", CronRule(expression="* * * * *", tz="UTC"))
    assert encode_ticker(ticker) == msgpack.packb(GOOD)


BAD = {
    "nothing": b"",
    "a map": msgpack.packb({}),
    "a newer version": changed(0, 2),
    "a name that is a number": changed(1, 5),
    "a hostile queue": changed(2, "a\nb"),
    "a name without end": changed(1, "x" * 1_001),
    "a rule without end": changed(3, ["1," * 1_000 + "1 * * * *", "UTC"]),
    "a rule of one part": changed(3, ["* * * * *"]),
    "a rule of numbers": changed(3, [1, 2]),
    "a period below a second": changed(3, 0.5),
    "a period without end": changed(3, float("inf")),
    "a period that is no number": changed(3, float("nan")),
    "an unknown misfire policy": changed(4, ["often", 0.0]),
    "a unique key without end": changed(4, ["skip", 0.0, ["k" * 65, "done", None, "skip"]]),
    "a unique key of no text": changed(4, ["skip", 0.0, [5, "done", None, "skip"]]),
    "a unique key held until never": changed(4, ["skip", 0.0, ["k", "never", None, "skip"]]),
    "a window of no time": changed(4, ["skip", 0.0, ["k", "done", 0.0, "skip"]]),
    "an unknown conflict": changed(4, ["skip", 0.0, ["k", "done", None, "fail"]]),
    "two unique keys": changed(4, ["skip", 0.0, *[["k", "done", None, "skip"]] * 2]),
    "an unknown level": changed(4, ["skip", 0.0, None, "urgent"]),
    "a level of no text": changed(4, ["skip", 0.0, None, 1]),
    "a level in the place of a unique key": changed(4, ["skip", 0.0, "high"]),
    "a fair key of no text": changed(4, ["skip", 0.0, None, "high", 7]),
    "a fair key that is too long": changed(4, ["skip", 0.0, None, "high", "k" * 201]),
    "a setting after the fair key": changed(4, ["skip", 0.0, None, "high", "k", "k"]),
    "a negative jitter": changed(4, ["skip", -1.0]),
    "a template that is text": changed(5, "x"),
    "an instant after the last year": changed(6, [1e300, None]),
    "an instant that is true": changed(6, [True, None]),
    "trailing bytes": msgpack.packb(GOOD) + b"\x00",
    "too many fields": msgpack.packb([*GOOD, 1]),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_anything_else_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableBody):
        decode_ticker(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    with contextlib.suppress(UndecodableBody):
        decode_ticker(data)
    decode_note(data)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_every_note_comes_back(texts: list[str]) -> None:
    assert decode_note(encode_note(*texts)) == tuple(texts)


def claims(count: int) -> bytes:
    """Return arrays nested in each other that all claim to have as many items as they have bytes."""
    size = 5 * count
    return (b"\xdd" + size.to_bytes(4, "big")) * count


@pytest.mark.parametrize(
    "data", [claims(200_000), b"\x91" * 2_000, packed_texts(300_000)], ids=["claims", "deep", "many"]
)
def test_a_hostile_ticker_or_note_costs_little(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableBody):
            decode_ticker(data)
        assert decode_note(data) == ()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 50_000_000


def test_what_is_said_of_a_damaged_ticker_is_short() -> None:
    with pytest.raises(UndecodableBody) as raised:
        decode_ticker(changed(4, ["skip", "x" * 1_000_000]))

    assert len(str(raised.value)) < 2_000
