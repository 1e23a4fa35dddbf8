"""What a driver claims to do; the conformance suite tests every claim and every refusal."""

from dataclasses import dataclass, fields

__all__ = ["NO", "YES", "Capabilities", "Support", "partial"]


@dataclass(frozen=True, slots=True)
class Support:
    """`YES`, `NO`, or partial with the reason a user needs to know. True unless it is `NO`."""

    level: str
    reason: str = ""

    def __bool__(self) -> bool:
        return self.level != "no"

    def __str__(self) -> str:
        return f"{self.level} ({self.reason})" if self.reason else self.level


YES = Support("yes")
NO = Support("no")


def partial(reason: str) -> Support:
    """Claim a capability with a limit, in words."""
    return Support("partial", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The claims of one driver.

    durable: acknowledged messages outlive a crash of every process of ours (and of the server, as configured).
    cross_process: another process sees the messages.
    ordered: within a queue reserve goes by `visible_at`, then by arrival.
    atomic_enqueue: a batch is stored whole or not at all.
    idempotent_enqueue: the same id again changes nothing while that message is stored.
    atomic_settle: each settlement, follow-ups included, is one step.
    fenced: a stale token settles and extends nothing.
    exact_depth: `depth` counts exactly at the instant of the call.
    clock_offset: the driver's clock can be shifted for tests.
    redrive: dead letters can be moved back to ready.
    wakes_waiting: `Notifies`. inspects: `Inspectable`. keeps_results: `KeepsResults`. transactional: `Transactional`.
    unique: of messages with one unique key only one is stored at a time; the store itself decides, in one step.
    reserves_released: `ReservesReleased`.
    reports_progress: `ReportsProgress`, and `find` shows who holds a lease, and since when.
    cancels_running: `CancelsRunning`.
    priorities: within a queue reserve goes by `Message.priority` first; a driver without refuses all but `normal`.
    fair: messages with a `fair_key` take turns, key by key; a driver without refuses them.
    body_bytes_max: largest accepted body in bytes, None for no limit but memory.
    delay_s_max: longest delay the backend takes in one step, None for no limit; longer ones go step by step.
    dead_ttl, dead_max: how many seconds a dead letter is kept, and how many in a queue; None if they are not removed.
    """

    durable: Support
    cross_process: Support
    ordered: Support
    atomic_enqueue: Support = YES
    idempotent_enqueue: Support = YES
    atomic_settle: Support = YES
    fenced: Support = YES
    exact_depth: Support = YES
    clock_offset: Support = YES
    redrive: Support = YES
    wakes_waiting: Support = NO
    inspects: Support = NO
    keeps_results: Support = NO
    transactional: Support = NO
    reports_progress: Support = NO
    cancels_running: Support = NO
    unique: Support = NO
    reserves_released: Support = NO
    priorities: Support = NO
    fair: Support = NO
    body_bytes_max: int | None = None
    delay_s_max: float | None = None
    dead_ttl: float | None = None
    dead_max: int | None = None

    def claims(self) -> dict[str, Support]:
        """Return every claim by its name, in the order of their declaration."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Support)}
