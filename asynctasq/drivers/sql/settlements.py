"""Settlements as SQL statements take them: in batches that one statement applies; pure."""

from collections.abc import Iterable

from asynctasq.drivers.base import Settlements
from asynctasq.kernel.messages import Bury, Complete, Release

__all__ = ["cancels_of", "end_of", "independent_batches", "is_plain", "names_to_wake", "queues_to_wake"]


def independent_batches(settlements: Settlements) -> tuple[list[Settlements], set[str]]:
    """Part settlements into batches that one statement each may apply in any order, and name what is lost already.

    A statement applies its entries at once, while the contract lets them follow each other. That differs
    only where one lease comes twice (the second is lost) or where a follow-up has a unique or fair key, or the id of a
    message that the same batch settles; then each entry is a batch of its own, in the order given.
    """
    seen: set[tuple[str, str]] = set()
    lost: set[str] = set()
    entries: list[tuple[int, str]] = []
    for index, (lease, _) in enumerate(settlements):
        key = (lease.message_id, lease.token)
        if key in seen:
            lost.add(lease.message_id)
        else:
            seen.add(key)
            entries.append((index, lease.message_id))
    unique = settlements if not lost else [settlements[index] for index, _ in entries]
    settled = {message_id for _, message_id in entries}
    if any(
        message.unique is not None or message.fair_key or message.id in settled
        for _, settlement in unique
        for message in settlement.follow_ups
    ):
        return [[entry] for entry in unique], lost
    return [unique] if unique else [], lost


def is_plain(settlements: Settlements) -> bool:
    """Say whether all are `Complete` with neither result nor follow-ups: the hot path, one DELETE."""
    return all(
        type(settlement) is Complete and settlement.result is None and not settlement.follow_ups
        for _, settlement in settlements
    )


def queues_to_wake(settlements: Settlements) -> set[str]:
    """Return the queues in which settlements may make a message visible, at once or later, and the `end_of` others."""
    names: set[str] = set()
    for lease, settlement in settlements:
        if isinstance(settlement, Release):
            names.add(lease.queue)
        elif isinstance(settlement, Bury) or settlement.result is not None:
            names.add(end_of(lease.message_id))
        for message in settlement.follow_ups:
            names.add(message.queue)
    return names


def end_of(message_id: str) -> str:
    """Return the name under which calls wait for the end of a message; no queue can have it."""
    return f"={message_id}"


def cancels_of(holder: str) -> str:
    """Return the name under which calls wait for news of cancelled messages that `holder` has reserved.

    No queue can have it, and no message the id.
    """
    return f"\n{holder}"


def names_to_wake(message_ids: Iterable[str], holders: Iterable[str]) -> frozenset[str]:
    """Return the names of the calls that hear of cancelled messages, which these holders had reserved."""
    return frozenset([*map(end_of, message_ids), *map(cancels_of, holders)])
