"""Settles one by one what a backend refused together; what it refuses alone becomes a dead letter that says why."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from asynctasq.core.tracebacks import class_name, exception_text
from asynctasq.drivers.base import Driver
from asynctasq.errors import DispatchError, DriverError, DriverMisconfigured, DriverUnavailable, UnsupportedFeature
from asynctasq.kernel.limits import begins_wait
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Release, Settlement
from asynctasq.logs import get_logger

__all__ = [
    "Refusal",
    "SettledApart",
    "is_refusal",
    "released_until",
    "settle_apart",
    "settlement_detail",
    "unsettled_error",
]

logger = get_logger(__name__)

REFUSAL_CHARS_MAX = 500
NAMED_MAX = 10
"""How many messages the error about those that could not be settled names."""
TRY_AFTER_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""The pauses before the tries to settle one message, in seconds. A settlement for which each of them fails, though
between them the backend renews its lease, is not the victim of a connection that fails now and then."""


@dataclass(slots=True, kw_only=True)
class SettledApart:
    """What came of the settlements. `left` are still to be settled: by `error` the backend can't be reached."""

    settled: list[tuple[Lease, Settlement]] = field(default_factory=list[tuple[Lease, Settlement]])
    lost: set[str] = field(default_factory=set[str])
    left: Sequence[tuple[Lease, Settlement]] = ()
    error: DriverError | None = None


Refusal = DriverError | DispatchError
"""What `settle` raises. A DispatchError is the driver's own: a result or a follow-up message is too large for it."""


def is_refusal(error: Refusal) -> bool:
    """Return whether this is an answer, which may be another for a part of what was sent."""
    return not isinstance(error, DriverUnavailable | DriverMisconfigured | UnsupportedFeature)


async def settle_apart(
    driver: Driver, settlements: Sequence[tuple[Lease, Settlement]], refusal: Refusal, *, lease_s: float
) -> SettledApart:
    """Settle each alone. A settlement counts as refused while the backend takes the renewal of the same lease.

    `refusal` is what the backend raised about all of them. If it can't be reached, all are left.
    """
    done = SettledApart()
    if isinstance(refusal, DriverError) and not is_refusal(refusal):
        try:
            await driver.extend([lease for lease, _ in settlements], lease_s=lease_s)
        except DriverError:
            return SettledApart(left=settlements, error=refusal)
    for index, (lease, settlement) in enumerate(settlements):
        try:
            await _settle_one(driver, lease, settlement, done, lease_s)
        except DriverError as error:
            done.left, done.error = settlements[index:], error
            break
    return done


async def _settle_one(driver: Driver, lease: Lease, settlement: Settlement, done: SettledApart, lease_s: float) -> None:
    refusal = await _try(driver, lease, settlement, done, lease_s)
    if refusal is None:
        return
    detail, text = settlement_detail(settlement), _plain(refusal)
    logger.error(
        "the backend refuses to settle message %s (%s), which becomes a dead letter: %s", lease.message_id, detail, text
    )
    message = f"the attempt ended ({detail}), but the backend refused to store that: {text}"
    record = ErrorRecord(type=class_name(type(refusal)), message=message)
    dead = Bury(reason=DeadReason.FAILED, counted=True, error=record)
    refusal = await _try(driver, lease, dead, done, lease_s)
    if refusal is not None:
        logger.error(
            "message %s can't be made a dead letter either; its lease runs out: %s", lease.message_id, _plain(refusal)
        )


async def _try(
    driver: Driver, lease: Lease, settlement: Settlement, done: SettledApart, lease_s: float
) -> Refusal | None:
    """Settle, or return why the backend refuses to.

    Raises: DriverError if it can't be reached.
    """
    refusal: Refusal | None = None
    for pause_s in TRY_AFTER_S:
        if pause_s:
            await asyncio.sleep(pause_s)
        try:
            done.lost |= await driver.settle([(lease, settlement)])
        except (DriverError, DispatchError) as error:
            refusal = error
            if is_refusal(error):
                break
            await driver.extend([lease], lease_s=lease_s)  # fails as well where the backend can't be reached
        else:
            done.settled.append((lease, settlement))
            return None
    return refusal


def _plain(error: Refusal) -> str:
    """Return a text that no store can refuse."""
    return ascii(exception_text(error))[1:-1][:REFUSAL_CHARS_MAX]


def settlement_detail(settlement: Settlement) -> str:
    """Return the `detail` of a settlement's ledger entry."""
    match settlement:
        case Complete():
            return "complete"
        case Bury():
            return f"bury: {settlement.reason.value}"
        case Release(counted=True):
            return "retry"
        case Release(crashed=True):
            return "crash"
        case Release() if begins_wait(settlement):
            return "wait"
        case Release(delay_s=0):
            return "hand back"
        case Release():
            return "snooze"


def released_until(settlement: Settlement, now: float) -> float:
    """Return the `due_at` of a settlement's ledger entry: when its message is visible again, 0 for no such time."""
    if isinstance(settlement, Release) and not begins_wait(settlement):
        return now + settlement.delay_s
    return 0.0


def unsettled_error(
    driver: str, settlements: Sequence[tuple[Lease, Settlement]], *, lease_s: float
) -> DriverUnavailable:
    """Return the error of a worker that stopped before its backend could be told how these attempts ended."""
    named = ", ".join(
        f"{lease.message_id} ({settlement_detail(settlement)})" for lease, settlement in settlements[:NAMED_MAX]
    )
    more = f" and {len(settlements) - NAMED_MAX} more" if len(settlements) > NAMED_MAX else ""
    return DriverUnavailable(
        f"{driver} did not answer before the time to stop was over. {len(settlements)} messages are left as they are: "
        f"each comes back when its lease ends, in {lease_s:g} s at most, even if its attempt had ended: {named}{more}"
    )
