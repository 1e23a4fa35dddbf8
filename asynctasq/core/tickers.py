"""Keeps schedules going in a worker: enqueues the tickers of its code, and runs any that it reserves.

A ticker is the one living message of a schedule. It is settled by its successor under the same id, and the messages of
the ticks that were due, in one step: no tick is lost or doubled, whoever crashes.
"""

import asyncio
from contextlib import suppress

from asynctasq.codec.schedule import decode_ticker
from asynctasq.core.exception_codec import record_of
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.schedule_duty import ScheduleDuty, ScheduleStore, Standing, check_keeps_schedules, note
from asynctasq.core.schedule_messages import ScheduleMessages, definitions_of, scheduled_tasks
from asynctasq.drivers.base import Driver
from asynctasq.errors import CodecError, DispatchError, DriverError, UnsupportedFeature
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release, Settlement, State, StoredMessage
from asynctasq.kernel.schedule import ScheduleDefinition, Ticker, derived_id, plan_ticks, ticker_id
from asynctasq.logs import get_logger
from asynctasq.tasks.schedules import are_kept_by_default, next_tick_of

__all__ = ["Tickers", "pause_id"]

logger = get_logger(__name__)

RETRY_S = 5.0
"""After how long what the backend refused is tried again."""
FAR_AFTER = 2
"""How many checks away a tick must be for its ticker to be replaced without being run."""
UNSERVED_AFTER = 3
"""After how many checks that it missed a ticker lies in a queue that nobody serves any more."""


def pause_id(name: str) -> str:
    """Return the id of the note that pauses a schedule."""
    return derived_id("pause", name)


class Tickers:
    """The schedules of one worker.

    Where its application is imported because it was named, a schedule that it does not have has left the code.
    """

    def __init__(self, driver: Driver, messages: ScheduleMessages, settings: WorkerSettings, *, worker: str) -> None:
        self._driver = driver
        self._messages = messages
        self._worker = worker
        self._lease_s = settings.lease_s
        self._scheduled = settings.schedules
        self._is_complete = bool(settings.application.modules)
        self._check_s = settings.schedule_check_s
        self._definitions: dict[str, ScheduleDefinition] = {}
        self._queues: dict[str, None] = {}
        self._duty: ScheduleDuty | None = None
        self._keeping: asyncio.Task[None] | None = None

    # -- keeping -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to keep the schedules of this worker's code; without any, do nothing.

        Raises: ConfigError for schedules that can't work, UnsupportedFeature if the driver can't keep any.
        """
        scheduled = self._scheduled
        if scheduled is None and are_kept_by_default():
            scheduled = scheduled_tasks(other_processes=bool(self._driver.capabilities.cross_process))
        if scheduled:
            self._definitions = definitions_of(scheduled)
            check_keeps_schedules(self._driver)
            self._check_keys()
            self._queues = {definition.queue: None for definition in self._definitions.values()}
            self._keeping = asyncio.create_task(self._keep(), name="schedules")

    def _check_keys(self) -> None:
        for name, definition in self._definitions.items():
            if definition.unique is not None and not self._driver.capabilities.unique:
                raise UnsupportedFeature(
                    f"the task of schedule {name!r} has unique set, which {self._driver} can't keep"
                )
            if definition.fair_key and not self._driver.capabilities.fair:
                raise UnsupportedFeature(
                    f"the task of schedule {name!r} has fair_key set, but {self._driver} gives no key its turn; use "
                    "a queue for each key, or no fair_key"
                )

    async def stop(self) -> None:
        """Stop keeping them; the tickers stay."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        duty, self._duty = self._duty, None
        if duty is not None:
            with suppress(DriverError):
                await duty.end()

    async def _keep(self) -> None:
        while True:
            pause_s = self._check_s
            try:
                for queue in list(self._queues):
                    await self._look(queue)
            except (DriverError, DispatchError) as error:
                logger.warning("the schedules can't be looked after, trying again in %g s: %s", RETRY_S, error)
                pause_s = min(RETRY_S, pause_s)
            await asyncio.sleep(pause_s)

    async def _look(self, queue: str) -> bool:
        """Report on duty for a queue; if this worker's code is the current one, let its tickers live, and no other.

        Return whether it is.
        """
        store = check_keeps_schedules(self._driver)
        if self._duty is None:
            self._duty = ScheduleDuty(store, self._worker, report_s=self._check_s)
        self._queues[queue] = None
        definitions = [known for known in self._definitions.values() if known.queue == queue]
        standing = await self._duty.report(queue, definitions)
        if standing is None:
            return False
        for definition in definitions:
            await self._see_alive(store, definition, standing)
        for name in sorted(standing.names.difference(self._definitions)):
            stored = await store.find(ticker_id(name))
            if stored is not None and stored.queue == queue and await store.cancel([stored.id]):
                await self._ended(name)
        return True

    async def _see_alive(self, store: ScheduleStore, definition: ScheduleDefinition, standing: Standing) -> None:
        ticker = Ticker(definition=definition)
        stored = await store.find(ticker_id(definition.name))
        if stored is not None and stored.state is State.DEAD:
            logger.error("the ticker of schedule %r was a dead letter; it begins anew", definition.name)
            await store.discard([stored.id])
        elif stored is not None:
            changed = self._changed(stored, definition, standing)
            if changed is None or not await store.cancel([stored.id]):
                return
            ticker = changed
        await store.enqueue([note("name", definition.name), self._messages.ticker(ticker)])

    def _changed(self, stored: StoredMessage, definition: ScheduleDefinition, standing: Standing) -> Ticker | None:
        """Return the ticker that is to take the place of the stored one; None if it stays, or who runs it decides.

        It only takes the place of one whose next tick is far: between two calls, no tick must be due.
        """
        try:
            before = self._messages.ticker_in(stored.id, stored.queue, stored.body)
        except CodecError:  # it becomes a dead letter when it is run
            return None
        if before.definition == definition or not standing.is_first or before.next_at is None:
            return None
        moved, overdue_s = stored.queue != definition.queue, standing.now - stored.visible_at
        if moved and overdue_s > UNSERVED_AFTER * self._check_s:  # from a queue that nobody serves any more
            return Ticker(definition=definition, next_at=before.next_at, last_at=before.last_at)
        if before.next_at - standing.now < FAR_AFTER * self._check_s:
            return None
        next_at = next_tick_of(definition.rule)(standing.now)
        return Ticker(definition=definition, next_at=next_at, last_at=before.last_at)

    # -- ticking -----------------------------------------------------------------------------------

    async def tick(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement:
        """Run a ticker, whoever has enqueued it; return how to settle it."""
        try:
            ticker = decode_ticker(envelope.arguments)
            attempt.task_name = f"schedule {ticker.definition.name}"
            return await self._settlement(attempt.lease, ticker)
        except CodecError as error:
            logger.error("message %s keeps no schedule going: %s", attempt.lease.message_id, error)  # noqa: TRY400
            return Bury(reason=DeadReason.UNDECODABLE, error=record_of(error))
        except (DriverError, ValueError) as error:  # the latter for a time zone that is not known here
            logger.error("%s can't tick now, trying again in %g s: %s", attempt, RETRY_S, error)  # noqa: TRY400
            return Release(delay_s=RETRY_S, counted=False, error=record_of(error))

    async def _settlement(self, lease: Lease, ticker: Ticker) -> Settlement:
        now = lease.expires_at - self._lease_s  # of the backend, when it granted the lease
        definition, successor = ticker.definition, None
        own = self._definitions.get(definition.name)
        if own != definition and self._may_decide(own) and await self._look(definition.queue):
            if own is None:
                await self._ended(definition.name)
                return Complete()
            logger.info("schedule %r goes on as the code has it now: %s", definition.name, own.rule)
            successor = (own, next_tick_of(own.rule))
        paused = await check_keeps_schedules(self._driver).find(pause_id(definition.name)) is not None
        plan = plan_ticks(
            ticker,
            now=now,
            enqueued_at=lease.enqueued_at,
            next_tick=next_tick_of(definition.rule),
            successor=successor,
            paused=paused,
        )
        if plan.ticker is None:
            logger.warning("schedule %r has ended: it has no tick any more", definition.name)
            return Complete(follow_ups=tuple(self._messages.run(definition, tick, now=now) for tick in plan.ticks))
        going_on = plan.ticker.definition
        runs = (self._messages.run(going_on, tick, now=now) for tick in plan.ticks)
        return Complete(follow_ups=(*runs, self._messages.ticker(plan.ticker, delay_s=plan.delay_s)))

    def _may_decide(self, own: ScheduleDefinition | None) -> bool:
        return own is not None or self._is_complete or bool(self._definitions)

    async def _ended(self, name: str) -> None:
        logger.warning("schedule %r has ended: the code does not have it any more", name)
        await check_keeps_schedules(self._driver).cancel([note("name", name).id])
