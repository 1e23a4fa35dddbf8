"""The values: rounding, names, records."""

import json
import math
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.errors import InvalidQueueName
from asynctasq.kernel.messages import (
    ErrorRecord,
    Message,
    State,
    StoredMessage,
    bounded_text,
    cancelled_mark,
    cancelled_token,
    check_queue_name,
    is_unique_key,
    microseconds,
    random_id,
)


@given(st.floats(min_value=0, max_value=10 * 365 * 86_400, allow_nan=False))
def test_microseconds_are_never_early(seconds: float) -> None:
    # A thousandth of a microsecond is below what a float of this size resolves.
    assert microseconds(seconds) >= seconds * 1_000_000 - 0.001
    assert microseconds(seconds) <= seconds * 1_000_000 + 1.001


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, 0), (0.1, 100_000), (0.2 - 0.05, 150_000), (1e-7, 1), (3600, 3_600_000_000)]
)
def test_microseconds_of_common_values(seconds: float, expected: int) -> None:
    assert microseconds(seconds) == expected


@pytest.mark.parametrize("name", ["default", "high-priority", "a", "tenant:42", "a.b_c", "0", "x" * 80])
def test_good_queue_names_pass(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "two words",
        "quo'te",
        'dou"ble',
        "semi;colon",
        "new\nline",
        "x\n",
        "-x",
        ".x",
        "ünïcode",
        "x" * 81,
        "a/b",
        "{tag}",
        7,
        None,
    ],
)
def test_hostile_queue_names_are_refused(name: object) -> None:
    with pytest.raises(InvalidQueueName, match="is not valid"):
        check_queue_name(name)  # type: ignore[arg-type]


@given(st.text(), st.text(), st.text())
def test_error_records_survive_json(kind: str, message: str, traceback: str) -> None:
    record = ErrorRecord(type=kind, message=message, traceback=traceback)

    assert ErrorRecord.from_json(record.to_json()) == record


def test_error_records_with_lone_surrogates_are_plain_ascii() -> None:
    text = ErrorRecord(type="E", message="\ud800", traceback="ü").to_json()

    assert text.isascii()
    assert ErrorRecord.from_json(text).message == "\ud800"


def test_infinite_delays_are_an_error() -> None:
    with pytest.raises((OverflowError, ValueError)):
        microseconds(math.inf)


def test_the_size_of_a_message_is_that_of_its_body() -> None:
    message = Message(id="m", queue="default", body=b"12345")
    stored = StoredMessage(
        id="m", queue="default", body=b"1234567", state=State.READY, attempts=0, crashes=0, enqueued_at=0, visible_at=0
    )

    assert (message.size, stored.size) == (5, 7)


@given(
    text=st.text(st.characters() | st.sampled_from('\x00\n"\\é🎈\ud800'), max_size=300),
    bytes_max=st.integers(1, 400),
    keep_end=st.booleans(),
)
@settings(max_examples=300)
def test_a_bounded_text_is_the_longest_part_that_fits(text: str, bytes_max: int, *, keep_end: bool) -> None:
    bounded = bounded_text(text, bytes_max, keep_end=keep_end)

    stored = len(ErrorRecord(type="", message=text).to_json()) - len(ErrorRecord(type="", message="").to_json())
    if stored <= bytes_max:
        assert bounded == text
    elif keep_end:
        kept = bounded.removeprefix("[...]\n")
        assert text.endswith(kept)
        assert len(json.dumps(kept)) - 2 <= bytes_max < len(json.dumps(text[-len(kept) - 1 :])) - 2
    else:
        kept, _, mark = bounded.rpartition(" [... ")
        assert text.startswith(kept)
        assert mark == f"{len(text) - len(kept):,} characters more]"
        assert len(json.dumps(kept)) - 2 <= bytes_max < len(json.dumps(text[: len(kept) + 1])) - 2


@pytest.mark.parametrize("token", ["", "7", "12.3", "0" * 32])
def test_the_mark_of_a_cancelled_message_holds_the_token_of_its_lease(token: str) -> None:
    assert cancelled_token(cancelled_mark(token)) == token


@pytest.mark.parametrize("kept", [b"", b"\xc0", b"\xc1", b"cancelled 7", b"\x81\xa1a\x01"])
def test_a_result_is_no_mark(kept: bytes) -> None:
    assert cancelled_token(kept) is None


def test_a_damaged_mark_holds_a_token_that_nobody_has() -> None:
    assert cancelled_token(cancelled_mark("") + b"\xff") == "\ufffd"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("k", True), ("x" * 64, True), ("a b~", True), ("", False), ("x" * 65, False), ("ä", False), ("a\n", False)],
)
def test_a_unique_key_is_a_short_text_of_printable_ascii(text: str, is_one: bool) -> None:
    assert is_unique_key(text) is is_one


@given(st.binary(min_size=16, max_size=16))
def test_a_random_id_is_a_random_uuid(random_bytes: bytes) -> None:
    assert random_id(random_bytes) == str(UUID(bytes=random_bytes, version=4))
