"""HMAC-SHA256 over a whole body or result and what it belongs to, with key ids; keys never appear in a text."""

import hmac
import math
from collections.abc import Mapping
from typing import Final

from asynctasq.errors import BadSignature, ConfigError

__all__ = ["SigningKeys", "open_result", "sign", "sign_result", "strip", "verify"]

MAC_BYTES: Final = 32
EXPIRY_BYTES: Final = 8
KEY_BYTES_MIN: Final = 16
KEY_ID_BYTES_MAX: Final = 255
RESULT_PREFIX: Final = b"\xc1\x01\x01"  # its first byte begins no packed value


class SigningKeys:
    """Keys by id: all are accepted, `sign_with` signs. To rotate: add the new key everywhere, then sign with it.

    Raises: ConfigError for a key shorter than 16 bytes, an id that is not 1 to 255 bytes, or an unknown `sign_with`.
    """

    __slots__ = ("_keys", "sign_with")

    def __init__(self, keys: Mapping[str, bytes], *, sign_with: str | None = None) -> None:
        if not keys:
            raise ConfigError("signing needs at least one key; leave the setting out to sign nothing")
        self._keys: dict[bytes, bytes] = {}
        for key_id, key in keys.items():
            name = key_id.encode()
            if not 1 <= len(name) <= KEY_ID_BYTES_MAX:
                raise ConfigError("the id of a signing key must be 1 to 255 bytes long")
            if len(key) < KEY_BYTES_MIN:
                raise ConfigError(f"signing key {key_id!r} is shorter than {KEY_BYTES_MIN} bytes; use 32 random bytes")
            self._keys[name] = bytes(key)
        self.sign_with = next(iter(keys)) if sign_with is None else sign_with
        if self.sign_with not in keys:
            raise ConfigError(f"sign_with names {sign_with!r}, which is not among the keys: {', '.join(sorted(keys))}")

    def __repr__(self) -> str:
        return f"SigningKeys(ids={self.ids!r}, sign_with={self.sign_with!r})"

    @property
    def ids(self) -> list[str]:
        """The ids of the accepted keys, sorted."""
        return sorted(name.decode() for name in self._keys)

    def mac(self, key_id: bytes, *parts: bytes) -> bytes | None:
        """Return the MAC of `parts` joined under that key, or None if there is no such key."""
        key = self._keys.get(key_id)
        return None if key is None else hmac.digest(key, b"".join(parts), "sha256")


def sign(
    prefix: bytes, content: bytes, keys: SigningKeys, belongs_to: tuple[str, ...], *, expires_at: float | None = None
) -> bytes:
    """Return `prefix`, key id, expiry, MAC and `content`; the MAC covers all the others, and the texts `belongs_to`."""
    key_id = keys.sign_with.encode()
    expiry = (0 if expires_at is None else math.ceil(expires_at)).to_bytes(EXPIRY_BYTES, "big")
    head = prefix + bytes((len(key_id),)) + key_id + expiry
    mac = keys.mac(key_id, _packed(belongs_to), head, content)
    assert mac is not None
    return head + mac + content


def verify(
    body: bytes, prefix_bytes: int, keys: SigningKeys, belongs_to: tuple[str, ...], *, now: float | None = None
) -> bytes:
    """Return the content of what `sign` has made for the same `belongs_to`.

    Raises: BadSignature if the key is not accepted, the MAC does not fit, or it expired before `now`.
    """
    start = prefix_bytes + 1
    key_end = start + (body[prefix_bytes] if len(body) > prefix_bytes else 0)
    head_end = key_end + EXPIRY_BYTES
    mac_end = head_end + MAC_BYTES
    if len(body) < mac_end:
        raise BadSignature("the body ends before its signature does; it is damaged or not signed by us")
    key_id, content = body[start:key_end], body[mac_end:]
    expected = keys.mac(key_id, _packed(belongs_to), body[:head_end], content)
    if expected is None:
        raise BadSignature(
            f"the body is signed with key {key_id.decode(errors='replace')!r}, which is not accepted here "
            f"(accepted: {', '.join(keys.ids)}); add it to the signing keys, or discard the message"
        )
    if not hmac.compare_digest(expected, body[head_end:mac_end]):
        raise BadSignature(
            "the signature does not fit the body: it was changed, copied from another message or queue, "
            "or signed with another key"
        )
    expires_at = int.from_bytes(body[key_end:head_end], "big")
    if expires_at and now is not None and now > expires_at:
        raise BadSignature(f"the signature expired {now - expires_at:,.0f} s ago; dispatch the task again")
    return content


def strip(body: bytes, prefix_bytes: int) -> bytes:
    """Return the content of a signed body without checking it, for workers that were given no keys."""
    start = prefix_bytes + 1
    return body[start + (body[prefix_bytes] if len(body) > prefix_bytes else 0) + EXPIRY_BYTES + MAC_BYTES :]


def _packed(texts: tuple[str, ...]) -> bytes:
    """Return texts as bytes that no other texts give."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(each).to_bytes(4, "big") + each for each in encoded)


def sign_result(data: bytes, keys: SigningKeys | None, message_id: str) -> bytes:
    """Return a packed result signed as that of one message; as it is without keys."""
    return data if keys is None else sign(RESULT_PREFIX, data, keys, ("result", message_id))


def open_result(data: bytes, keys: SigningKeys | None, message_id: str) -> bytes:
    """Return the packed result in what `sign_result` has made.

    Raises: BadSignature if there are keys and it is not signed with one of them for this message.
    """
    signed = data.startswith(RESULT_PREFIX)
    if keys is None:
        return strip(data, len(RESULT_PREFIX)) if signed else data
    if not signed:
        raise BadSignature("the result is not signed, but only signed ones are accepted here")
    return verify(data, len(RESULT_PREFIX), keys, ("result", message_id))
