"""When a driver takes a network for silent: how long a call may go unanswered, and keepalive of its sockets.

Why so long: docs/decisions/silent-networks.md.
"""

import socket
from collections.abc import Sequence
from typing import Any

from asynctasq.kernel.messages import Message

__all__ = ["BRIEF_BYTES_MAX", "SILENCE_S", "AnswerLimit", "is_brief", "keep_alive", "keepalive_options"]

SILENCE_S = 5.0
"""How long a connection may take to open, and a call that takes milliseconds to be answered."""
BRIEF_BYTES_MAX = 1_000_000
BRIEF_MESSAGES_MAX = 5_000
"""Storing more than that is not brief."""
RAISED_S = 300.0
"""How long a limit stays raised after a call that needed more."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 5, 2, 3
UNACKNOWLEDGED_S_MAX = 10


class AnswerLimit:
    """The time limit of brief calls: `SILENCE_S`, twice as long after each call that took longer, at most `longest_s`.

    So a silent network is noticed soon, while a server that is slow is not asked the same again for ever. Calls that
    may take long by their nature have `longest_s` at once.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._brief_s = 0.0
        self._raised_until = 0.0

    def seconds(self, now: float, *, brief: bool) -> float:
        """Return the limit of a call that starts at `now`, on any monotonic clock."""
        if not brief:
            return self._longest_s
        return min(self._longest_s, max(SILENCE_S, self._brief_s if now < self._raised_until else 0.0))

    def note_late(self, limit_s: float, now: float) -> None:
        """Note that a call was given up after `limit_s`."""
        self._brief_s = max(2 * limit_s, self._brief_s if now < self._raised_until else 0.0)
        self._raised_until = now + RAISED_S


def is_brief(messages: Sequence[Message]) -> bool:
    """Say whether storing these messages takes milliseconds."""
    return len(messages) <= BRIEF_MESSAGES_MAX and sum(len(each.body) for each in messages) <= BRIEF_BYTES_MAX


def keepalive_options() -> dict[int, int]:
    """Return the TCP options, as far as the platform has them, that end a connection whose other end is silent."""
    values = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": UNACKNOWLEDGED_S_MAX * 1000,
    }
    return {getattr(socket, name): value for name, value in values.items() if hasattr(socket, name)}


def keep_alive(transport: Any) -> None:
    """Have the operating system watch an asyncio transport; a socket that is a file has nothing to watch."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in keepalive_options().items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
