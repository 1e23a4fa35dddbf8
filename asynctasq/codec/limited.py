"""The wire format of the messages that make known who waits for a token of a limit."""

from typing import Final, cast

from asynctasq.codec.limits import Limits
from asynctasq.codec.typed_msgpack import packb
from asynctasq.codec.values import unpack
from asynctasq.errors import DELAY_S_MAX, CodecError, UndecodableBody
from asynctasq.kernel.limits import COUNT_MAX, TEXT_CHARS_MAX, LimitRule

__all__ = ["decode_look", "decode_note", "decode_wait", "encode_look", "encode_note", "encode_wait"]

VERSION: Final = 1
LIMITS: Final = Limits(depth_max=2, items_max=10, body_bytes_max=2**31)
"""What they may hold: others may write to the store, too."""


def encode_look(rule: LimitRule) -> bytes:
    """Return the bytes that `decode_look` takes."""
    return packb([VERSION, rule.text, rule.count, rule.per_s])


def decode_look(data: bytes) -> LimitRule:
    """Return the limit that messages wait for.

    Raises: UndecodableBody.
    """
    try:
        version, text, count, per_s = cast("list[object]", unpack(data, limits=LIMITS))
    except (TypeError, ValueError) as error:
        raise UndecodableBody(f"what says who waits for a limit is damaged: {error}") from error
    good = version == VERSION and type(text) is str and type(count) is int and type(per_s) is float
    if not good or not (
        0 < len(cast("str", text)) <= TEXT_CHARS_MAX
        and 0 < cast("int", count) <= COUNT_MAX
        and 0 <= cast("float", per_s) <= DELAY_S_MAX
    ):
        raise UndecodableBody("what says who waits for a limit is damaged, or of another version")
    return LimitRule(cast("str", text), cast("int", count), cast("float", per_s))


encode_note = encode_look
"""Returns the body of the note that a limit has tokens."""


def decode_note(body: bytes) -> LimitRule | None:
    """Return the limit of a note; None for what is not one."""
    try:
        return decode_look(body)
    except CodecError:
        return None


def encode_wait(message_id: str, token: str) -> bytes:
    """Return the body of the note that a message waits, which was released under this token."""
    return packb([message_id, token])


def decode_wait(body: bytes) -> tuple[str, str]:
    """Return the id of the message that waits, and the token; empty texts for what is no such note."""
    try:
        found = unpack(body, limits=LIMITS)
    except CodecError:
        return "", ""
    texts = cast("list[object]", found) if type(found) is list else []
    if len(texts) != 2 or not all(type(text) is str for text in texts):
        return "", ""
    return cast("str", texts[0]), cast("str", texts[1])
