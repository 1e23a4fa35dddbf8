"""Limits in workers: never more than so many, and nobody who waits holds up others, or is lost."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from asynctasq import AsyncTask, SyncProcessTask, SyncTask, task
from asynctasq.codec.limited import encode_look
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.limit_tokens import check_keeps_limits
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import TaskExpiredError, UnsupportedFeature
from asynctasq.kernel.ledger import Kind
from asynctasq.kernel.limits import LimitRule, token_id
from asynctasq.kernel.messages import Lease, Message, State
from asynctasq.limits import ConcurrencyLimit, RateLimit
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import Middleware
from asynctasq.tasks.application import Application
from asynctasq.testing import FakeQueue
from asynctasq.testing.faults import Crash
from tests.patience import until

KEYS = {"2026": b"k" * 32}
RUNNING: Counter[str] = Counter()
MOST: Counter[str] = Counter()


class Charge(AsyncTask[None]):
    """Takes `s` seconds, and fails `fails` times."""

    tenant: str = "a"
    s: float = 1.0
    fails: int = 0
    retry_delay = 5
    limits = [ConcurrencyLimit("stripe:{self.tenant}", 2)]

    async def execute(self) -> None:
        name = f"{type(self).__name__} {self.tenant}"
        RUNNING[name] += 1
        MOST[name] = max(MOST[name], RUNNING[name])
        try:
            await asyncio.sleep(self.s)
            if self.attempt <= self.fails:
                raise ValueError("declined")
        finally:
            RUNNING[name] -= 1


class Call(AsyncTask[None]):
    s: float = 0.0
    limits = [RateLimit("api", 3, per=10)]

    async def execute(self) -> None:
        await asyncio.sleep(self.s)


class CallInThread(SyncTask[None]):
    limits = [RateLimit("api", 3, per=10)]

    def execute(self) -> None: ...


class CallInChild(SyncProcessTask[None]):
    limits = [RateLimit("api", 3, per=10)]

    def execute(self) -> None: ...


NOTED: list[float] = []
NOW: list[Callable[[], float]] = []


class Noted(AsyncTask[None]):
    limits = [RateLimit("api", 3, per=10)]

    async def execute(self) -> None:
        NOTED.append(NOW[-1]())


class NotedInThread(SyncTask[None]):
    limits = [RateLimit("api", 3, per=10)]

    def execute(self) -> None:
        NOTED.append(NOW[-1]())


class Both(Charge):
    limits = [RateLimit("api", 3, per=10), ConcurrencyLimit("stripe:{self.tenant}", 2)]


class OtherWayRound(Charge):
    limits = [ConcurrencyLimit("stripe:{self.tenant}", 2), RateLimit("api", 3, per=10)]


@task(limits=[ConcurrencyLimit("mail:{to}", 1)])
async def mail(to: str) -> None:
    await asyncio.sleep(1)


class Free(AsyncTask[None]):
    async def execute(self) -> None: ...


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RUNNING.clear()
    MOST.clear()


def starts(queue: FakeQueue, *tasks: str) -> list[float]:
    """Return at which virtual second each attempt of these tasks started."""
    opened_at = queue.ledger[0].at
    return [
        round(entry.at - opened_at, 3)
        for entry in queue.ledger
        if entry.kind is Kind.STARTED and (not tasks or entry.detail.partition(":")[2] in tasks)
    ]


def most_in_window(instants: Sequence[float], window_s: float) -> int:
    """Return the largest number of instants in any window that is open at its end."""
    return max(sum(first <= at < first + window_s - 1e-6 for at in instants) for first in instants)


def left_of_limits(queue: FakeQueue) -> list[str]:
    """Return what the store has of limits beside tokens and the note about them, by kind."""
    ids = [message_id for message_id in queue._engine.store._rows if message_id.startswith("limit:")]
    return [message_id.split(":")[1] for message_id in ids if message_id.split(":")[1] not in ("token", "note")]


# -- how many -------------------------------------------------------------------------------------


def test_no_window_has_more_starts_than_a_rate_limit_says() -> None:
    class Many(AsyncTask[None]):
        limits = [RateLimit("many", 100, per=60)]

        async def execute(self) -> None:
            await asyncio.sleep(0.01)

    with FakeQueue(workers=2) as queue:
        for _ in range(1000):
            Many().dispatch_sync()

        result = queue.run_until_idle_sync()

        assert result.succeeded == 1000
        assert most_in_window(starts(queue), 60) == 100
        assert 540 <= starts(queue)[-1] < 545, "and no window is left empty"
        assert left_of_limits(queue) in ([], ["look"])


def test_no_more_attempts_run_at_once_than_a_limit_says() -> None:
    with FakeQueue(workers=3, concurrency=4) as queue:
        for tenant in "ab" * 20:
            Charge(tenant=tenant).dispatch_sync()

        queue.run_until_idle_sync()

        assert MOST == {"Charge a": 2, "Charge b": 2}
        assert 10 <= queue.ledger[-1].at - queue.ledger[0].at < 60


def test_retries_are_starts_and_keep_their_count() -> None:
    with FakeQueue() as queue:
        for _ in range(3):
            Both(fails=2).dispatch_sync()

        queue.run_until_idle_sync()

        assert most_in_window(starts(queue), 10) == 3
        assert len(starts(queue)) == 9
        assert MOST["Both a"] == 2


@pytest.mark.parametrize("kind", [Call, CallInThread, CallInChild])
def test_every_kind_of_task_is_limited(kind: type[Any]) -> None:
    with FakeQueue() as queue:
        for _ in range(10):
            kind().dispatch_sync()

        queue.run_until_idle_sync()

        assert most_in_window(starts(queue), 10) == 3
        assert starts(queue)[-1] == 30.0


def test_a_long_attempt_does_not_keep_the_token_of_a_rate_limit() -> None:
    with FakeQueue(concurrency=20) as queue:
        for _ in range(9):
            Call(s=1000).dispatch_sync()

        queue.run_until_idle_sync()

        assert starts(queue) == [0, 0, 0, 10, 10, 10, 20, 20, 20]


def test_a_long_attempt_keeps_the_token_of_a_concurrency_limit() -> None:
    with FakeQueue(lease_s=6) as queue:
        for _ in range(4):
            Charge(s=500).dispatch_sync()

        queue.run_until_idle_sync()

        assert starts(queue)[2:] == [500, 500]


def test_two_limits_do_not_block_each_other() -> None:
    with FakeQueue(workers=2, concurrency=3) as queue:
        for _ in range(10):
            Both().dispatch_sync()
            OtherWayRound().dispatch_sync()

        queue.run_until_idle_sync()

        assert most_in_window(starts(queue), 10) == 3
        assert MOST["Both a"] <= 2
        assert len(starts(queue)) == 20
        assert starts(queue)[-1] < 120


class Slow(Middleware):
    """Takes up to eight seconds before the attempt begins."""

    def __init__(self) -> None:
        self.count = 0

    @asynccontextmanager
    async def attempting(self, context: Any) -> AsyncGenerator[None]:
        self.count += 1
        await asyncio.sleep(self.count * 3 % 9)
        yield


@pytest.mark.parametrize("kind", [Noted, NotedInThread])
def test_the_time_of_a_rate_limit_counts_from_the_start(kind: type[Any]) -> None:
    NOTED.clear()
    with FakeQueue(middleware=[Slow()]) as queue:
        NOW.append(queue.clock.monotonic)
        for _ in range(15):
            kind().dispatch_sync()

        queue.run_until_idle_sync()

    assert len(NOTED) == 15
    assert most_in_window(NOTED, 10) <= 3


def test_an_attempt_that_starts_very_late_renews_its_tokens_first() -> None:
    class VerySlow(Slow):
        @asynccontextmanager
        async def attempting(self, context: Any) -> AsyncGenerator[None]:
            await asyncio.sleep(20)
            yield

    NOTED.clear()
    with FakeQueue(middleware=[VerySlow()], lease_s=6) as queue:
        NOW.append(queue.clock.monotonic)
        for _ in range(6):
            Noted().dispatch_sync()

        queue.run_until_idle_sync()

    assert len(NOTED) == 6
    assert most_in_window(NOTED, 10) <= 3


def test_a_function_is_limited_by_its_parameters() -> None:
    with FakeQueue() as queue:
        for to in "aab":
            mail(to).dispatch_sync()

        queue.run_until_idle_sync()

        assert starts(queue) == [0, 0, 1]


# -- who waits ------------------------------------------------------------------------------------


def test_a_thousand_that_wait_delay_no_other_task() -> None:
    with FakeQueue(concurrency=3) as queue:
        for _ in range(1000):
            Charge(s=60).dispatch_sync()
        Free().dispatch_sync()

        queue.advance_sync(seconds=1)

        assert starts(queue, "Free") == [0]
        for _ in range(500):
            queue.advance_sync(seconds=60)
        assert len(starts(queue, "Charge")) == 1000


def test_who_waits_is_served_in_order() -> None:
    order: list[int] = []

    class Numbered(AsyncTask[None]):
        number: int
        limits = [ConcurrencyLimit("one", 1)]

        async def execute(self) -> None:
            order.append(self.number)
            await asyncio.sleep(1)

    with FakeQueue(workers=2) as queue:
        for number in range(50):
            Numbered(number=number).dispatch_sync()
        queue.run_until_idle_sync()

    assert order == sorted(order)


async def test_a_waiting_task_is_what_it_was_before() -> None:
    async with FakeQueue(queues="default,mail") as queue:
        await Charge(s=100).dispatch()
        await Charge(s=100).dispatch()
        waiting = await Charge(fails=1).on_queue("mail").dispatch()
        cancelled = await Charge().dispatch()
        await queue.advance(seconds=1)

        status = await waiting.status()
        assert (status.state, status.queue, status.attempts) == (State.SCHEDULED, "mail", 0)
        assert await queue.driver.cancel([cancelled]) == {cancelled}  # type: ignore[attr-defined]
        await queue.run_until_idle()

        ends = [entry.detail for entry in queue.ledger if entry.message_id == waiting and entry.kind is Kind.SETTLED]
        assert ends == ["wait", "retry", "complete"]
        assert len(starts(queue)) == 4


def test_who_waits_expires_when_it_should() -> None:
    seen: list[Exception] = []

    class Hurried(Charge):
        expires = 30

        def failed(self, exception: Exception) -> None:
            seen.append(exception)

    with FakeQueue() as queue:
        Charge(s=100).dispatch_sync()
        Charge(s=100).dispatch_sync()
        Hurried().dispatch_sync()

        queue.advance_sync(seconds=31)

        assert [type(error) for error in seen] == [TaskExpiredError]
        queue.run_until_idle_sync()
        assert len(starts(queue)) == 2


def test_a_worker_that_dies_gives_its_tokens_back_when_their_leases_end() -> None:
    with FakeQueue(concurrency=2, lease_s=30, faults=[Crash(at="mid_attempt", task=Charge)]) as queue:
        for _ in range(4):
            Charge(s=10).dispatch_sync()

        queue.run_until_idle_sync()

        [crashed_at] = [entry.at for entry in queue.ledger if entry.kind is Kind.CRASHED]
        after = [at for at in starts(queue) if at > crashed_at - queue.ledger[0].at]
        alone = [at for at in after if at < 30]
        assert all(later - earlier >= 10 for earlier, later in pairwise(alone)), "one token is away"
        assert after.count(30.0) == 2, "it is back"
        store = queue._engine.store
        tokens = [message_id for message_id in store._rows if message_id.startswith("limit:token")]
        assert len(tokens) == 2, "none is lost, none is doubled"


def test_a_rate_limit_holds_when_its_worker_dies() -> None:
    with FakeQueue(faults=[Crash(at="mid_attempt", task=Call) for _ in range(3)]) as queue:
        for _ in range(9):
            Call(s=1).dispatch_sync()

        queue.run_until_idle_sync()

        assert most_in_window(starts(queue), 10) == 3


def test_another_worker_learns_who_waits_when_the_one_that_knew_has_died() -> None:
    with FakeQueue(workers=2, concurrency=4, faults=[Crash(at="mid_attempt", task=Charge)]) as queue:
        for _ in range(10):
            Charge(s=20).dispatch_sync()

        queue.run_until_idle_sync()

        assert len({entry.worker for entry in queue.ledger if entry.kind is Kind.STARTED}) > 1
        assert starts(queue)[-1] < 10 * 20 / 2 + 60


# -- a worker in real time, on a driver that counts -----------------------------------------------


class Counts(MemoryDriver):
    """Counts its calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    async def reserve(self, queues: Sequence[str], **given: Any) -> list[Lease]:
        self.calls["reserve"] += 1
        return await super().reserve(queues, **given)

    async def turn(self, settlements: Any, queues: Sequence[str], **given: Any) -> Any:
        self.calls["turn"] += 1
        return await super().turn(settlements, queues, **given)

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        self.calls["enqueue"] += 1
        return await super().enqueue(messages)

    async def depth(self, queue: str) -> Any:
        self.calls["depth"] += 1
        return await super().depth(queue)

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        self.calls["reserve_released"] += 1
        return await super().reserve_released(leases, lease_s=lease_s)


GO = asyncio.Event()
ENDED: list[str] = []


class Waits(AsyncTask[None]):
    limits = [ConcurrencyLimit("waits", 1)]

    async def execute(self) -> None:
        await GO.wait()
        ENDED.append("ended")


@pytest.fixture
def _gate() -> None:
    global GO  # noqa: PLW0603 - an event belongs to one loop
    GO = asyncio.Event()
    ENDED.clear()


@asynccontextmanager
async def working(driver: MemoryDriver, **settings: Any) -> AsyncIterator[Worker]:
    given = WorkerSettings(handle_signals=False, application=Application(), schedules=(), **settings)
    worker = Worker(driver, settings=given, runtime=ProductionRuntime())
    running = asyncio.create_task(worker.start())
    try:
        yield worker
    finally:
        worker.stop(immediate=True)
        await running


@pytest.mark.usefixtures("_gate")
async def test_who_waits_costs_nothing_while_it_waits() -> None:
    driver = Counts()
    async with working(driver):
        await Queue(driver).dispatch([Waits() for _ in range(200)])
        await until(
            lambda: driver.depth_now("default").scheduled == 200 if hasattr(driver, "depth_now") else _all_wait(driver)
        )
        await asyncio.sleep(0)
        before = sum(driver.calls.values())
        # Two seconds of the clock that everybody waits by; the look of others is due at 0.5, 1 and 2 s.
        looks_at = asyncio.get_running_loop().time() + 1.0
        await until(lambda: asyncio.get_running_loop().time() >= looks_at)
        spent = sum(driver.calls.values()) - before

        GO.set()
        await until(lambda: len(ENDED) == 200)

    assert spent <= 12, f"{spent} calls while 199 waited: {driver.calls}"


def _all_wait(driver: MemoryDriver) -> bool:
    return sum(message_id.startswith("limit:wait") for message_id in list(driver._rows)) == 199


async def test_tasks_without_limits_cost_no_call_more() -> None:
    driver = Counts()
    async with working(driver):
        await Queue(driver).dispatch([Free() for _ in range(20)])
        await until(lambda: not driver._rows)

    assert driver.calls.keys() == {"enqueue", "turn"}
    assert driver.calls["enqueue"] == 1


def test_nothing_of_limits_is_imported_where_there_are_none() -> None:
    code = (
        "import sys, asynctasq\nfrom asynctasq import task\nfrom asynctasq.queue import MessageFactory\n"
        "@task\nasync def plain() -> None: ...\nMessageFactory().message(plain())\n"
        "print([name for name in sys.modules if name in ('asynctasq.tasks.limits', 'asynctasq.core.limits')])"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"


@pytest.mark.usefixtures("_gate")
async def test_an_attempt_that_has_lost_its_token_is_handed_back(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    async with working(driver, lease_s=0.6):
        await Queue(driver).dispatch([Waits()])
        token = token_id(LimitRule("waits", 1), 0)
        await until(lambda: token in driver._rows and driver._rows[token].leased)
        driver._rows[token].token += 1  # as if another worker had it
        await until(lambda: "a token of the limit 'waits' (1) is lost" in caplog.text)
        driver._rows[token].leased = False
        GO.set()
        await until(lambda: ENDED)

    assert "is cancelled and handed back" in caplog.text


@pytest.mark.usefixtures("_gate")
async def test_the_token_of_a_message_that_can_not_run_after_its_wait_is_free() -> None:
    driver = MemoryDriver()
    token = token_id(LimitRule("waits", 1), 0)
    async with working(driver):
        first, second = await Queue(driver).dispatch([Waits(), Waits()])
        await until(lambda: any(name.startswith("limit:wait") for name in list(driver._rows)))
        waiting = second if not driver._rows[second].leased else first
        row = driver._rows[waiting]
        row.message = replace(row.message, body=b"\xc1")
        GO.set()
        await until(lambda: row.reason is not None, "what can't be read is a dead letter")
        await until(lambda: not driver._rows[token].leased, "nobody keeps the token")


class Stuck(MemoryDriver):
    """Does not renew while `stuck`, nor does it give up when it is told to."""

    stuck = False

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        while self.stuck:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return await super().extend(leases, lease_s=lease_s)


@pytest.mark.usefixtures("_gate")
async def test_an_attempt_ends_before_a_token_that_can_not_be_renewed(caplog: pytest.LogCaptureFixture) -> None:
    driver = Stuck()
    async with working(driver, lease_s=0.6):
        await Queue(driver).dispatch([Waits()])
        token = token_id(LimitRule("waits", 1), 0)
        await until(lambda: token in driver._rows and driver._rows[token].leased)
        driver.stuck = True
        await until(lambda: "a token of the limit 'waits' (1) is lost" in caplog.text)
        driver.stuck = False
        GO.set()
        await until(lambda: ENDED)

    assert "is cancelled and handed back" in caplog.text


@pytest.mark.usefixtures("_gate")
async def test_workers_with_signing_keys_tell_each_other_who_waits() -> None:
    driver = MemoryDriver()
    factory = MessageFactory(keys=SigningKeys(KEYS))
    async with working(driver, signing_keys=KEYS), working(driver, signing_keys=KEYS):
        await Queue(driver, factory=factory).dispatch([Waits() for _ in range(3)])
        look = await until(lambda: next((one for one in list(driver._rows) if one.startswith("limit:look")), None))
        await until(lambda: look not in driver._rows or driver._rows[look].attempts > 1)
        GO.set()
        await until(lambda: len(ENDED) == 3)

    assert not [row for row in driver._rows.values() if row.reason is not None]


async def test_on_a_driver_that_keeps_no_limits_nothing_runs_and_nothing_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = MemoryDriver()
    message = MessageFactory().message(Call())
    await driver.enqueue([message])
    driver.capabilities = replace(driver.capabilities, reserves_released=NO)
    async with working(driver):
        await until(lambda: "can't keep limits" in caplog.text)
        await until(lambda: not driver._rows[message.id].leased)

    row = driver._rows[message.id]
    assert (row.attempts, row.reason) == (0, None)
    assert row.error is not None
    assert "can't keep limits" in row.error.message
    with pytest.raises(UnsupportedFeature, match="can't keep limits"):
        check_keeps_limits(driver)


async def test_a_damaged_message_about_who_waits_becomes_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    from asynctasq.codec.envelope import Envelope, encode_envelope
    from asynctasq.kernel.limits import LIMIT_TASK
    from asynctasq.kernel.retry import Fixed

    for number, arguments in enumerate([b"\x01", encode_look(LimitRule("x", 1))]):
        envelope = Envelope(
            task=LIMIT_TASK, arguments=arguments, max_attempts=1, retry=Fixed(delay_s=0.0), dispatched_at=0.0
        )
        await driver.enqueue([Message(id=f"limit:look:{number}", queue="default", body=encode_envelope(envelope))])

    async with working(driver):
        await until(lambda: all(row.reason is not None for row in driver._rows.values()))

    assert caplog.text.count("tells of no limit") == 2


async def test_a_worker_counts_only_attempts_that_begin() -> None:
    driver = MemoryDriver()
    given = WorkerSettings(handle_signals=False, application=Application(), schedules=())
    worker = Worker(driver, max_tasks=6, settings=given, runtime=ProductionRuntime())
    await Queue(driver).dispatch([Quick() for _ in range(6)])

    await asyncio.wait_for(worker.start(), 30)

    assert not [one for one in driver._rows if not one.startswith("limit:")]


class Quick(AsyncTask[None]):
    limits = [ConcurrencyLimit("quick", 1)]

    async def execute(self) -> None:
        await asyncio.sleep(0)
