"""The order in which a worker reserves from its queues: strictly as given, or by weight."""

from collections.abc import Sequence

from asynctasq.errors import ConfigError
from asynctasq.kernel.messages import check_queue_name
from asynctasq.kernel.retry import RandomSource

__all__ = ["QueueOrder", "parse_queues"]


class QueueOrder:
    """The queues of a worker. Without weights the first always comes first; with weights each in proportion."""

    def __init__(self, names: Sequence[str], weights: Sequence[float] | None, rng: RandomSource) -> None:
        self.names = list(names)
        self.weights = list(weights) if weights is not None else None
        self._rng = rng

    def next(self) -> Sequence[str]:
        """Return the order for the next reserve.

        By weight: a queue of weight 3 comes before one of weight 1 in three of four turns, and no queue starves.
        """
        if self.weights is None:
            return self.names
        keys = [self._rng.random() ** (1 / weight) for weight in self.weights]
        return [name for _, name in sorted(zip(keys, self.names, strict=True), reverse=True)]

    def __str__(self) -> str:
        if self.weights is None:
            return ", ".join(self.names)
        return ", ".join(f"{name}:{weight:g}" for name, weight in zip(self.names, self.weights, strict=True))


def parse_queues(queues: Sequence[str] | str, rng: RandomSource) -> QueueOrder:
    """Read `"high,default"` (strict order) or `"a:3,b:1"` (weighted), or a list of such names.

    Raises: ConfigError for a missing, repeated or partly weighted list; InvalidQueueName.
    """
    parts = [part.strip() for part in (queues.split(",") if isinstance(queues, str) else queues)]
    pairs = [_parse(part) for part in parts if part]
    names = [check_queue_name(name) for name, _ in pairs]
    weights = [weight for _, weight in pairs if weight is not None]
    if not names:
        raise ConfigError("no queue given; name at least one, such as: --queues default")
    if len(set(names)) != len(names):
        raise ConfigError(f"a queue is named twice in {', '.join(parts)!r}")
    if weights and len(weights) != len(names):
        raise ConfigError(f"give every queue a weight, or none: {', '.join(parts)!r}")
    return QueueOrder(names, weights or None, rng)


def _parse(part: str) -> tuple[str, float | None]:
    """Return name and weight; a colon is a weight only before a number, since names may hold colons."""
    name, colon, weight = part.rpartition(":")
    try:
        number = float(weight) if colon else None
    except ValueError:
        number = None
    if number is None:
        return part, None
    if not 0 < number < float("inf"):
        raise ConfigError(f"the weight of queue {name!r} must be more than 0, not {weight}")
    return name, number
