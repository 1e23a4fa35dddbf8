"""The worker: reserves what it can run now, runs it, settles in batches. What to do is decided in the kernel."""

import asyncio
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import replace

from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.attempt import AttemptRunner, Fate, Held
from asynctasq.core.completion import Completer
from asynctasq.core.queue_order import parse_queues
from asynctasq.core.reconnect import Outage
from asynctasq.core.runtime import ProductionRuntime, Runtime, WorkerSettings
from asynctasq.core.shutdown import StopRequest
from asynctasq.core.task_factory import Builder
from asynctasq.core.waiting import Watch
from asynctasq.drivers.base import Driver
from asynctasq.errors import DriverError
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Bury, Complete, Lease, Release, Settlement
from asynctasq.tasks.options import whole_number

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

CANCEL_S_MAX = 5.0
"""How long an interrupted attempt may take to end, in seconds."""


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
        self.settings = _with_pool(settings, process_pool_size, process_pool_max_tasks_per_child)
        self._runtime = runtime or ProductionRuntime()
        self.queues = parse_queues(queues, self._runtime.rng)
        self._clock = self._runtime.clock
        keys = None if self.settings.signing_keys is None else SigningKeys(self.settings.signing_keys)
        limits = Limits(body_bytes_max=self.settings.body_bytes_max)
        builder = Builder(
            self.settings.application, keys=keys, limits=limits, load_in_another_loop=self._runtime.load_in_another_loop
        )
        self._lanes = self._runtime.lanes(self.settings, builder, threads=self.concurrency)
        self._keeper = self._runtime.keeper(queue_driver, self.settings)
        self._runner = AttemptRunner(
            builder,
            self._lanes,
            environment=self._runtime,
            hook_timeout_s=self.settings.hook_timeout_s,
            completions=Completer(
                queue_driver, self._keeper, builder, clock=self._clock, lease_s=self.settings.lease_s
            ),
        )
        self._held: dict[str, Held] = {}
        self._finished: list[tuple[Lease, Settlement]] = []
        self._taken = 0
        self._look = True
        self._stop = StopRequest()

    @property
    def name(self) -> str:
        """Host, process and a random part, as it appears in logs."""
        return self._runtime.name

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits to be settled."""
        return not self._held and not self._finished

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run until stopped (a signal, `stop`, `max_tasks`, or burst and nothing left), then drain.

        Raises: DriverError if the backend can't be used, or stayed away for `broker_timeout_s`.
        """
        self._news = asyncio.Event()
        self._look, self._taken = True, 0
        self._stop.on_change(self._news.set)
        self._outage = Outage(
            str(self.driver),
            timeout_s=self.settings.broker_timeout_s,
            clock=self._clock,
            rng=self._runtime.rng,
            stop=self._stop,
        )
        self._watch = Watch(
            self.driver,
            self.queues,
            wait_s=self._runtime.wait_s,
            lease_s=self.settings.lease_s,
            clock=self._clock,
            news=self._news,
        )
        await self.driver.open()
        self._keeper.start(self._on_lost)
        with self._stop.on_signals() if self.settings.handle_signals else nullcontext():
            try:
                await self._pump()
                await self._drain()
            except BaseException:
                self._abandon()
                raise
            finally:
                await self._close()

    def stop(self, *, immediate: bool = False) -> None:
        """Ask the worker to drain; asked again, or with `immediate`, to hand everything back at once."""
        self._stop.ask(immediate=immediate)

    async def _close(self) -> None:
        await self._watch.stop()
        await self._keeper.stop()
        await self._lanes.stop_processes()
        self._lanes.close()
        await self.driver.close()
        self._stop = StopRequest()  # for the next start
        self._note_worker(Kind.STOPPED)

    # -- the loop ----------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while not self._stop.requested:
            room = self._room()
            if self._finished or (room and self._look):
                await self._turn(room)
            elif self._nothing_left(room):
                return
            else:
                if room:
                    self._watch.start(room)
                await self._hear_news()

    def _room(self) -> int:
        """Return how many messages may be reserved now."""
        room = self.concurrency - len(self._held) - self._watch.promised
        if self.max_tasks is not None:
            room = min(room, self.max_tasks - self._taken - self._watch.promised)
        return max(0, room)

    def _nothing_left(self, room: int) -> bool:
        if self._held:
            return False
        done = self.max_tasks is not None and self._taken >= self.max_tasks
        return done or (self.settings.burst and room > 0)

    async def _turn(self, room: int) -> None:
        """Settle what has ended and take what there is room for, in one round trip."""
        settlements, self._finished = self._finished, []
        asked_at, asked_now = self._clock.monotonic(), self._clock.now()
        try:
            lost, leases = await self.driver.turn(
                settlements, self.queues.next(), limit=room, lease_s=self.settings.lease_s
            )
        except DriverError as error:
            self._finished[:0] = settlements  # settling twice is safe, forgetting is not
            await self._outage.wait(error)
            return
        self._outage.over()
        self._note_settled(settlements, lost, asked_now)
        if room:
            self._look = len(leases) >= room
        self._take(leases, asked_at, asked_now)

    async def _hear_news(self) -> None:
        await self._news.wait()
        self._news.clear()
        found = self._watch.collect()
        if found.error is not None:
            await self._outage.wait(found.error)
        elif found.answered:
            self._outage.over()
            self._look = self._look or found.seen
        self._take(found.leases, found.asked_at, self._clock.now())

    # -- attempts ----------------------------------------------------------------------------------

    def _take(self, leases: Sequence[Lease], asked_at: float, asked_now: float) -> None:
        """Start an attempt for each lease. Its deadline counts from before the request: the grant was later."""
        if not leases:
            return
        loop = asyncio.get_running_loop()
        if self._finished:
            self._forget_stale(leases)
        for lease in leases:
            if (earlier := self._held.get(lease.message_id)) is not None:
                self._lose(earlier)  # its own lease ran out, and this worker was the next to reserve
            held = Held(lease, asked_at + self.settings.lease_s)
            self._taken += 1
            self._held[lease.message_id] = held
            self._keeper.hold(held)
            self._note(held, Kind.RESERVED, due_at=asked_now + self.settings.lease_s)
            held.task = loop.create_task(self._attempt(held), name=lease.message_id)

    def _forget_stale(self, leases: Sequence[Lease]) -> None:
        """Drop what is still to be settled of messages that have been reserved anew: those tokens are void."""
        anew = {lease.message_id for lease in leases}
        ended, self._finished = self._finished, []
        for lease, settlement in ended:
            if lease.message_id not in anew:
                self._finished.append((lease, settlement))
            elif self._runtime.record is not None:
                self._runtime.record(self._entry(lease, Kind.LOST, describe(settlement)))

    async def _attempt(self, held: Held) -> None:
        held.begun = True
        settlement: Settlement | None = None
        try:
            settlement = await self._runner.run(held)
        except asyncio.CancelledError:
            if held.fate is None:  # not by this worker: its own loop is being torn down
                raise
        except Exception:
            logger.exception("attempt of message %s broke; this is a bug of asynctasq", held.lease.message_id)
            settlement = Release(delay_s=self.settings.lease_s, counted=True)
        finally:
            self._end(held, settlement)

    def _end(self, held: Held, settlement: Settlement | None) -> None:
        self._keeper.drop(held)
        if self._held.get(held.lease.message_id) is held:
            del self._held[held.lease.message_id]
        if held.settled_in is False:
            logger.warning("message %s was no longer ours when complete_in was to settle it", held.lease.message_id)
            self._note(held, Kind.LOST)
        elif held.settled_in and isinstance(settlement, Complete):
            self._note_settled([(held.lease, settlement)], frozenset(), self._clock.now())
        elif held.fate != Fate.LOST:
            self._finished.append((held.lease, settlement or Release(counted=False)))
        self._news.set()

    def _cancel(self, held: Held) -> None:
        """Cancel an attempt; one that has not begun never runs, not even its `finally`, and ends here."""
        if held.task is not None:
            held.task.cancel()
            if not held.begun:
                self._end(held, None)

    def _on_lost(self, lost: Sequence[Held]) -> None:
        for held in lost:
            if self._held.get(held.lease.message_id) is held:  # it may have ended, or been taken anew, meanwhile
                self._lose(held)

    def _lose(self, held: Held) -> None:
        if held.fate is None:
            held.fate = Fate.LOST
            logger.warning(
                "lease of %s (message %s) is lost; its attempt is cancelled", held.name, held.lease.message_id
            )
            self._note(held, Kind.LOST)
            self._cancel(held)

    # -- the end -----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let what runs end in time, hand the rest back, settle all of it."""
        await self._watch.stop()
        self._take_back(self._watch.collect().leases)
        deadline = self._clock.monotonic() + self.settings.shutdown_timeout_s
        while self._held and not self._stop.immediate and self._clock.monotonic() < deadline:
            if self._finished:
                await self._turn(0)
            elif not await self._hear_news_until(deadline):
                break
        await self._interrupt()
        while self._finished and not (self._stop.immediate and self._outage.ongoing):
            await self._turn(0)

    def _take_back(self, leases: Sequence[Lease]) -> None:
        self._finished += [(lease, Release(counted=False)) for lease in leases]

    async def _hear_news_until(self, deadline: float) -> bool:
        """Return whether there was any; the timer decides, since the clock may show an instant less than `deadline`."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def _abandon(self) -> None:
        """Cancel what runs, as this worker's doing: that the worker ends is no failure of a task."""
        for held in list(self._held.values()):
            held.fate = held.fate or Fate.INTERRUPTED
            self._cancel(held)

    async def _interrupt(self) -> None:
        """Cancel what still runs; children are dead before their messages become visible to others."""
        rest = [held for held in self._held.values() if held.task is not None]
        if not rest:
            return
        logger.warning("%d attempts are interrupted and handed back", len(rest))
        for held in rest:
            held.fate = held.fate or Fate.INTERRUPTED
        await self._lanes.stop_processes()
        for held in rest:
            self._cancel(held)
        await asyncio.wait([held.task for held in rest if held.task is not None], timeout=CANCEL_S_MAX)
        for held in self._held.values():
            logger.error(
                "%s (message %s) ignores its cancellation; its lease runs out", held.name, held.lease.message_id
            )

    # -- the ledger --------------------------------------------------------------------------------

    def _note_settled(
        self, settlements: Sequence[tuple[Lease, Settlement]], lost: AbstractSet[str], asked_now: float
    ) -> None:
        for lease, settlement in settlements:
            if lease.message_id in lost:
                logger.warning("message %s was no longer ours when its attempt ended", lease.message_id)
            if self._runtime.record is not None:
                kind = Kind.LOST if lease.message_id in lost else Kind.SETTLED
                due_at = asked_now + settlement.delay_s if isinstance(settlement, Release) else 0.0
                self._runtime.record(self._entry(lease, kind, describe(settlement), due_at))

    def _note(self, held: Held, kind: Kind, *, due_at: float = 0.0) -> None:
        if self._runtime.record is not None:
            self._runtime.record(self._entry(held.lease, kind, due_at=due_at))

    def _note_worker(self, kind: Kind) -> None:
        if self._runtime.record is not None:
            self._runtime.record(Entry(at=self._clock.now(), kind=kind, worker=self.name))

    def _entry(self, lease: Lease, kind: Kind, detail: str = "", due_at: float = 0.0) -> Entry:
        now = self._clock.now()
        return Entry(now, kind, lease.message_id, self._runtime.name, lease.attempt, lease.token, detail, due_at)


def _with_pool(settings: WorkerSettings | None, size: int | None, max_tasks_per_child: int | None) -> WorkerSettings:
    settings = settings or WorkerSettings()
    if size is not None:
        settings = replace(settings, process_pool_size=whole_number(size, "process_pool_size", least=1))
    if max_tasks_per_child is not None:
        count = whole_number(max_tasks_per_child, "process_pool_max_tasks_per_child", least=1)
        settings = replace(settings, process_pool_max_tasks_per_child=count)
    return settings


def describe(settlement: Settlement) -> str:
    """Name a settlement as the ledger does."""
    match settlement:
        case Complete():
            return "complete"
        case Bury():
            return f"bury: {settlement.reason.value}"
        case Release(counted=True):
            return "retry"
        case Release(crashed=True):
            return "crash"
        case Release(delay_s=0):
            return "hand back"
        case Release():
            return "snooze"
