"""The worker: reserves messages, runs their attempts, settles them in batches. The kernel decides how."""

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from asynctasq.core.cancellation import CancellationListener
from asynctasq.core.cancelled_attempts import LateCancellations, cancel_on_request
from asynctasq.core.exception_codec import log_error
from asynctasq.core.in_flight import CancelReason, InFlightAttempt
from asynctasq.core.lifespans import LifespanRun
from asynctasq.core.limit_tokens import HeldToken
from asynctasq.core.paused_queues import OpenQueues
from asynctasq.core.queue_order import parse_queues
from asynctasq.core.reconnect import ReconnectBackoff
from asynctasq.core.runtime import ProductionRuntime, Runtime, WorkerSettings
from asynctasq.core.settling import Refusal, is_refusal, settle_apart, unsettled_error
from asynctasq.core.shutdown import StopRequest, on_stop_signals
from asynctasq.core.waiting import WorkWaiter
from asynctasq.core.worker_ledger import WorkerLedger
from asynctasq.core.worker_parts import attempt_runner_of, limited_attempts_of, task_factory_of, tickers_of
from asynctasq.core.worker_register import WorkerRegistration
from asynctasq.drivers.base import Driver
from asynctasq.errors import DispatchError, DriverError
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.messages import HOLDER_CHARS_MAX, Complete, Lease, Release, Settlement
from asynctasq.logs import get_logger, worker_name
from asynctasq.tasks.options import whole_number

__all__ = ["Worker"]

logger = get_logger(__name__)

CANCEL_SHARE = 2 / 3
"""How much of `end_timeout_s` a cancelled attempt may take to end when the worker stops."""
CALL_SHARE = 1 / 4
"""How much of it a call to the driver may take that is in progress when running attempts are interrupted."""
CLOSE_SHARE = 3 / 4
"""When closing is cut short, as a share of it: what ignores that is cut again, and a process needs time to end."""
CLOSE_S_MIN = 0.1
"""What each step of closing may take when all of that time was used; then connections are dropped."""


class Worker:
    """Runs the tasks of some queues until it is stopped.

    `queues` are strict by order, or weighted (`"a:3,b:1"`). At most `concurrency` attempts run at once;
    the worker ends after `max_tasks` of them. `process_pool_size` children (default: one per processor) start
    when a process task needs one and are replaced after `process_pool_max_tasks_per_child` tasks (default: never).
    """

    def __init__(  # noqa: PLR0913 - the guide's signature
        self,
        queue_driver: Driver,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        *,
        process_pool_size: int | None = None,
        process_pool_max_tasks_per_child: int | None = None,
        max_tasks: int | None = None,
        settings: WorkerSettings | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.driver = queue_driver
        self.concurrency = whole_number(concurrency, "concurrency", least=1)
        self.max_tasks = None if max_tasks is None else whole_number(max_tasks, "max_tasks", least=1)
        settings = (settings or WorkerSettings()).with_pool(process_pool_size, process_pool_max_tasks_per_child)
        self.settings = settings.of_application()
        self._runtime = runtime or ProductionRuntime()
        self.queues = parse_queues(queues, self._runtime.rng)
        self._clock = self._runtime.clock
        task_factory = task_factory_of(self.settings, self._runtime)
        self._lanes = self._runtime.lanes(self.settings, task_factory, threads=self.concurrency)
        self._renewer = self._runtime.renewer(queue_driver, self.settings)
        self._tickers = tickers_of(queue_driver, self.settings, worker=self.name)
        self._ledger = WorkerLedger(self._runtime)
        self._limits = limited_attempts_of(
            queue_driver,
            self.settings,
            self._runtime,
            renewer=self._renewer,
            settle_later=self._settle_later,
            on_lost=self._on_token_lost,
            on_line=self._wait_anew,
        )
        self._lines = self._limits.lines
        self._runner = attempt_runner_of(
            queue_driver,
            self.settings,
            self._runtime,
            task_factory=task_factory,
            lanes=self._lanes,
            renewer=self._renewer,
            tickers=self._tickers,
            limits=self._limits,
            on_progress=None if self._runtime.record is None else self._ledger.progress,
        )
        self._registration: WorkerRegistration | None = None
        self._listener = CancellationListener(queue_driver, wait_s=self._runtime.wait_s)
        self._news_at = -math.inf
        self._lifespans = LifespanRun(self.settings.lifespans or ())
        self._in_flight: dict[str, InFlightAttempt] = {}
        self._to_settle: list[tuple[Lease, Settlement]] = []
        self._started = 0
        self._may_have_work = True
        self._not_serving = "the worker has not started"
        self._stop = self._new_stop_request()

    def _new_stop_request(self) -> StopRequest:
        return StopRequest(clock=self._clock, timeout_s=self.settings.shutdown_timeout_s)

    @property
    def name(self) -> str:
        """Host, process and a random part, as it appears in logs."""
        return self._runtime.name

    @property
    def idle(self) -> bool:
        """Whether nothing runs, not even the start or end of a lifespan, and nothing waits to be settled."""
        return not self._in_flight and not self._to_settle and not self._lifespans.at_work

    @property
    def obstacle(self) -> str:
        """Why the worker takes no tasks; empty while it takes them. To be read from any thread."""
        if self._stop.requested:
            return "the worker stops"
        if self._not_serving:
            return self._not_serving
        return f"{self.driver} can't be reached" if self._reconnect.active else ""

    @property
    def stopping(self) -> bool:
        """Whether it has been requested to stop. To be read from any thread."""
        return self._stop.requested

    @property
    def running(self) -> int:
        """How many attempts it has at work. To be read from any thread."""
        return len(self._in_flight)

    @property
    def loop_blocked_s(self) -> float:
        """For how many seconds the worker's event loop has not run. To be read from any thread."""
        return self._renewer.loop_blocked_s

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run until stopped (a signal, `stop`, `max_tasks`, or burst and nothing left), then drain.

        Whatever the backend does, it ends `shutdown_timeout_s` + `end_timeout_s` after the request to stop.

        Raises: DriverError if the backend can't be used, stayed away for `broker_timeout_s`, or could not be told in
        time how the last attempts ended; LifespanError if a lifespan of the application could not be entered.
        """
        self.driver.holder = self.name.encode("ascii", "replace").decode()[:HOLDER_CHARS_MAX]
        worker_name.set(self.name)
        self._not_serving = "the worker starts"
        self._wake_up = asyncio.Event()
        self._late = LateCancellations(self._runner.cancelled_attempts, self._in_flight, self._end_late)
        self._may_have_work, self._started = True, 0
        self._lines.forget()
        self._stop.on_change(self._wake_up.set)
        self._reconnect = ReconnectBackoff(
            str(self.driver),
            timeout_s=self.settings.broker_timeout_s,
            clock=self._clock,
            rng=self._runtime.rng,
            stop=self._stop,
        )
        self._open = OpenQueues(self.driver, self.queues, check_s=self.settings.pause_check_s, clock=self._clock)
        self._waiter = WorkWaiter(
            self.driver,
            self._open,
            wait_s=self._runtime.wait_s,
            lease_s=self.settings.lease_s,
            clock=self._clock,
            wake_up=self._wake_up,
        )
        self._waiter.token_queues = self._lines.token_queues
        with on_stop_signals(self._stop.request) if self.settings.handle_signals else nullcontext():
            try:
                await self._run()
            except BaseException:
                self._cancel_all()
                raise
            finally:
                await self._close()

    async def _run(self) -> None:
        stop, end_s = self._stop, self.settings.end_timeout_s
        async with stop.cancelling(lambda: stop.requested_at):
            await self.driver.open()
            await self._lifespans.enter(self.settings.lifespan_start_s)
        self._tickers.start()
        if self.settings.registers:
            self._registration = WorkerRegistration(
                self.driver, self.name, queues=self.queues.names, concurrency=self.concurrency, clock=self._clock
            )
            self._registration.start()
        self._renewer.start(self._on_lost)
        self._listener.start(self._on_news, name=self.name)
        self._not_serving = ""
        async with stop.cancelling(lambda: stop.deadline + end_s * CALL_SHARE):
            await self._run_until_stop()
            await self._drain()
        async with stop.cancelling(lambda: stop.deadline + end_s):
            await self._hand_back_rest()
        if self._to_settle:
            raise unsettled_error(str(self.driver), self._to_settle, lease_s=self.settings.lease_s)

    def stop(self, *, immediate: bool = False) -> None:
        """Request the worker to drain; a second time, or with `immediate`, to hand everything back at once."""
        self._stop.request(immediate=immediate)

    async def _close(self) -> None:
        self._not_serving = "the worker has ended"
        if self._lifespans.entered:
            await self._leave_lifespans()
        await self._lanes.stop_processes()
        self._lanes.close()
        self._waiter.cancel()  # both at once: what they wait for may need its time to end
        self._listener.cancel()
        async with self._closing():
            await self._renewer.stop()
            await self._tickers.stop()
            if self._registration is not None:
                await self._registration.stop()
        async with self._closing():
            await self.driver.close()
            await self._waiter.stop()
            await self._listener.stop()
        self._stop = self._new_stop_request()  # for the next start
        self._ledger.stopped()

    def _closing(self) -> AbstractAsyncContextManager[None]:
        return self._stop.ending(self.settings.end_timeout_s * CLOSE_SHARE, least_s=CLOSE_S_MIN)

    async def _leave_lifespans(self) -> None:
        """Leave them when the last attempt has ended, those of idle children first, while there is time to stop."""
        end_s = self.settings.end_timeout_s
        await self._wait_for_cancelled()
        async with self._stop.ending(end_s / 2, least_s=CLOSE_S_MIN):
            await self._lanes.end_idle_processes()
        async with self._stop.ending(end_s, least_s=CLOSE_S_MIN):
            await self._lifespans.leave()

    # -- the loop ----------------------------------------------------------------------------------

    async def _run_until_stop(self) -> None:
        while not self._stop.requested:
            if self._lines.known and self._lines.is_due() and (free := self._free_slots()):
                await self._start_waiting(free)
            free = self._free_slots()
            if self._to_settle or (free and self._may_have_work):
                await self._turn(free)
            elif self._is_done(free):
                return
            else:
                if free:
                    self._waiter.start(free)
                await self._handle_wake_up()

    def _free_slots(self) -> int:
        """Return how many messages may be reserved now."""
        free = self.concurrency - len(self._in_flight) - self._waiter.leases_max
        if self.max_tasks is not None:
            free = min(free, self.max_tasks - self._started - self._waiter.leases_max)
        return max(0, free)

    def _is_done(self, free: int) -> bool:
        if self._in_flight:
            return False
        done = self.max_tasks is not None and self._started >= self.max_tasks
        return done or (self.settings.burst and free > 0)

    async def _turn(self, limit: int) -> None:
        """Settle the attempts that have ended and reserve up to `limit` messages, in one round trip."""
        settlements, self._to_settle = self._to_settle, []
        asked_at, asked_now = self._clock.monotonic(), self._clock.now()
        try:
            if limit:
                await self._open.look()
            queues = self._open.next()
            room = limit if queues else 0
            lost, leases = await self.driver.turn(settlements, queues, limit=room, lease_s=self.settings.lease_s)
        except asyncio.CancelledError:  # the time to stop is over
            self._to_settle[:0] = settlements  # settling twice is safe, not settling is not
            raise
        except (DriverError, DispatchError) as error:
            if settlements and (is_refusal(error) or self._reconnect.is_check_due):
                await self._settle_apart(settlements, error, asked_now)
            elif isinstance(error, DriverError):
                self._to_settle[:0] = settlements
                await self._reconnect.wait(error)
            else:
                raise
            return
        self._reconnect.reset()
        self._ledger.settled(settlements, lost, asked_now)
        if lost and not self._stop.requested:
            self._late.check(settlements, lost)
        if self._lines.beginning:
            self._started -= self._lines.settled(settlements)
        if limit:
            self._may_have_work = 0 < room <= len(leases)
        self._start_attempts(leases, asked_at, asked_now)

    async def _settle_apart(
        self, settlements: Sequence[tuple[Lease, Settlement]], error: Refusal, asked_now: float
    ) -> None:
        """Settle one by one, so that a settlement that the backend refuses keeps no other from being settled."""
        try:
            done = await settle_apart(self.driver, settlements, error, lease_s=self.settings.lease_s)
        except asyncio.CancelledError:
            self._to_settle[:0] = settlements
            raise
        self._ledger.settled(done.settled, done.lost, asked_now)
        if done.lost and not self._stop.requested:
            self._late.check(done.settled, done.lost)
        self._started -= self._lines.settled(done.settled)
        self._to_settle[:0] = done.left
        if done.error is not None:
            await self._reconnect.wait(done.error)
        else:
            self._reconnect.reset()

    async def _handle_wake_up(self) -> None:
        await self._wake_up.wait()
        self._wake_up.clear()
        result = self._waiter.collect()
        if result.error is not None:
            await self._reconnect.wait(result.error)
            self._may_have_work = True  # a call that answers at once shows whether the backend is back
        elif result.answered:
            self._reconnect.reset()
            self._may_have_work = self._may_have_work or result.work_visible
            self._lines.woken = self._lines.woken or result.work_visible
        self._start_attempts(result.leases, result.asked_at, self._clock.now())

    async def _start_waiting(self, limit: int) -> None:
        """Start up to `limit` attempts of messages that have waited for a token."""
        asked_at, asked_now = self._clock.monotonic(), self._clock.now()
        try:
            leases = await self._lines.start_waiting(limit)
        except DriverError as error:
            await self._reconnect.wait(error)
        else:
            self._reconnect.reset()
            self._start_attempts(leases, asked_at, asked_now)

    def _wait_anew(self) -> None:
        self._waiter.interrupt()

    def _settle_later(self, lease: Lease, settlement: Settlement) -> None:
        self._to_settle.append((lease, settlement))
        self._wake_up.set()

    # -- attempts ----------------------------------------------------------------------------------

    def _start_attempts(self, leases: Sequence[Lease], asked_at: float, asked_now: float) -> None:
        """Start an attempt for each lease. Its deadline counts from before the request, so it is never late."""
        if not leases:
            return
        loop = asyncio.get_running_loop()
        if self._to_settle:
            self._to_settle = self._ledger.without_stale(self._to_settle, leases)
        for lease in leases:
            if (earlier := self._in_flight.get(lease.message_id)) is not None:
                self._cancel_lost(earlier)  # its own lease ran out, and this worker was the next to reserve
            attempt = InFlightAttempt(lease, asked_at + self.settings.lease_s)
            self._started += 1
            self._in_flight[lease.message_id] = attempt
            self._renewer.add(attempt)
            self._ledger.attempt(attempt, Kind.RESERVED, due_at=asked_now + self.settings.lease_s)
            attempt.asyncio_task = loop.create_task(self._run_attempt(attempt), name=lease.message_id)
        if asked_at <= self._news_at:  # it may have been cancelled before its lease was here
            self._renewer.renew_all()

    async def _run_attempt(self, attempt: InFlightAttempt) -> None:
        attempt.begun = True
        settlement: Settlement | None = None
        try:
            settlement = await self._runner.run(attempt)
        except asyncio.CancelledError as error:
            if attempt.cancel_reason is None:  # by user code, or because the event loop is being closed
                settlement = self._runner.settle_broken(attempt, error, delay_s=self.settings.lease_s)
                raise
        except BaseException as error:  # noqa: BLE001 - a SystemExit that leaves this asyncio task stops the loop
            if attempt.cancel_reason is None:
                text = f"the attempt of message {attempt.lease.message_id} could not be run to its end"
                log_error(logger, logging.ERROR, f"{text}; this is a bug of asynctasq", error)
                settlement = self._runner.settle_broken(attempt, error, delay_s=self.settings.lease_s)
        finally:
            self._end_attempt(attempt, settlement)

    def _end_attempt(self, attempt: InFlightAttempt, settlement: Settlement | None) -> None:
        self._renewer.remove(attempt)
        if self._lines.given:
            self._limits.end(attempt)
        if attempt.overdue is not None:
            attempt.overdue.cancel()
        if self._in_flight.get(attempt.lease.message_id) is attempt:
            del self._in_flight[attempt.lease.message_id]
        if attempt.settled_in_transaction is False:
            logger.warning("the lease of %s was lost before complete_in could settle it", attempt)
            self._ledger.attempt(attempt, Kind.LOST)
        elif attempt.settled_in_transaction and isinstance(settlement, Complete):
            self._ledger.settled([(attempt.lease, settlement)], frozenset(), self._clock.now())
        elif attempt.cancel_reason is CancelReason.CANCELLED:
            self._ledger.attempt(attempt, Kind.CANCELLED)
        elif attempt.cancel_reason is not CancelReason.LEASE_LOST:
            self._to_settle.append((attempt.lease, settlement or Release(counted=False)))
        attempt.forget_what_ran()
        self._wake_up.set()

    def _end_late(self, attempt: InFlightAttempt) -> None:
        if attempt.cancel_reason is CancelReason.CANCELLED:
            self._ledger.attempt(attempt, Kind.CANCELLED)
        self._wake_up.set()

    def _cancel(self, attempt: InFlightAttempt) -> None:
        """Cancel an attempt; one that has not begun never runs, not even its `finally`, and ends here."""
        if attempt.asyncio_task is not None:
            attempt.asyncio_task.cancel()
            if not attempt.begun:
                self._end_attempt(attempt, None)

    def _on_lost(self, lost: Sequence[InFlightAttempt]) -> None:
        for attempt in lost:
            if isinstance(attempt, HeldToken):
                self._on_token_lost(attempt)
            # It may have ended meanwhile, and its message may have been reserved again.
            elif self._in_flight.get(attempt.lease.message_id) is attempt:
                self._cancel_lost(attempt)

    def _on_token_lost(self, token: HeldToken) -> None:
        """Hand back an attempt that has lost a token: as many others as its limit allows may run now."""
        token.cancel_reason = CancelReason.LIMIT_LOST  # an attempt that is only about to start looks at that
        holder = token.holder
        if holder is not None and not holder.is_cancelled and self._in_flight.get(holder.lease.message_id) is holder:
            holder.cancel_reason = CancelReason.LIMIT_LOST
            logger.warning("%s is lost; %s is cancelled and handed back", token, holder)
            self._cancel(holder)

    def _cancel_lost(self, attempt: InFlightAttempt) -> None:
        if attempt.cancel_reason is not None:
            return
        if attempt.found_cancelled:
            cancel_on_request(attempt, self._cancel, limit_s=self.settings.abandon_s)
            return
        attempt.cancel_reason = CancelReason.LEASE_LOST
        logger.warning("the lease of %s is lost; the attempt is cancelled", attempt)
        self._ledger.attempt(attempt, Kind.LOST)
        self._cancel(attempt)

    def _on_news(self) -> None:
        """Find out what was cancelled; what a call under way may bring is looked at when it is there."""
        self._news_at = self._clock.monotonic()
        self._renewer.renew_all()

    # -- the end -----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let running attempts end within the time limit, and settle them."""
        await self._waiter.stop()
        self._hand_back(self._waiter.collect().leases)
        while self._in_flight and not self._stop.immediate and self._clock.monotonic() < self._stop.deadline:
            if self._to_settle:
                await self._turn(0)
            elif not await self._wait_for_wake_up(self._stop.deadline):
                break

    async def _hand_back_rest(self) -> None:
        """Interrupt what still runs, hand it back, and settle all that has ended."""
        await self._interrupt()
        while self._to_settle and not (self._stop.immediate and self._reconnect.active):
            await self._turn(0)

    def _hand_back(self, leases: Sequence[Lease]) -> None:
        self._to_settle += [(lease, Release(counted=False)) for lease in leases]

    async def _wait_for_wake_up(self, deadline: float) -> bool:
        """Return whether the worker was woken before `deadline`, by a timer: the clock may show an instant before."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._wake_up.wait()
        except TimeoutError:
            return False
        self._wake_up.clear()
        return True

    def _cancel_all(self) -> None:
        """Cancel all attempts because the worker stops, so that none counts as a failure of its task."""
        for attempt in list(self._in_flight.values()):
            attempt.cancel_reason = attempt.cancel_reason or CancelReason.WORKER_STOPS
            self._cancel(attempt)

    async def _wait_for_cancelled(self) -> None:
        tasks = [attempt.asyncio_task for attempt in self._in_flight.values() if attempt.asyncio_task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self.settings.end_timeout_s * CANCEL_SHARE)

    async def _interrupt(self) -> None:
        """Cancel the attempts that still run; children are dead before their messages become visible to others."""
        if not self._in_flight:
            return
        logger.warning("%d attempts are interrupted and handed back", len(self._in_flight))
        for attempt in self._in_flight.values():
            attempt.cancel_reason = attempt.cancel_reason or CancelReason.WORKER_STOPS
        await self._lanes.interrupt_processes()
        self._cancel_all()
        await self._wait_for_cancelled()
        for attempt in self._in_flight.values():
            logger.error("%s ignores its cancellation; its lease runs out", attempt)
