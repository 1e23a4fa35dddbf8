"""The worker on the memory driver with a real clock: limits, queues, threads, blocked loops, lost leases, outages."""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import pytest

from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.leases import ThreadLeaseRenewer
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.ledger import Entry, Kind
from asynctasq.kernel.messages import Lease
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask, BaseTask, SyncTask
from asynctasq.tasks.application import Application
from tests.patience import SOON_S, until, wait_until

RAN: Counter[str] = Counter()
INSTANCES: list[weakref.ref[object]] = []
ORDER: list[str] = []
GO = threading.Event()
BLOCKED_S = 2.5


class Extends(MemoryDriver):
    """Counts renewals."""

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        RAN["extended"] += 1
        return await super().extend(leases, lease_s=lease_s)


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    RAN.clear()
    ORDER.clear()
    GO.clear()
    yield
    GO.set()
    wait_until(lambda: RAN["let go"] >= RAN["stuck"])  # a thread left by one test must not count in the next


class Note(AsyncTask[None]):
    def __init__(self, name: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.name = name

    async def execute(self) -> None:
        RAN[self.name] += 1
        ORDER.append(self.name)


class Blocks(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["blocks"] += 1
        time.sleep(BLOCKED_S)


class Waits(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["begun"] += 1
        try:
            await asyncio.sleep(600)
        finally:
            RAN["cancelled"] += 1


class Stuck(SyncTask[None]):
    max_attempts = 2
    retry_delay = 0
    timeout = 0.05

    def execute(self) -> None:
        RAN["stuck"] += 1
        RAN["at once"] = max(RAN["at once"], RAN["stuck"] - RAN["let go"])
        GO.wait(SOON_S)
        RAN["let go"] += 1


class Counting(MemoryDriver):
    """Counts turns, refuses some of them, and remembers what each settled."""

    def __init__(self, *, refuses: int = 0, error: type[Exception] = DriverUnavailable) -> None:
        super().__init__()
        self.refuses = refuses
        self.error = error
        self.settled: list[int] = []

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        if self.refuses:
            self.refuses -= 1
            raise self.error("not now")
        self.settled.append(len(settlements))
        return await super().turn(settlements, queues, limit=limit, lease_s=lease_s)


def worker_on(
    driver: MemoryDriver,
    *,
    queues: str = "default",
    concurrency: int = 10,
    max_tasks: int | None = None,
    settings: WorkerSettings | None = None,
    record: list[Entry] | None = None,
) -> Worker:
    settings = settings or settings_of(burst=True)
    runtime = ProductionRuntime(record=None if record is None else record.append)
    return Worker(driver, queues, concurrency, max_tasks=max_tasks, settings=settings, runtime=runtime)


def settings_of(
    *,
    burst: bool = False,
    lease_s: float = 30.0,
    shutdown_timeout_s: float = 30.0,
    abandon_s: float = 60.0,
    broker_timeout_s: float = 60.0,
) -> WorkerSettings:
    return WorkerSettings(
        application=Application(),
        handle_signals=False,
        burst=burst,
        lease_s=lease_s,
        shutdown_timeout_s=shutdown_timeout_s,
        abandon_s=abandon_s,
        broker_timeout_s=broker_timeout_s,
    )


async def dispatch(driver: MemoryDriver, *tasks: BaseTask[None]) -> None:
    await Queue(driver).dispatch(tasks)


async def ended(worker: Worker) -> None:
    async with asyncio.timeout(SOON_S):
        await worker.start()


async def until_ran(name: str, count: int = 1) -> None:
    await until(lambda: RAN[name] >= count, f"{name}: {count}")


async def test_max_tasks_is_a_limit_whatever_the_concurrency() -> None:
    driver = MemoryDriver()
    await dispatch(driver, *(Note("a") for _ in range(10)))

    await ended(worker_on(driver, concurrency=10, max_tasks=1, settings=settings_of()))

    assert RAN["a"] == 1
    assert (await driver.depth("default")).ready == 9


async def test_a_burst_ends_when_nothing_is_left() -> None:
    driver = MemoryDriver()
    await dispatch(driver, *(Note("a") for _ in range(25)))

    await ended(worker_on(driver))

    assert RAN["a"] == 25


async def test_queues_without_weights_are_served_strictly_in_order() -> None:
    driver = MemoryDriver()
    await dispatch(
        driver, *(Note("low").on_queue("low") for _ in range(5)), *(Note("high").on_queue("high") for _ in "12345")
    )

    await ended(worker_on(driver, queues="high,low", concurrency=1))

    assert ORDER == ["high"] * 5 + ["low"] * 5


async def test_queues_with_weights_get_their_share_and_none_starves() -> None:
    driver = MemoryDriver()
    await dispatch(driver, *(Note(name).on_queue(name) for name in "ab" for _ in range(300)))

    await ended(worker_on(driver, queues="a:3,b:1", concurrency=1, max_tasks=300))

    assert 25 < RAN["b"] < 150
    assert RAN["a"] > RAN["b"]


async def test_what_ends_in_one_tick_is_settled_in_one_turn() -> None:
    driver = Counting()
    await dispatch(driver, *(Note("a") for _ in range(10)))

    await ended(worker_on(driver))

    assert driver.settled[0] == 0
    assert max(driver.settled) == 10


async def test_a_blocked_loop_costs_no_lease_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    other = worker_on(driver, settings=settings_of(lease_s=1))
    await dispatch(driver, Blocks())
    rival = threading.Thread(target=lambda: asyncio.run(other.start()))
    worker = worker_on(driver, settings=settings_of(burst=True, lease_s=1))

    running = asyncio.create_task(worker.start())
    await until_ran("blocks")
    rival.start()
    await asyncio.wait_for(running, SOON_S)
    other.stop()
    await asyncio.to_thread(rival.join, SOON_S)

    assert RAN["blocks"] == 1
    assert "the event loop has not run for" in caplog.text
    assert f"{__name__}:Blocks" in caplog.text


async def test_a_worker_started_again_looks_again_and_renews_its_leases_again() -> None:
    driver = Extends()
    worker = worker_on(driver, max_tasks=1, settings=settings_of(burst=True, lease_s=1))
    await dispatch(driver, Note("a"))
    await ended(worker)
    await dispatch(driver, Blocks())

    await ended(worker)

    assert RAN["blocks"] == 1
    assert RAN["extended"] > 0


async def test_a_thread_past_its_limit_keeps_its_slot_and_its_retry_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = MemoryDriver()
    await dispatch(driver, Stuck())
    running = asyncio.create_task(worker_on(driver).start())
    await until(lambda: "it keeps its slot" in caplog.text)
    depth = await driver.depth("default")

    GO.set()
    await asyncio.wait_for(running, SOON_S)

    assert (depth.reserved, depth.ready, depth.dead) == (1, 0, 0)
    assert RAN["at once"] == 1
    assert RAN["stuck"] == 2


async def test_a_thread_that_never_ends_is_abandoned_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    await dispatch(driver, Stuck().with_options(max_attempts=1))

    await ended(worker_on(driver, concurrency=1, settings=settings_of(burst=True, abandon_s=0.05)))

    assert "its thread is abandoned" in caplog.text
    assert (await driver.depth("default")).dead == 1
    GO.set()


async def test_what_a_thread_may_still_run_is_handed_back_for_when_its_renewed_lease_would_end() -> None:
    driver, record = Extends(), list[Entry]()
    await dispatch(driver, Stuck())
    worker = worker_on(driver, settings=settings_of(lease_s=0.9), record=record)
    running = asyncio.create_task(worker.start())
    await until_ran("extended", 4)  # the lease as it was first granted is over

    worker.stop(immediate=True)
    await asyncio.wait_for(running, SOON_S)
    GO.set()

    [settled] = [entry for entry in record if entry.kind is Kind.SETTLED]
    assert settled.due_at > settled.at


async def test_a_lost_lease_cancels_the_attempt_and_drops_its_outcome() -> None:
    class Loses(MemoryDriver):
        async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
            return {lease.message_id for lease in leases}

    driver, record = Loses(), list[Entry]()
    await dispatch(driver, Waits())
    worker = worker_on(driver, settings=settings_of(lease_s=0.6), max_tasks=1, record=record)

    await ended(worker)

    assert RAN == {"begun": 1, "cancelled": 1}
    kinds = Counter(entry.kind for entry in record)
    assert (kinds[Kind.LOST], kinds[Kind.SETTLED]) == (1, 0)


async def test_a_loss_that_is_told_late_does_not_strike_the_lease_taken_since() -> None:
    class TellsLate(ThreadLeaseRenewer):
        def start(self, on_lost: Callable[[Sequence[InFlightAttempt]], None]) -> None:
            self.on_lost = on_lost
            self.held: list[InFlightAttempt] = []

        def add(self, attempt: InFlightAttempt) -> None:
            self.held.append(attempt)

        def remove(self, attempt: InFlightAttempt) -> None: ...

    driver, record = MemoryDriver(), list[Entry]()
    await dispatch(driver, Waits())
    worker = worker_on(driver, settings=settings_of(lease_s=1.0), record=record)
    renewer = worker._renewer = TellsLate(driver, lease_s=1.0, clock=worker._clock)
    running = asyncio.create_task(worker.start())
    await until_ran("begun", 2)

    renewer.on_lost(renewer.held[:1])

    worker.stop(immediate=True)
    await asyncio.wait_for(running, SOON_S)
    assert [entry.token for entry in record if entry.kind is Kind.LOST] == [renewer.held[0].lease.token]
    assert [entry.detail for entry in record if entry.kind is Kind.SETTLED] == ["hand back"]


async def test_a_stop_waits_then_cancels_and_hands_back_uncounted() -> None:
    driver = MemoryDriver()
    await dispatch(driver, Waits())
    worker = worker_on(driver, settings=settings_of(shutdown_timeout_s=0.1))
    running = asyncio.create_task(worker.start())
    await until_ran("begun")

    asked_at = time.monotonic()
    worker.stop()
    await asyncio.wait_for(running, SOON_S)

    assert time.monotonic() - asked_at >= 0.1
    assert RAN["cancelled"] == 1
    [message] = (await driver.list_messages("default")).messages
    assert (message.state.value, message.attempts, message.crashes) == ("ready", 0, 0)


async def test_an_outage_loses_nothing_and_is_logged_once_a_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    driver = Counting(refuses=3)
    await dispatch(driver, *(Note("a") for _ in range(5)))

    await ended(worker_on(driver))

    assert RAN["a"] == 5
    texts = [record.getMessage() for record in caplog.records if record.name == "asynctasq.core.reconnect"]
    assert ["can't be reached" in texts[0], "can be reached again after" in texts[1]] == [True, True]
    assert len(texts) == 2


async def test_an_outage_that_lasts_too_long_ends_the_worker() -> None:
    driver = Counting(refuses=1000)

    with pytest.raises(DriverUnavailable, match=r"could not be reached for 0\.3 s; last error: not now"):
        await ended(worker_on(driver, settings=settings_of(broker_timeout_s=0.3)))


async def test_two_failed_waits_with_good_ones_between_are_two_outages() -> None:
    class Hiccups(MemoryDriver):
        async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
            RAN["waits"] += 1
            if RAN["waits"] in (1, 6):
                raise DriverUnavailable("hiccup")
            await asyncio.sleep(0.3)
            return False

    worker = worker_on(Hiccups(), settings=settings_of(broker_timeout_s=1))
    running = asyncio.create_task(worker.start())

    await until_ran("waits", 8)

    worker.stop()
    await asyncio.wait_for(running, SOON_S)


async def test_a_backend_that_is_not_set_up_ends_the_worker_at_once() -> None:
    driver = Counting(refuses=1000, error=DriverMisconfigured)

    with pytest.raises(DriverMisconfigured, match="not now"):
        await ended(worker_on(driver))

    assert driver.refuses == 999


class Kept(AsyncTask[None]):
    """Notes its instances, which must go without the garbage collector."""

    async def execute(self) -> None:
        INSTANCES.append(weakref.ref(self))


class KeptInThread(SyncTask[None]):
    def execute(self) -> None:
        INSTANCES.append(weakref.ref(self))


class KeptAndFails(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        INSTANCES.append(weakref.ref(self))
        raise ValueError("no")


@pytest.mark.parametrize("task", [Kept, KeptInThread, KeptAndFails])
async def test_an_attempt_leaves_nothing_to_the_garbage_collector(
    task: type[AsyncTask[None] | SyncTask[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="asynctasq")  # a record keeps the frames of its exception
    INSTANCES.clear()
    driver = MemoryDriver()
    await dispatch(driver, *(task() for _ in range(20)))
    worker = worker_on(driver, settings=settings_of(burst=True))
    gc.collect()
    gc.disable()
    try:
        # In a loop of its own, which drops its cancelled timers at its end: they keep what was around them.
        await asyncio.to_thread(lambda: asyncio.run(worker.start()))
        assert len(INSTANCES) == 20
        assert [instance() for instance in INSTANCES if instance() is not None] == []
    finally:
        gc.enable()
