"""The life of messages once more, in dicts and integers, written from the design and from nothing of the product.

Instants are microseconds since the start, durations given to it nanoseconds, so that rounding up is seen.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["PlainModel", "ceil_us", "ceiling_of_wait_us", "is_asked", "sequel", "verdict"]

Grant = dict[str, Any]
Message = dict[str, Any]


def ceil_us(duration_ns: int) -> int:
    """Return whole microseconds, never too few."""
    return -(-duration_ns // 1000)


def ceiling_of_wait_us(waits: tuple[Any, ...], attempt: int) -> int:
    """Return how long to wait after this failed attempt, at most."""
    match waits:
        case ("fixed", wait_ns):
            return ceil_us(wait_ns)
        case ("list", waits_ns):
            return ceil_us(waits_ns[-1] if attempt > len(waits_ns) else waits_ns[attempt - 1])
        case ("growing" | "jittered", base_ns, cap_ns):
            for _ in range(attempt - 1):
                base_ns *= 2
            return ceil_us(min(base_ns, cap_ns))
    raise AssertionError(waits)


def _more(policy: dict[str, Any], attempt: int) -> bool:
    return attempt < (policy["max_attempts"] or 1)


def verdict(grant: Grant, policy: dict[str, Any], now_us: int) -> str:
    """Say what to do with a lease before anything runs."""
    if now_us >= grant["until"]:
        return "stale"
    if grant["crashes"] >= 2 * policy["max_crashes"]:
        return "bury"
    return "give up" if grant["crashes"] >= policy["max_crashes"] else "run"


def is_asked(outcome: str, grant: Grant, policy: dict[str, Any]) -> bool:
    """Say whether should_retry has a say."""
    return outcome in ("raised", "refused") and _more(policy, grant["attempt"])


def sequel(outcome: str, wait_ns: int | None, grant: Grant, policy: dict[str, Any]) -> dict[str, Any]:
    """Return what becomes of a message whose attempt ended so; `wait_ns` is what the task itself asked for."""
    attempt = grant["attempt"]
    match outcome:
        case "returned":
            return {"event": "COMPLETE"}
        case "raised" | "asked again" if _more(policy, attempt):
            waits = policy["waits"]
            most = ceiling_of_wait_us(waits, attempt) if wait_ns is None else ceil_us(wait_ns)
            least = 0 if wait_ns is None and waits[0] == "jittered" else most
            return _release(least, most, attempts=1, error=True)
        case "raised" | "asked again" | "refused" | "rejected":
            reason = "rejected" if outcome == "rejected" else "failed"
            return {"event": "BURY", "reason": reason, "attempts": 1, "crashes": 0, "error": True}
        case "snoozed":
            assert wait_ns is not None
            return _release(ceil_us(wait_ns), ceil_us(wait_ns))
        case "interrupted":
            return _release(0, 0)
        case "child died" if grant["crashes"] + 1 < policy["max_crashes"]:
            return _release(0, 0, crashes=1, error=True)
        case "child died":
            return {"event": "BURY", "reason": "crashed", "attempts": 0, "crashes": 1, "error": True}
        case "given up" | "unrunnable":
            reason = "crashed" if outcome == "given up" else "unknown_task"
            return {"event": "BURY", "reason": reason, "attempts": 0, "crashes": 0, "error": True}
    raise AssertionError(outcome)


def _release(least: int, most: int, *, attempts: int = 0, crashes: int = 0, error: bool = False) -> dict[str, Any]:
    event = "RELEASE_LATER" if most else "RELEASE"
    return {
        "event": event,
        "least": least,
        "most": most,
        "attempts": attempts,
        "crashes": crashes,
        "error": error,
    }


class PlainModel:
    """Every message there is, in order of arrival. `moves` are the transitions seen."""

    def __init__(self) -> None:
        self.now = 0
        self.messages: dict[str, Message] = {}
        self.results: dict[str, tuple[int, bytes]] = {}
        self.moves: list[tuple[str, str, str]] = []
        self._counter = 0

    def _next(self) -> int:
        self._counter += 1
        return self._counter

    def state(self, message: Message) -> str:
        """Return the state of a living message."""
        if message["reason"] is not None:
            return "dead"
        if message["due"] <= self.now:
            return "ready"
        return "reserved" if message["holder"] else "scheduled"

    def move_to(self, now_us: int) -> None:
        """Let time pass."""
        before = {name: self.state(message) for name, message in self.messages.items()}
        self.now = now_us
        for name, old in before.items():
            new = self.state(self.messages[name])
            if new != old:
                self.moves.append((old, "EXPIRE" if old == "reserved" else "COME_DUE", new))

    def enqueue(self, name: str, queue: str, wait_ns: int, policy: dict[str, Any], body: bytes) -> bool:
        """Store a message; False if one of that name lives."""
        if name in self.messages:
            return False
        self.messages[name] = {
            "queue": queue,
            "body": body,
            "policy": policy,
            "arrival": self._next(),
            "enqueued": self.now,
            "due": self.now + ceil_us(wait_ns),
            "holder": 0,
            "attempts": 0,
            "crashes": 0,
            "reason": None,
            "error": None,
            "death": 0,
        }
        return True

    def waiting(self, queue: str) -> list[str]:
        """Return the names of all that are or will be visible, in line."""
        names = [name for name, one in self.messages.items() if one["queue"] == queue and one["reason"] is None]
        return sorted(names, key=lambda name: (self.messages[name]["due"], self.messages[name]["arrival"]))

    def next_due(self, queues: Sequence[str]) -> int | None:
        """Return when the next of these queues' messages is visible."""
        return min((self.messages[name]["due"] for queue in queues for name in self.waiting(queue)), default=None)

    def reserve(self, queues: Sequence[str], limit: int, lease_us: int) -> list[Grant]:
        """Grant leases on what is visible."""
        grants: list[Grant] = []
        for queue in queues:
            visible = [name for name in self.waiting(queue) if self.messages[name]["due"] <= self.now]
            for name in visible[: limit - len(grants)]:
                message = self.messages[name]
                message["crashes"] += 1 if message["holder"] else 0
                message["holder"] = self._next()
                message["due"] = self.now + lease_us
                grants.append(
                    {
                        "name": name,
                        "queue": queue,
                        "body": message["body"],
                        "holder": message["holder"],
                        "attempt": message["attempts"] + 1,
                        "crashes": message["crashes"],
                        "enqueued": message["enqueued"],
                        "from": self.now,
                        "until": message["due"],
                    }
                )
                self.moves.append(("ready", "RESERVE", self.state(message)))
        return grants

    def holds(self, grant: Grant) -> bool:
        """Say whether nobody has had the message since, and it has not been settled."""
        message = self.messages.get(grant["name"])
        return message is not None and message["holder"] == grant["holder"]

    def extend(self, grant: Grant, lease_us: int) -> bool:
        """Renew a lease; False if it is lost."""
        if not self.holds(grant):
            return False
        message = self.messages[grant["name"]]
        message["due"] = grant["until"] = self.now + lease_us
        self.moves.append(("reserved", "EXTEND", self.state(message)))
        return True

    def settle(self, grant: Grant, end: dict[str, Any], *, wait_us: int, error: str, result: Any = None) -> bool:
        """End an attempt; False if the lease is lost."""
        if not self.holds(grant):
            return False
        name = grant["name"]
        message = self.messages[name]
        message["holder"] = 0
        if end["event"] == "COMPLETE":
            del self.messages[name]
            if result is not None:
                ttl_us, data = result
                self.results[name] = (self.now + ttl_us, data)
            self.moves.append(("reserved", "COMPLETE", "completed"))
            return True
        message["attempts"] += end["attempts"]
        message["crashes"] += end["crashes"]
        if end["error"]:
            message["error"] = error
        if end["event"] == "BURY":
            message["reason"], message["due"], message["death"] = end["reason"], self.now, self._next()
        else:
            message["due"] = self.now + wait_us
        event = end["event"] if wait_us or end["event"] == "BURY" else "RELEASE"  # jitter may come to nothing
        self.moves.append(("reserved", event, self.state(message)))
        return True

    def redrive(self, queue: str, limit: int) -> int:
        """Begin dead letters anew, the oldest death first."""
        dead = [one for one in self.messages.values() if one["queue"] == queue and one["reason"] is not None]
        chosen = sorted(dead, key=lambda one: one["death"])[:limit]
        for message in chosen:
            message |= {"attempts": 0, "crashes": 0, "reason": None, "error": None, "death": 0}
            message |= {"due": self.now, "enqueued": self.now}
            self.moves.append(("dead", "REDRIVE", self.state(message)))
        return len(chosen)

    def remove(self, names: Sequence[str], states: Sequence[str]) -> list[str]:
        """Cancel those that are in one of these states."""
        gone: list[str] = []
        for name in dict.fromkeys(names):
            if name not in self.messages:
                continue
            state = self.state(self.messages[name])
            if state in states:
                del self.messages[name]
                gone.append(name)
                self.moves.append((state, "CANCEL", "cancelled"))
        return gone

    def result(self, name: str) -> bytes | None:
        """Return a kept result."""
        until, data = self.results.get(name, (0, None))
        return data if until > self.now else None

    def counts(self, queue: str) -> tuple[int, int, int, int]:
        """Return how many are ready, scheduled, reserved, dead."""
        states = [self.state(one) for one in self.messages.values() if one["queue"] == queue]
        return states.count("ready"), states.count("scheduled"), states.count("reserved"), states.count("dead")

    def oldest_age_us(self, queue: str) -> int | None:
        """Return how long the first in line has been visible."""
        due = self.next_due([queue])
        return None if due is None or due > self.now else self.now - due
