"""What every driver checks of its arguments before anything is stored; imports no library and asks no server."""

from collections.abc import Iterable

from asynctasq.drivers.base import Settlements
from asynctasq.errors import DELAY_S_MAX, BodyTooLarge, ConfigError, DispatchError, UnsupportedFeature
from asynctasq.kernel.fairness import check_fair_key
from asynctasq.kernel.messages import UNIQUE_CHARS_MAX, Message, UniqueKey, check_queue_name, is_unique_key
from asynctasq.kernel.priority import NORMAL, check_priority

__all__ = [
    "ID_CHARACTERS_MAX",
    "check_at_least",
    "check_fair",
    "check_follow_ups",
    "check_message_id",
    "check_messages",
    "check_queue_names",
    "check_unique",
    "is_message_id",
    "refuse_keys",
]

ID_CHARACTERS_MAX = 128


def check_at_least(least: float, **options: float) -> None:
    """Raise `ConfigError` naming the first option that is smaller than `least`."""
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"option {name!r} is {value}; it must be at least {least}")


def is_message_id(text: str) -> bool:
    """Say whether a message with this id can be stored; one that can't is not looked for, servers may refuse it."""
    return 0 < len(text) <= ID_CHARACTERS_MAX and text.isprintable()


def check_message_id(text: str) -> None:
    """Raise DispatchError for an id that can't be stored."""
    if not is_message_id(text):
        raise DispatchError(
            f"message id {text[:200]!r} is not valid: use 1 to {ID_CHARACTERS_MAX} printable characters"
        )


def check_messages(messages: Iterable[Message], *, body_bytes_max: int | None, fair: bool = False) -> None:
    """Raise before anything is stored: InvalidQueueName, BodyTooLarge, or DispatchError for an unusable id or level.

    A fair key raises UnsupportedFeature unless the driver is `fair`.
    """
    for message in messages:
        check_queue_name(message.queue)
        check_message_id(message.id)
        if message.priority is not NORMAL:
            check_priority(message.priority)
        if body_bytes_max is not None and len(message.body) > body_bytes_max:
            raise BodyTooLarge(
                f"message {message.id} has {len(message.body)} bytes; this driver takes {body_bytes_max}"
            )
        if message.unique is not None:
            check_unique(message.unique)
        if message.fair_key:
            check_fair(message, fair=fair)


def check_fair(message: Message, *, fair: bool) -> None:
    """Raise DispatchError for a fair key that is none, UnsupportedFeature for any unless the driver is `fair`."""
    check_fair_key(message.fair_key)
    if not fair:
        raise UnsupportedFeature(
            f"message {message.id} has a fair key, and this driver gives no key its turn; nothing was stored. Use a "
            "queue for each key and let the worker weight them (-q a:1,b:1), or dispatch it without `fair_key`"
        )


def check_unique(unique: UniqueKey) -> None:
    """Raise DispatchError for a unique key that can't be stored."""
    key, window_s = unique.key, unique.window_s
    if not is_unique_key(key):
        raise DispatchError(
            f"unique key {key[:200]!r} can't be stored: use 1 to {UNIQUE_CHARS_MAX} printable ASCII characters, "
            "of a longer text a digest"
        )
    if window_s is not None and not 0 < window_s <= DELAY_S_MAX:
        raise DispatchError(f"the window of a unique key must be more than 0 seconds, not {window_s!r}")


def refuse_keys(messages: Iterable[Message], where: object) -> None:
    """Raise UnsupportedFeature if a message has a unique key; for drivers that can't see to it."""
    if any(message.unique is not None for message in messages):
        raise UnsupportedFeature(f"{where} can't keep a task unique; nothing was stored. Dispatch it without `unique`")


def check_follow_ups(settlements: Settlements, *, body_bytes_max: int | None, fair: bool = False) -> None:
    """Do `check_messages` for the follow-ups, before anything is settled."""
    for _, settlement in settlements:
        if settlement.follow_ups:
            check_messages(settlement.follow_ups, body_bytes_max=body_bytes_max, fair=fair)


def check_queue_names(names: Iterable[str]) -> None:
    """Raise InvalidQueueName for the first name that a driver could misread."""
    for name in names:
        check_queue_name(name)
