"""The versioned wire format of a message's body, and nothing of what a worker does with its content.

Layout: byte 0xC1 (which msgpack never uses), one byte of version, one byte for signing (0 plain, 1 HMAC-SHA256:
key id length, key id, 8 bytes of expiry, 32 bytes of MAC), then a msgpack array of the envelope's fields, trailing
defaults left out.
Only the first two bytes are promised to mean the same in every version, and the third to be 1 if it is signed.
"""

import functools
import math
from collections.abc import Mapping
from typing import Final, cast

from asynctasq.codec._structure import count_items
from asynctasq.codec.extensions import Unsupported
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.signing import SigningKeys, sign, strip, verify
from asynctasq.codec.typed_msgpack import packb, unpackb
from asynctasq.errors import (
    DELAY_S_MAX,
    BadSignature,
    BodyTooLarge,
    UndecodableBody,
    UnserializableValue,
    UnsupportedVersion,
)
from asynctasq.kernel.envelope import (
    COUNT_MAX,
    MAX_CRASHES_DEFAULT,
    MAX_CRASHES_MOST,
    MISSING,
    MISSING_DEFAULT,
    NO_HEADERS,
    TASK_NAME_CHARS_MAX,
    Envelope,
    Missing,
    check_headers,
)
from asynctasq.kernel.limits import TEXT_CHARS_MAX
from asynctasq.kernel.retry import Delays, Exponential, Fixed, RetryPolicy

__all__ = ["WIRE_VERSION", "Envelope", "decode_envelope", "encode_envelope"]

MAGIC: Final = 0xC1
WIRE_VERSION: Final = 1
PLAIN_PREFIX: Final = bytes((MAGIC, WIRE_VERSION, 0))
SIGNED_PREFIX: Final = bytes((MAGIC, WIRE_VERSION, 1))
PREFIX_BYTES: Final = 3

EXPONENTIAL: Final = 1
DELAYS: Final = 2
FIELDS_MIN: Final = 5
LATEST_INSTANT: Final = 253_402_300_799.0  # the last second that datetime can name
UNCOUNTED_BYTES: Final = 4096
FIELD_LIMITS: Final = Limits(items_max=100_000)  # of the fields themselves; the arguments are bytes among them
NUMBER_TYPES: Final = frozenset({int, float})


def encode_envelope(
    envelope: Envelope,
    *,
    key: SigningKeys | None = None,
    limits: Limits = DEFAULT_LIMITS,
    belongs_to: tuple[str, ...] = (),
    expires_at: float | None = None,
) -> bytes:
    """Return the body; if `key` is given, signed as that of the message `belongs_to`, its id and queue.

    The signature of one that `expires_at` an instant is refused later.

    Raises: BodyTooLarge beyond `limits.body_bytes_max`, UnserializableValue for options that have no wire form.
    """
    if len(envelope.task) > TASK_NAME_CHARS_MAX:
        raise UnserializableValue(
            f"the task {envelope.task[:80]!r}... has a name of {len(envelope.task):,} characters, the limit is "
            f"{TASK_NAME_CHARS_MAX}; rename its class or module"
        )
    try:
        content = packb(_to_fields(envelope), strict_types=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnserializableValue(
            f"the options of task {envelope.task!r} can't be encoded ({error}); "
            "use plain int, float and str for names, attempts, delays, timeouts and headers"
        ) from error
    body = (
        PLAIN_PREFIX + content
        if key is None
        else sign(SIGNED_PREFIX, content, key, ("body", *belongs_to), expires_at=expires_at)
    )
    if len(body) > limits.body_bytes_max:
        raise BodyTooLarge(
            f"the body of task {envelope.task!r} has {len(body):,} bytes, the limit is {limits.body_bytes_max:,}; "
            "store the data elsewhere and pass a reference"
        )
    return body


def decode_envelope(
    body: bytes,
    *,
    keys: SigningKeys | None = None,
    limits: Limits = DEFAULT_LIMITS,
    belongs_to: tuple[str, ...] = (),
    now: float | None = None,
) -> Envelope:
    """Return the envelope in a body; with `keys`, only if it is signed with one of them for `belongs_to` and `now`.

    Raises: UnsupportedVersion for a newer wire format, BadSignature, UndecodableBody for anything else.
    """
    fields = _unpack_fields(_verify_signature(body, keys, limits, belongs_to, now))
    try:
        return _from_fields(fields)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UndecodableBody(f"the envelope's fields are not those of version {WIRE_VERSION}: {error}") from error


def _verify_signature(
    body: bytes, keys: SigningKeys | None, limits: Limits, belongs_to: tuple[str, ...], now: float | None
) -> bytes:
    if len(body) > limits.body_bytes_max:
        raise UndecodableBody(f"the body has {len(body):,} bytes, the limit is {limits.body_bytes_max:,}")
    prefix = body[:PREFIX_BYTES]
    if keys is not None and body[:1] == SIGNED_PREFIX[:1] and prefix[2:] not in (b"", SIGNED_PREFIX[2:]):
        raise BadSignature("the body is not signed, but this worker accepts only signed ones")
    if prefix == PLAIN_PREFIX:
        return body[PREFIX_BYTES:]
    if prefix == SIGNED_PREFIX:
        if keys is None:
            return strip(body, PREFIX_BYTES)
        return verify(body, PREFIX_BYTES, keys, ("body", *belongs_to), now=now)
    if len(body) > 1 and body[0] == MAGIC and body[1] > WIRE_VERSION:
        raise UnsupportedVersion(
            f"the body has wire version {body[1]}, this worker reads up to {WIRE_VERSION}; upgrade the worker"
        )
    raise UndecodableBody("the body was not written by asynctasq: it does not begin as its bodies do")


def _unpack_fields(content: bytes) -> list[object]:
    try:
        if len(content) > UNCOUNTED_BYTES:
            count_items(content, FIELD_LIMITS)
        fields = unpackb(content, ext_hook=_refuse_extension)
    except (Unsupported, ValueError, TypeError, MemoryError) as error:
        raise UndecodableBody(f"the envelope is damaged: {error}") from error
    if type(fields) is not list:
        raise UndecodableBody("the envelope is not an array")
    return cast("list[object]", fields)


def _refuse_extension(code: int, data: bytes) -> object:
    raise UndecodableBody(
        f"the envelope has an extension type ({code}, {len(data)} bytes), which none of its fields is"
    )


def _to_fields(envelope: Envelope) -> list[object]:
    fields: list[object] = [
        envelope.task,
        envelope.arguments,
        envelope.max_attempts,
        _retry_to_wire(envelope.retry),
        envelope.dispatched_at,
    ]
    if envelope.expires_s is not None or envelope.scheduled_for is not None or envelope.limits is not None:
        fields += (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes)
        fields += (dict(envelope.headers), envelope.missing, envelope.expires_s)
        if envelope.limits is not None:
            fields += (envelope.scheduled_for, dict(envelope.limits))
        elif envelope.scheduled_for is not None:
            fields.append(envelope.scheduled_for)
    elif envelope.missing != MISSING_DEFAULT:
        fields += (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes)
        fields += (_headers(dict(envelope.headers)), envelope.missing)
    elif envelope.headers:
        fields += (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes, _headers(dict(envelope.headers)))
    elif envelope.max_crashes != MAX_CRASHES_DEFAULT:
        fields += (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes)
    elif envelope.keep_result_s is not None:
        fields += (envelope.timeout_s, envelope.keep_result_s)
    elif envelope.timeout_s is not None:
        fields.append(envelope.timeout_s)
    return fields


def _from_fields(fields: list[object]) -> Envelope:
    """Check every type and range, so that nothing later meets a value that `_to_fields` does not write."""
    count = len(fields)
    if count < FIELDS_MIN or count > FIELDS_MIN + 8:
        raise ValueError(f"{count} of them")
    task, arguments = fields[0], fields[1]
    if type(task) is not str or type(arguments) is not bytes:
        raise TypeError("task and arguments must be text and bytes")
    if len(task) > TASK_NAME_CHARS_MAX:
        raise ValueError(f"the task's name has {len(task):,} characters, the limit is {TASK_NAME_CHARS_MAX}")
    retry = fields[3]
    return Envelope(
        task=task,
        arguments=arguments,
        max_attempts=_count(fields[2]),
        retry=_fixed(cast("float", retry)) if type(retry) in NUMBER_TYPES else _retry_from_wire(retry),
        dispatched_at=_instant(fields[4]),
        timeout_s=None if count == FIELDS_MIN or fields[5] is None else _duration(fields[5], above_zero=True),
        keep_result_s=None if count < 7 or fields[6] is None else _duration(fields[6], above_zero=True),
        max_crashes=MAX_CRASHES_DEFAULT if count < 8 else _count(fields[7], least=1, most=MAX_CRASHES_MOST),
        headers=NO_HEADERS if count < 9 else _headers(fields[8]),
        missing=MISSING_DEFAULT if count < 10 else _missing(fields[9]),
        expires_s=None if count < 11 or (count > 11 and fields[10] is None) else _duration(fields[10], above_zero=True),
        scheduled_for=None if count < 12 or (count > 12 and fields[11] is None) else _instant(fields[11]),
        limits=None if count < 13 else _limits(fields[12]),
    )


def _retry_to_wire(retry: RetryPolicy) -> object:
    match retry:
        case Fixed():
            return retry.delay_s
        case Exponential():
            return [EXPONENTIAL, retry.base_s, retry.factor, retry.cap_s, retry.jitter]
        case Delays():
            return [DELAYS, *retry.delays_s]


@functools.lru_cache(maxsize=256, typed=True)
def _fixed(delay_s: float) -> Fixed:
    """Return the policy, cached: most messages of an application share a few."""
    return Fixed(delay_s=_duration(delay_s))


def _retry_from_wire(wire: object) -> RetryPolicy:
    if type(wire) is not list or not wire:
        raise TypeError("the retry policy must be a number or an array")
    kind, *values = cast("list[object]", wire)
    if kind == EXPONENTIAL:
        base, factor, cap, jitter = values
        if type(jitter) is not bool:
            raise TypeError("jitter must be a boolean")
        return Exponential(base_s=_duration(base), factor=_number(factor), cap_s=_duration(cap), jitter=jitter)
    if kind == DELAYS and values:
        return Delays(delays_s=tuple(_duration(value) for value in values))
    raise ValueError("the retry policy is not known")


def _duration(value: object, *, above_zero: bool = False) -> float:
    """Return a number of seconds within the bounds of a dispatch, `tasks.options.seconds`."""
    number = _number(value)
    if number > DELAY_S_MAX:
        raise ValueError("a duration must be a hundred years at most")
    if above_zero and number == 0:
        raise ValueError("a time limit, an expiry, and how long a result is kept, must be more than 0 seconds")
    return number


def _number(value: object) -> float:
    """Return a finite number that is not negative."""
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    if type(value) not in NUMBER_TYPES:
        raise TypeError("a number of seconds must be a number")
    number = cast("float", value)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError("a number of seconds must be finite and not negative")
    return number


def _instant(value: object) -> float:
    number = _number(value)
    if number > LATEST_INSTANT:
        raise ValueError("an instant is after the year 9999")
    return number


def _count(value: object, *, least: int = 0, most: int = COUNT_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"a count must be a whole number from {least} to {most}")
    return value


def _missing(value: object) -> Missing:
    for known in MISSING:
        if value == known:
            return known
    raise ValueError("what to do about a missing model is not known")


def _limits(value: object) -> Mapping[str, str]:
    if type(value) is not dict:
        raise TypeError("the names of limits must be a map")
    for text in (item for pair in cast("dict[object, object]", value).items() for item in pair):
        if type(text) is not str or not 0 < len(text) <= TEXT_CHARS_MAX:
            raise ValueError(f"the name of a limit must be a text of 1 to {TEXT_CHARS_MAX} characters")
    return cast("dict[str, str]", value)


def _headers(value: object) -> Mapping[str, str]:
    if type(value) is not dict:
        raise TypeError("headers must be a map")
    headers = cast("dict[object, object]", value)
    check_headers(headers)
    return cast("dict[str, str]", headers)
