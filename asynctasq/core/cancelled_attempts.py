"""The end of attempts whose tasks were cancelled: their worker says so, and the task's own hook is called."""

import asyncio
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import nullcontext

from asynctasq.codec.envelope import decode_envelope
from asynctasq.core.cancellation import cancelled_among
from asynctasq.core.hooks import AttemptEnvironment, HookCaller
from asynctasq.core.in_flight import AttemptRun, CancelReason, InFlightAttempt, clear_cancellation
from asynctasq.drivers.base import Driver, Settlements
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release, Settlement
from asynctasq.logs import get_logger

__all__ = ["CancelledAttempts", "LateCancellations", "cancel_on_request"]

logger = get_logger(__name__)

RUN_REASONS = frozenset({DeadReason.FAILED, DeadReason.REJECTED, DeadReason.CRASHED})


class CancelledAttempts:
    """Tells cancelled attempts from those whose leases were lost otherwise; `driver` is the one that leased them.

    What the store does not say within `limit_s` stays unknown: such a lease counts as lost.
    """

    def __init__(
        self, driver: Driver | None, hooks: HookCaller, *, environment: AttemptEnvironment, limit_s: float
    ) -> None:
        self._driver = driver
        self._hooks = hooks
        self._environment = environment
        self._limit_s = limit_s

    @property
    def can_be_cancelled(self) -> bool:
        """Whether the driver cancels what runs."""
        return self._driver is not None and bool(self._driver.capabilities.cancels_running)

    async def end(self, attempt: InFlightAttempt) -> None:
        """Call `cancelled` of the task of an attempt that had begun, if it was cancelled, and no code of it runs."""
        if attempt.run is not None and await self._is_cancelled(attempt):
            if attempt.run.went_on:
                logger.warning("%s went on after it was cancelled; what came of it is discarded", attempt)
            clear_cancellation()
            await self._hooks.cancelled(attempt.run)

    async def end_late(self, attempt: InFlightAttempt) -> None:
        """Do `end` for an attempt whose code had ended by itself before its worker learnt of the cancellation."""
        if not await self._is_cancelled(attempt):
            return
        async with self._environment.attempt_scope() or nullcontext():
            envelope = decode_envelope(attempt.lease.body)  # it was decoded before
            attempt.task_name = envelope.task
            invocation = await self._hooks.find(attempt, envelope, hook="cancelled")
            if invocation is not None:
                await self._hooks.cancelled(AttemptRun(attempt, invocation))

    async def _is_cancelled(self, attempt: InFlightAttempt) -> bool:
        if attempt.cancel_reason is CancelReason.CANCELLED:
            return True
        if attempt.cancel_reason is not CancelReason.LEASE_LOST or self._driver is None:
            return False
        if not await cancelled_among(self._driver, [attempt.lease], limit_s=self._limit_s):
            return False
        attempt.cancel_reason, attempt.settled_in_transaction = CancelReason.CANCELLED, None
        logger.info("the lease of %s was lost because its task was cancelled", attempt)
        return True


class LateCancellations:
    """Lets tasks hear that they were cancelled when their attempts had ended by themselves: settling finds leases lost.

    Each takes a slot meanwhile, as one of the attempts `in_flight`; `on_end` is called when it has ended.
    """

    def __init__(
        self,
        attempts: CancelledAttempts,
        in_flight: dict[str, InFlightAttempt],
        on_end: Callable[[InFlightAttempt], None],
    ) -> None:
        self._attempts = attempts
        self._in_flight = in_flight
        self._on_end = on_end

    def check(self, settlements: Settlements, lost: AbstractSet[str]) -> None:
        """Find out which of the lost leases belonged to cancelled tasks, soon."""
        for lease, settlement in settlements:
            if lease.message_id in lost and self._attempts.can_be_cancelled and _had_run(settlement):
                self._tell(InFlightAttempt(lease, -math.inf, CancelReason.LEASE_LOST, begun=True))

    def _tell(self, attempt: InFlightAttempt) -> None:
        key = f"{attempt.lease.message_id} {attempt.lease.token}"

        async def tell() -> None:
            try:
                await self._attempts.end_late(attempt)
            finally:
                self._in_flight.pop(key, None)
                self._on_end(attempt)

        self._in_flight[key] = attempt
        attempt.asyncio_task = asyncio.get_running_loop().create_task(tell(), name=key)
        attempt.asyncio_task.add_done_callback(lambda _: self._in_flight.pop(key, None))  # if it never began


def _had_run(settlement: Settlement) -> bool:
    """Say whether the task's code had run where an attempt was to be settled so."""
    match settlement:
        case Complete():
            return True
        case Release():
            return settlement.counted or settlement.crashed
        case Bury():
            return settlement.reason in RUN_REASONS


def cancel_on_request(attempt: InFlightAttempt, cancel: Callable[[InFlightAttempt], None], *, limit_s: float) -> None:
    """Cancel an attempt whose task was cancelled; a thread, which can't be stopped, is let end for so many seconds."""
    attempt.cancel_reason = CancelReason.CANCELLED
    logger.info("%s was cancelled; its attempt ends", attempt)

    def report() -> None:
        stays = "its thread is abandoned" if attempt.in_thread else "it keeps its slot until it ends"
        logger.error("%s still runs %g s after it was cancelled; %s", attempt, limit_s, stays)
        if attempt.in_thread:
            cancel(attempt)

    attempt.overdue = asyncio.get_running_loop().call_later(limit_s, report)
    if not attempt.in_thread:
        cancel(attempt)
