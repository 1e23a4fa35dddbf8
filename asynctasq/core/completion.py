"""Settles a running attempt inside the task's own transaction, fenced by its lease."""

import asyncio
import enum
import logging
from collections.abc import Set as AbstractSet
from typing import Any

from asynctasq.clock import Clock
from asynctasq.core.attempt import AttemptCompletion, Completions, Fate, Held, Sequel
from asynctasq.core.leases import LeaseKeeper
from asynctasq.core.task_factory import Builder
from asynctasq.drivers.base import Driver, Transactional
from asynctasq.drivers.loops import running_loop
from asynctasq.errors import AsyncTasqError, DriverError, LeaseLost, UnsupportedFeature
from asynctasq.kernel.messages import Complete, Lease
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of

__all__ = ["Completer", "LeaseCompletion"]

logger = logging.getLogger(__name__)


class Completer(Completions):
    """Makes the completions of one worker's attempts."""

    def __init__(self, driver: Driver, keeper: LeaseKeeper, builder: Builder, *, clock: Clock, lease_s: float) -> None:
        self.driver = driver
        self.keeper = keeper
        self.builder = builder
        self.clock = clock
        self.lease_s = lease_s

    def completion(self, held: Held, task: BaseTask[Any], keep_result_s: float | None) -> AttemptCompletion:
        """Return what lets `task` settle this attempt."""
        return LeaseCompletion(self, held, task, keep_result_s)


class _Stage(enum.Enum):
    IDLE = "idle"
    OPEN = "open"
    SETTLED = "settled"


class LeaseCompletion(AttemptCompletion):
    """Settles one attempt by its lease, which is renewed no more from then on: its row is locked until the commit."""

    def __init__(self, completer: Completer, held: Held, task: BaseTask[Any], keep_result_s: float | None) -> None:
        self.task: BaseTask[Any] = task
        self._completer = completer
        self._held = held
        self._keep_result_s = keep_result_s
        self._stage = _Stage.IDLE
        self._loop = asyncio.get_running_loop()

    def begin(self) -> None:
        self._transactional()
        match self._stage:
            case _Stage.IDLE:
                self._stage = _Stage.OPEN
            case _Stage.OPEN:
                raise AsyncTasqError(f"{self._held.name} is inside a complete_in block already; use one per attempt")
            case _Stage.SETTLED:
                raise AsyncTasqError(
                    f"this attempt of {self._held.name} was completed by complete_in before; use it once, in the last "
                    "transaction. If its commit failed, let the exception end the attempt: it will run again"
                )

    def end(self) -> None:
        if self._stage is _Stage.OPEN:
            self._stage = _Stage.IDLE

    async def settle_in(self, connection: Any, result: object) -> None:
        entry, driver = self._entry(result), self._transactional()
        self._completer.keeper.drop(self._held)
        try:
            lost = await driver.settle_in(connection, [entry])
        except BaseException:
            self._hold_again()
            raise
        self._settled(lost)

    def settle_in_sync(self, connection: Any, result: object) -> None:
        entry, driver = self._entry(result), self._transactional()
        self._completer.keeper.drop(self._held)
        try:
            lost = driver.settle_in_sync(connection, [entry])
        except BaseException:
            self._hold_again()
            raise
        self._settled(lost)

    def _transactional(self) -> Transactional:
        driver = self._completer.driver
        if not driver.capabilities.transactional or not isinstance(driver, Transactional):
            raise UnsupportedFeature(
                f"{driver} can't settle in a transaction of yours, so complete_in does not work with it; "
                "use sqlite, postgres or mysql for this queue, or make the task's effects idempotent"
            )
        return driver

    def _entry(self, result: object) -> tuple[Lease, Complete]:
        if self._keep_result_s is None:
            return self._held.lease, Complete()
        packed = self._completer.builder.pack_result(definition_of(type(self.task)), result)
        return self._held.lease, Complete(result=packed, result_ttl_s=self._keep_result_s)

    def _hold_again(self) -> None:
        """Renew the lease again, in the worker's loop, where a keeper may set timers."""

        def hold() -> None:
            # An abandoned thread may get here after its attempt has ended: that lease is nobody's to renew.
            if self._held.task is not None and not self._held.task.done():
                self._completer.keeper.hold(self._held)

        if running_loop() is self._loop:
            hold()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(hold)

    def _settled(self, lost: AbstractSet[str]) -> None:
        if self._held.lease.message_id not in lost:
            self._stage = _Stage.SETTLED
            self._held.settled_in = True
            return
        if self._held.fate is None:
            self._held.fate = Fate.LOST
            self._held.settled_in = False
        raise LeaseLost(
            f"message {self._held.lease.message_id} of {self._held.name} is no longer this attempt's: its lease ran "
            "out and another worker may run it; the transaction is to be rolled back, and nothing else is to be done"
        )

    async def sequel(self) -> Sequel:
        """Ask the message: a commit whose reply was lost looks to the task like one that failed."""
        shared, held = self._completer, self._held
        asked_at = shared.clock.monotonic()
        try:
            async with asyncio.timeout(shared.lease_s / 3):
                lost = await shared.driver.extend([held.lease], lease_s=shared.lease_s)
        except (DriverError, TimeoutError) as error:
            logger.warning(
                "%s (message %s) raised after complete_in, and whether its transaction was committed can't be told: "
                "%s. Nothing more is settled; if it was not, the lease runs out and the task runs again",
                held.name,
                held.lease.message_id,
                error or "the message is locked; was the transaction left open?",
            )
            return Sequel.UNKNOWN
        if lost:
            # While the lease stood nobody else could take the message, so it is gone because it is complete.
            return Sequel.COMMITTED if asked_at < held.deadline else Sequel.UNKNOWN
        held.deadline = asked_at + shared.lease_s
        shared.keeper.hold(held)
        return Sequel.ROLLED_BACK
