"""The wire format of the messages that make known who waits for a token of a limit."""

from dataclasses import dataclass
from typing import Final, cast

from asynctasq.codec.limits import Limits
from asynctasq.codec.typed_msgpack import packb
from asynctasq.codec.values import unpack
from asynctasq.errors import DELAY_S_MAX, CodecError, UndecodableBody
from asynctasq.kernel.limits import COUNT_MAX, TEXT_CHARS_MAX, LimitRule

__all__ = ["Wait", "decode_look", "decode_note", "decode_wait", "encode_look", "encode_note", "encode_wait"]

VERSION: Final = 1
LIMITS: Final = Limits(depth_max=3, items_max=1_000, body_bytes_max=2**31)
"""What they may hold: others may write to the store, too."""


def encode_look(rule: LimitRule) -> bytes:
    """Return the bytes that `decode_look` takes."""
    return packb([VERSION, *_fields(rule)])


def _fields(rule: LimitRule) -> tuple[str, int, float]:
    return rule.text, rule.count, rule.per_s


def decode_look(data: bytes) -> LimitRule:
    """Return the limit that messages wait for.

    Raises: UndecodableBody.
    """
    try:
        version, *fields = cast("list[object]", unpack(data, limits=LIMITS))
        if version != VERSION:
            raise ValueError("it is of another version")
        return _rule(fields)
    except (TypeError, ValueError) as error:
        raise UndecodableBody(f"what says who waits for a limit is damaged: {error}") from error


def _rule(fields: object) -> LimitRule:
    text, count, per_s = cast("list[object]", fields)
    if type(text) is not str or type(count) is not int or type(per_s) is not float:
        raise TypeError("its fields are of other types")
    if not (0 < len(text) <= TEXT_CHARS_MAX and 0 < count <= COUNT_MAX and 0 <= per_s <= DELAY_S_MAX):
        raise ValueError("its fields are out of range")
    return LimitRule(text, count, per_s)


encode_note = encode_look
"""Returns the body of the note that a limit has tokens."""


def decode_note(body: bytes) -> LimitRule | None:
    """Return the limit of a note; None for what is not one."""
    try:
        return decode_look(body)
    except CodecError:
        return None


@dataclass(frozen=True, slots=True)
class Wait:
    """A message that waits, since it was released under `token`, and the limits that it needs tokens of."""

    message_id: str
    token: str
    rules: tuple[LimitRule, ...]


def encode_wait(wait: Wait) -> bytes:
    """Return the body of the note that a message waits."""
    return packb([wait.message_id, wait.token, [_fields(rule) for rule in wait.rules]])


def decode_wait(body: bytes) -> Wait | None:
    """Return what a note says; None for what is not one."""
    try:
        message_id, token, rules = cast("list[object]", unpack(body, limits=LIMITS))
        if type(message_id) is not str or type(token) is not str or type(rules) is not list:
            return None
        return Wait(message_id, token, tuple(map(_rule, cast("list[object]", rules))))
    except (CodecError, TypeError, ValueError):
        return None
