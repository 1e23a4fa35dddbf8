"""Settles a running attempt in the task's own transaction, fenced by its lease."""

import asyncio
import enum
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

from asynctasq.clock import Clock
from asynctasq.core.in_flight import (
    AttemptCompletion,
    CancelReason,
    CompletionFactory,
    InFlightAttempt,
    TransactionOutcome,
)
from asynctasq.core.leases import LeaseRenewer
from asynctasq.core.task_factory import TaskFactory
from asynctasq.drivers.base import Driver, Transactional
from asynctasq.drivers.loops import running_loop
from asynctasq.errors import AsyncTasqError, DriverError, LeaseLost, UnsupportedFeature
from asynctasq.kernel.messages import Complete, Lease, Progress
from asynctasq.logs import get_logger
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of

__all__ = ["LeaseCompletion", "LeaseCompletionFactory", "transactional"]

logger = get_logger(__name__)


class LeaseCompletionFactory(CompletionFactory):
    """Makes the completions of one worker's attempts, which share its driver and lease renewer."""

    def __init__(
        self,
        driver: Driver,
        renewer: LeaseRenewer,
        task_factory: TaskFactory,
        *,
        clock: Clock,
        lease_s: float,
        on_progress: Callable[[InFlightAttempt, Progress], None] | None = None,
    ) -> None:
        """`on_progress`, if given, hears in the worker's loop of what attempts report."""
        self.driver = driver
        self.renewer = renewer
        self.task_factory = task_factory
        self.clock = clock
        self.lease_s = lease_s
        self.on_progress = on_progress

    def completion(
        self, attempt: InFlightAttempt, task: BaseTask[Any], keep_result_s: float | None
    ) -> AttemptCompletion:
        """Return what lets `task` settle this attempt."""
        return LeaseCompletion(self, attempt, task, keep_result_s)


class _Stage(enum.Enum):
    IDLE = "idle"
    OPEN = "open"
    SETTLED = "settled"


class LeaseCompletion(AttemptCompletion):
    """Settles one attempt by its lease. The lease is not renewed after that: its row is locked until the commit."""

    def __init__(
        self,
        shared: LeaseCompletionFactory,
        attempt: InFlightAttempt,
        task: BaseTask[Any],
        keep_result_s: float | None,
    ) -> None:
        self.task: BaseTask[Any] = task
        self._shared = shared
        self._attempt = attempt
        self._keep_result_s = keep_result_s
        self._stage = _Stage.IDLE
        self._loop = asyncio.get_running_loop()

    def report(self, progress: Progress) -> None:
        shared, attempt = self._shared, self._attempt
        if attempt.asyncio_task is None or attempt.asyncio_task.done():
            return  # this is its abandoned thread
        shared.renewer.report(attempt, progress)
        if shared.on_progress is not None:
            self._in_worker_loop(partial(shared.on_progress, attempt, progress))

    def begin(self) -> None:
        transactional(self._shared.driver)
        match self._stage:
            case _Stage.IDLE:
                self._stage = _Stage.OPEN
            case _Stage.OPEN:
                raise AsyncTasqError(
                    f"{self._attempt.task_name} is inside a complete_in block already; use one per attempt"
                )
            case _Stage.SETTLED:
                raise AsyncTasqError(
                    f"this attempt of {self._attempt.task_name} was completed by complete_in before; use it once, in "
                    "the last transaction. If its commit failed, let the exception end the attempt: it will run again"
                )

    def end(self) -> None:
        if self._stage is _Stage.OPEN:
            self._stage = _Stage.IDLE

    async def settle_in(self, connection: Any, result: object) -> None:
        entry, driver = self._entry(result), transactional(self._shared.driver)
        self._shared.renewer.remove(self._attempt)
        try:
            lost = await driver.settle_in(connection, [entry])
        except BaseException:
            self._renew_again()
            raise
        self._settled(lost)

    def settle_in_sync(self, connection: Any, result: object) -> None:
        entry, driver = self._entry(result), transactional(self._shared.driver)
        self._shared.renewer.remove(self._attempt)
        try:
            lost = driver.settle_in_sync(connection, [entry])
        except BaseException:
            self._renew_again()
            raise
        self._settled(lost)

    def _entry(self, result: object) -> tuple[Lease, Complete]:
        if self._keep_result_s is None:
            return self._attempt.lease, Complete()
        packed = self._shared.task_factory.pack_result(definition_of(type(self.task)), result)
        signed = self._shared.task_factory.sign_result(self._attempt.lease.message_id, packed)
        return self._attempt.lease, Complete(result=signed, result_ttl_s=self._keep_result_s)

    def _renew_again(self) -> None:
        """Add the attempt to the renewer again, in the worker's loop, where a renewer may set timers."""

        def add() -> None:
            # An abandoned thread may get here after its attempt has ended; that lease must not be renewed.
            if self._attempt.asyncio_task is not None and not self._attempt.asyncio_task.done():
                self._shared.renewer.add(self._attempt)

        self._in_worker_loop(add)

    def _in_worker_loop(self, call: Callable[[], None]) -> None:
        if running_loop() is self._loop:
            call()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _settled(self, lost: AbstractSet[str]) -> None:
        if self._attempt.lease.message_id not in lost:
            self._stage = _Stage.SETTLED
            self._attempt.settled_in_transaction = True
            return
        if self._attempt.cancel_reason is None:
            self._attempt.cancel_reason = CancelReason.LEASE_LOST
            self._attempt.settled_in_transaction = False
        raise LeaseLost(
            f"the lease of {self._attempt} is lost: it ran out and another worker may run the message; "
            "roll the transaction back and do nothing else"
        )

    async def transaction_outcome(self) -> TransactionOutcome:
        """Extend the lease to find out: a commit whose reply was lost looks to the task like one that failed."""
        shared, attempt = self._shared, self._attempt
        asked_at = shared.clock.monotonic()
        try:
            async with asyncio.timeout(shared.lease_s / 3):
                lost = await shared.driver.extend([attempt.lease], lease_s=shared.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning(
                "%s raised after complete_in, and it is unknown whether its transaction was committed: %s. "
                "The attempt is not settled again; if it was not committed, the lease runs out and the task runs again",
                attempt,
                error or "the message is locked; was the transaction left open?",
            )
            return TransactionOutcome.UNKNOWN
        if lost:
            # Before the lease's deadline nobody else could take the message: it is gone because it is complete.
            return TransactionOutcome.COMMITTED if asked_at < attempt.deadline else TransactionOutcome.UNKNOWN
        attempt.deadline = asked_at + shared.lease_s
        shared.renewer.add(attempt)
        return TransactionOutcome.ROLLED_BACK


def transactional(driver: Driver) -> Transactional:
    """Return the driver as one that settles in its caller's transaction.

    Raises: UnsupportedFeature for one that can't.
    """
    if not driver.capabilities.transactional or not isinstance(driver, Transactional):
        raise UnsupportedFeature(
            f"{driver} can't settle in a transaction of yours, so complete_in does not work with it; "
            "use sqlite, postgres or mysql for this queue, or make the task's effects idempotent"
        )
    return driver
