"""Which messages a worker has snoozed: what snoozes again and again waits longer. Asks no store."""

__all__ = ["SNOOZED_MAX", "Snoozes"]

SNOOZED_MAX = 10_000
"""How many messages a worker remembers to have snoozed."""


class Snoozes:
    """The messages that were snoozed last."""

    def __init__(self) -> None:
        self._message_ids: dict[str, None] = {}

    def again(self, message_id: str) -> bool:
        """Return whether this worker has snoozed the message before; remember that it does."""
        known = message_id in self._message_ids
        self._message_ids.pop(message_id, None)
        self._message_ids[message_id] = None
        if len(self._message_ids) > SNOOZED_MAX:
            del self._message_ids[next(iter(self._message_ids))]
        return known
