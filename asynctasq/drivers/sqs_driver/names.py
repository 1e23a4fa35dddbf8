"""Queue names on SQS: our names in SQS's smaller alphabet, no two alike, ordinary ones unchanged; asks no server.

SQS allows letters, digits, `-` and `_`, 80 of them, `.fifo` included; ours may hold `.` and `:` too.
Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
"""

import re
from dataclasses import dataclass
from hashlib import sha256

from asynctasq.errors import ConfigError

__all__ = ["DEAD_SUFFIX", "FIFO_SUFFIX", "NAME_CHARS_MAX", "QueueNames"]

NAME_CHARS_MAX = 80
FIFO_SUFFIX = ".fifo"
DEAD_SUFFIX = "-dead"
PREFIX = re.compile(r"[A-Za-z0-9_\-]{0,30}\Z")
DIGEST_CHARS = 20

# An escape starts with "-_", so that pair itself is escaped; "-dead" at the end would read as a dead letter queue.
_ESCAPES = {".": "-_d", ":": "-_c", "-_": "-_u", DEAD_SUFFIX: "-_k"}
_ESCAPED = {escape: plain for plain, escape in _ESCAPES.items()}
_TO_ESCAPE = re.compile(rf"{DEAD_SUFFIX}\Z|-_|[.:]")
_ESCAPE = re.compile(r"-_[dcuk]")
_SHORTENED = "-_h"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNames:
    """How the queues of one driver are called on SQS.

    `all_fifo` makes every queue a FIFO queue; else those are whose name ends in `.fifo`.
    """

    prefix: str = ""
    all_fifo: bool = False

    def __post_init__(self) -> None:
        if not PREFIX.match(self.prefix):
            raise ConfigError(
                f"queue_name_prefix {self.prefix!r} is not valid: use up to 30 letters, digits, '-' or '_'"
            )

    def is_fifo(self, queue: str) -> bool:
        """Say whether this queue is a FIFO queue."""
        return self.all_fifo or (queue.endswith(FIFO_SUFFIX) and len(queue) > len(FIFO_SUFFIX))

    def encode(self, queue: str, *, dead: bool = False) -> str:
        """Return the SQS name of a queue, or of the queue of its dead letters.

        What does not fit ends in a hash of the name, which then can't be read back.
        """
        fifo = self.is_fifo(queue)
        stem = queue[: -len(FIFO_SUFFIX)] if fifo and not self.all_fifo else queue
        suffix = (DEAD_SUFFIX if dead else "") + (FIFO_SUFFIX if fifo else "")
        characters_left = NAME_CHARS_MAX - len(self.prefix) - len(suffix)
        encoded = _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], stem)
        if len(encoded) > characters_left:
            digest = sha256(stem.encode()).hexdigest()[:DIGEST_CHARS]
            encoded = encoded[: characters_left - len(_SHORTENED) - DIGEST_CHARS] + _SHORTENED + digest
        return self.prefix + encoded + suffix

    def decode(self, sqs_name: str) -> str | None:
        """Return the queue that has this SQS name, None for a shortened name and for a queue of dead letters."""
        fifo = sqs_name.endswith(FIFO_SUFFIX)
        encoded = sqs_name[len(self.prefix) :].removesuffix(FIFO_SUFFIX)
        if not sqs_name.startswith(self.prefix) or encoded.endswith(DEAD_SUFFIX) or _SHORTENED in encoded:
            return None
        stem = _ESCAPE.sub(lambda match: _ESCAPED[match[0]], encoded)
        return stem + FIFO_SUFFIX if fifo and not self.all_fifo else stem
