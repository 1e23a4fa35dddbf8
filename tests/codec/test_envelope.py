"""The wire format of a body, its versions and its signature."""

import dataclasses
import math

import msgpack
import pytest

from asynctasq.codec.envelope import WIRE_VERSION, decode_envelope, encode_envelope
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.errors import (
    BadSignature,
    BodyTooLarge,
    ConfigError,
    UndecodableBody,
    UnserializableValue,
    UnsupportedVersion,
)
from asynctasq.kernel.envelope import HEADERS_CHARS_MAX, HEADERS_MAX, Envelope
from asynctasq.kernel.retry import Delays, Exponential, Fixed

ENVELOPE = Envelope(
    task="app.mail:SendEmail", arguments=b"\x80", max_attempts=3, retry=Fixed(delay_s=60.0), dispatched_at=1.75e9
)
FIELDS = ["app:Task", b"\x80", 3, 60, 1.75e9, 5, None, 3, {}]
PREFIX = bytes((0xC1, WIRE_VERSION, 0))
KEYS = SigningKeys({"2026": b"k" * 32})


def body_of(fields: object) -> bytes:
    return PREFIX + msgpack.packb(fields)


def changed(index: int, value: object) -> bytes:
    return body_of([*FIELDS[:index], value, *FIELDS[index + 1 :]])


def test_the_bytes_of_version_one_stay_as_they_are():
    assert encode_envelope(ENVELOPE).hex() == (
        "c1010095b26170702e6d61696c3a53656e64456d61696cc4018003cb404e000000000000cb41da13b860000000"
    )


@pytest.mark.parametrize(
    "envelope",
    [
        ENVELOPE,
        dataclasses.replace(ENVELOPE, timeout_s=1.5),
        dataclasses.replace(ENVELOPE, keep_result_s=60.0),
        dataclasses.replace(ENVELOPE, max_crashes=1),
        dataclasses.replace(ENVELOPE, headers={"traceparent": "00-é"}),
        dataclasses.replace(ENVELOPE, missing="none"),
        dataclasses.replace(ENVELOPE, missing="fail", headers={"a": "b"}, timeout_s=1.5),
        dataclasses.replace(ENVELOPE, expires_s=0.5),
        dataclasses.replace(ENVELOPE, expires_s=60.0, missing="fail", keep_result_s=5.0),
        dataclasses.replace(ENVELOPE, scheduled_for=1.75e9),
        dataclasses.replace(ENVELOPE, scheduled_for=0.0, missing="none", max_crashes=1, headers={"a": "b"}),
        dataclasses.replace(ENVELOPE, scheduled_for=1.75e9, expires_s=5.0),
        dataclasses.replace(ENVELOPE, retry=Exponential(base_s=1.0, factor=3.0, cap_s=10.0, jitter=False)),
        dataclasses.replace(ENVELOPE, retry=Delays(delays_s=(1.0, 5.0, 0.0)), max_attempts=0),
    ],
)
def test_every_field_comes_back(envelope):
    assert decode_envelope(encode_envelope(envelope)) == envelope


def test_a_body_written_before_there_was_an_expiry_has_none():
    assert decode_envelope(body_of([*FIELDS, "fail"])).expires_s is None


def test_a_newer_version_is_told_apart_whatever_follows():
    with pytest.raises(UnsupportedVersion, match="wire version 9, this worker reads up to 1; upgrade"):
        decode_envelope(b"\xc1\x09anything")
    with pytest.raises(UnsupportedVersion):
        decode_envelope(b"\xc1\x02", keys=KEYS)


BAD = {
    "nothing": b"",
    "one byte": b"\xc1",
    "version zero": b"\xc1\x00\x00\x90",
    "an unknown signing byte": b"\xc1\x01\x02\x90",
    "JSON": b'{"task": "x"}',
    "damaged": PREFIX + b"\x95\xa1",
    "trailing bytes": body_of(FIELDS) + b"\x00",
    "a map": body_of({"task": "x"}),
    "too few fields": body_of(FIELDS[:4]),
    "too many fields": body_of([*FIELDS, "none", 5, 1.0, 1]),
    "an expiry of zero": body_of([*FIELDS, "none", 0]),
    "a negative expiry": body_of([*FIELDS, "none", -1]),
    "an expiry beyond a century": body_of([*FIELDS, "none", 1e10]),
    "an expiry that is text": body_of([*FIELDS, "none", "5"]),
    "an expiry that is nothing": body_of([*FIELDS, "none", None]),
    "a tick after the last year": body_of([*FIELDS, "none", None, 1e300]),
    "a tick that is text": body_of([*FIELDS, "none", None, "2026"]),
    "a tick before the epoch": body_of([*FIELDS, "none", None, -1.0]),
    "a tick that is nothing": body_of([*FIELDS, "none", 5, None]),
    "an unknown answer to a missing model": body_of([*FIELDS, "ignore"]),
    "an answer that is a number": body_of([*FIELDS, 1]),
    "a task that is bytes": changed(0, b"app:Task"),
    "arguments that are text": changed(1, "x"),
    "negative attempts": changed(2, -1),
    "attempts that are true": changed(2, True),
    "attempts beyond all": changed(2, 2**40),
    "a delay that is not a number": changed(3, math.nan),
    "a delay without end": changed(3, math.inf),
    "a delay that is true": changed(3, True),
    "a negative delay": changed(3, -1),
    "a text as policy": changed(3, "fixed"),
    "an empty policy": changed(3, []),
    "an unknown policy": changed(3, [9, 1]),
    "a policy that lacks a field": changed(3, [1, 1.0]),
    "jitter that is a number": changed(3, [1, 1.0, 2.0, 3.0, 1]),
    "no delays": changed(3, [2]),
    "a delay that is text": changed(3, [2, "1"]),
    "an instant after the last year": changed(4, 1e300),
    "an instant that is text": changed(4, "2026"),
    "a negative timeout": changed(5, -0.5),
    "a timeout that is text": changed(5, "5"),
    "a negative time to keep": changed(6, -1),
    "headers that are a list": changed(8, []),
    "a header that is a number": changed(8, {"a": 1}),
    "a header whose name is a number": changed(8, {1: "a"}),
    "too many headers": changed(8, {str(number): "" for number in range(HEADERS_MAX + 1)}),
    "too long headers": changed(8, {"a": "x" * HEADERS_CHARS_MAX}),
    "an extension": changed(8, {"a": msgpack.ExtType(1, b"\x90")}),
    "a timestamp": changed(4, msgpack.Timestamp(1)),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_anything_else_is_undecodable(body):
    with pytest.raises(UndecodableBody):
        decode_envelope(body)


def test_a_body_beyond_the_limit_is_refused_on_both_sides():
    big = dataclasses.replace(ENVELOPE, arguments=b"x" * 100)

    with pytest.raises(BodyTooLarge, match=r"app\.mail:SendEmail.* has 144 bytes, the limit is 100; store"):
        encode_envelope(big, limits=Limits(body_bytes_max=100))
    with pytest.raises(UndecodableBody, match="144 bytes, the limit is 100"):
        decode_envelope(encode_envelope(big), limits=Limits(body_bytes_max=100))


@pytest.mark.parametrize(
    "headers",
    [
        {str(number): "" for number in range(HEADERS_MAX + 1)},
        {"a": "x" * HEADERS_CHARS_MAX},
        {1: "a"},
        {"a": None},
    ],
)
@pytest.mark.parametrize("missing", ["retry", "fail"])
def test_headers_that_would_not_be_read_are_not_written(headers, missing):
    with pytest.raises(UnserializableValue, match="headers"):
        encode_envelope(dataclasses.replace(ENVELOPE, headers=headers, missing=missing))


@pytest.mark.parametrize("headers", [{str(n): "" for n in range(HEADERS_MAX)}, {"a": "x" * (HEADERS_CHARS_MAX - 1)}])
def test_as_many_headers_as_there_may_be_are_read_again(headers):
    envelope = dataclasses.replace(ENVELOPE, headers=headers)

    assert decode_envelope(encode_envelope(envelope)) == envelope


def test_a_body_without_headers_is_what_it_was():
    assert encode_envelope(ENVELOPE) == encode_envelope(dataclasses.replace(ENVELOPE, headers={}))


def test_options_that_are_no_plain_values_are_refused():
    with pytest.raises(UnserializableValue, match=r"options of task 'app\.mail:SendEmail'"):
        encode_envelope(dataclasses.replace(ENVELOPE, headers={"a": "\ud800"}))
    with pytest.raises(UnserializableValue, match="plain int, float and str"):
        encode_envelope(dataclasses.replace(ENVELOPE, timeout_s=object()))


# --- signatures ------------------------------------------------------------------------------------------------

OLD, NEW = b"o" * 32, b"n" * 32


def test_a_signed_body_is_read_with_its_key():
    assert decode_envelope(encode_envelope(ENVELOPE, key=KEYS), keys=KEYS) == ENVELOPE


def test_keys_rotate_without_losing_a_message():
    before = SigningKeys({"old": OLD})
    both_old = SigningKeys({"old": OLD, "new": NEW}, sign_with="old")
    both_new = SigningKeys({"old": OLD, "new": NEW}, sign_with="new")
    after = SigningKeys({"new": NEW})

    steps = [(before, before), (before, both_old), (both_old, both_new), (both_new, both_old), (both_new, after)]

    for signer, reader in steps:
        assert decode_envelope(encode_envelope(ENVELOPE, key=signer), keys=reader) == ENVELOPE


def test_an_unsigned_body_is_refused_where_keys_are_required():
    with pytest.raises(BadSignature, match="not signed"):
        decode_envelope(encode_envelope(ENVELOPE), keys=KEYS)


def test_a_worker_without_keys_still_reads_signed_bodies():
    assert decode_envelope(encode_envelope(ENVELOPE, key=KEYS)) == ENVELOPE


def test_a_retired_key_is_named():
    body = encode_envelope(ENVELOPE, key=SigningKeys({"2025": OLD}))

    with pytest.raises(BadSignature, match=r"key '2025', which is not accepted here \(accepted: 2026\)"):
        decode_envelope(body, keys=KEYS)


def test_the_same_id_with_another_key_does_not_fit():
    body = encode_envelope(ENVELOPE, key=SigningKeys({"2026": OLD}))

    with pytest.raises(BadSignature, match="does not fit"):
        decode_envelope(body, keys=KEYS)


def test_every_byte_of_a_signed_body_counts():
    body = encode_envelope(ENVELOPE, key=KEYS)

    for index in range(3, len(body)):
        forged = body[:index] + bytes((body[index] ^ 1,)) + body[index + 1 :]
        with pytest.raises(BadSignature):
            decode_envelope(forged, keys=KEYS)


@pytest.mark.parametrize("length", range(3, 45))
def test_a_cut_signed_body_is_refused(length):
    body = encode_envelope(ENVELOPE, key=KEYS)[:length]

    with pytest.raises(BadSignature):
        decode_envelope(body, keys=KEYS)
    with pytest.raises(UndecodableBody):
        decode_envelope(body)


def test_keys_stand_in_no_text():
    keys = SigningKeys({"a": b"hunter2-hunter2-hunter2"})

    assert repr(keys) == "SigningKeys(ids=['a'], sign_with='a')"
    with pytest.raises(ConfigError) as caught:
        SigningKeys({"a": b"hunter2"})
    assert "hunter2" not in str(caught.value)
    assert not hasattr(keys, "__dict__")


@pytest.mark.parametrize(
    ("keys", "sign_with", "says"),
    [
        ({}, None, "at least one key"),
        ({"": NEW}, None, "1 to 255 bytes"),
        ({"x" * 256: NEW}, None, "1 to 255 bytes"),
        ({"a": b"short"}, None, "shorter than 16 bytes"),
        ({"a": NEW}, "b", "'b', which is not among the keys: a"),
    ],
)
def test_wrong_keys_are_told_at_once(keys, sign_with, says):
    with pytest.raises(ConfigError, match=says):
        SigningKeys(keys, sign_with=sign_with)
