"""A worker's life on a driver of its own: what ends it, what wakes it, in which order it takes things."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import WIRE_VERSION, decode_envelope, encode_envelope
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.lanes.lanes import InlineLanes, Lanes
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO, Settlements
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable
from asynctasq.kernel.messages import DeadReason, Lease, State
from asynctasq.queue import MessageFactory
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.testing import Simulation
from tests.mutants.oracle import HAIR, MICROSECOND, begin, want
from tests.mutants.tasks import (
    LOG,
    Endless,
    Fragile,
    InChild,
    Long,
    Plain,
    Thread,
    TooLong,
    now,
)

THREAD_S = 25
CALLS_MAX = 1000
SPOILT = 7


async def life(sim: Simulation) -> None:
    """Try what ends a worker, what wakes it and in which order it takes things."""
    parts: Sequence[Callable[[Simulation, Frail], Awaitable[None]]]
    parts = (
        _burst,
        _max_tasks,
        _order,
        _weights,
        _shared_burst,
        _crowd,
        _handed_back,
        _hurried,
        _hurried_alone,
        _idle_alone,
        _in_time,
        _any_time,
        _woken,
        _poison,
        _newer,
        _signed,
        _closed,
        _cut_off,
        _while_away,
        _threads,
    )
    for part, kind in product(parts, (Frail, Deaf, Slow)):
        LOG.clear()
        begin(sim, f"{part.__name__} {kind.__name__}")
        driver = kind(clock=sim.clock)
        await part(sim, driver)
        for queue in ("high", "low"):
            reserved = (await driver.depth(queue)).reserved
            want(not reserved, "shutdown", f"{reserved} messages are held though no worker runs")
        await driver.close()
    _refused()


class Frail(MemoryDriver):
    """One whose backend can be away; `asked` counts the calls that failed, `called` all."""

    away = False
    asked = 0
    called = 0
    reply_s = 0.0

    def _settle_now(self, settlements: Settlements) -> set[str]:
        self._answer()
        return super()._settle_now(settlements)

    def _reserve_now(self, queues: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
        self._answer()
        return super()._reserve_now(queues, limit, lease_s)

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        if self.away:
            raise DriverUnavailable("the backend is away")
        return await super().extend(leases, lease_s=lease_s)

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        self._answer()
        return await super().wait_visible(queues, wait_s=min(wait_s, 25))

    def _answer(self) -> None:
        self.called += 1
        want(self.called < CALLS_MAX, "calls", f"more than {CALLS_MAX} calls for so little work")
        if self.away:
            self.asked += 1
            raise DriverUnavailable("the backend is away")


class Deaf(Frail):
    """One that does not say what is visible: its workers wait by taking, as with a broker that can't be asked."""

    capabilities = replace(MemoryDriver.capabilities, wakes_waiting=NO)


class Slow(Deaf):
    """One whose calls take time, also those that fail; what a cancelled call has taken still comes, as it may."""

    reply_s = 0.2

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        leases = await super().reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(self.reply_s)
        return leases

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        await asyncio.sleep(self.reply_s / 2)
        done = await super().turn(settlements, queues, limit=limit, lease_s=lease_s)
        await asyncio.sleep(self.reply_s / 2)
        return done


@dataclass(slots=True, kw_only=True)
class WithThreads(SimulatedRuntime):
    """Blocking code takes virtual time here, and can't be stopped; `spans` are when it began and when it ended."""

    spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    running: set[asyncio.Task[object]] = field(default_factory=set[asyncio.Task[object]])

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:
        del settings, threads
        return ThreadLanes(task_factory, self)


class ThreadLanes(InlineLanes):
    """Lets what blocks take THREAD_S, whatever becomes of the attempt that waits for it."""

    def __init__(self, task_factory: TaskFactory, runtime: WithThreads) -> None:
        super().__init__(task_factory)
        self._runtime = runtime

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        async def thread() -> object:
            began = now()
            await asyncio.sleep(THREAD_S)
            self._runtime.spans.append((began, now()))
            return await InlineLanes.run_blocking(self, call, timeout_s, what=what)

        running = asyncio.get_running_loop().create_task(thread())
        self._runtime.running.add(running)
        return await asyncio.shield(running)


def _worker(
    sim: Simulation,
    driver: MemoryDriver,
    *,
    burst: bool = False,
    signing_keys: Mapping[str, bytes] | None = None,
    **choices: Any,
) -> Worker:
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=burst, signing_keys=signing_keys)
    choices = {"runtime": SimulatedRuntime(clock=sim.clock, rng=sim.rng, name="own"), **choices}
    return Worker(driver, **{"queues": "high,low", **choices}, settings=settings)


async def _put(sim: Simulation, driver: MemoryDriver, *tasks: BaseTask[Any]) -> list[str]:
    messages = [MessageFactory(clock=sim.clock).message(task) for task in tasks]
    return await driver.enqueue(messages)


async def _burst(sim: Simulation, driver: MemoryDriver) -> None:
    tasks = [Plain(key=f"{n}").on_queue("low") for n in range(25)]
    await _put(sim, driver, *tasks, Plain(key="later").on_queue("low").delay(500))
    began = now()
    await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
    want(len(LOG.runs) == 25, "burst", f"{len(LOG.runs)} ran, not all that was due")
    want(now() - began < 100, "burst", "it waited for what was not due")
    depth = await driver.depth("low")
    want((depth.ready, depth.scheduled) == (0, 1), "burst", f"it left {depth}")


async def _max_tasks(sim: Simulation, driver: MemoryDriver) -> None:
    await _put(sim, driver, *[Plain(key=f"{n}").on_queue("low") for n in range(5)])
    await asyncio.wait_for(_worker(sim, driver, max_tasks=2).start(), 1000)
    want(len(LOG.runs) == 2, "max_tasks", f"{len(LOG.runs)} ran, not 2")
    want((await driver.depth("low")).ready == 3, "max_tasks", "the rest is not left as it was")


async def _order(sim: Simulation, driver: MemoryDriver) -> None:
    first, then = sim.rng.choice((("high", "low"), ("low", "high")))
    names = [first, then, first, then, then, first]
    await _put(sim, driver, *[Plain(key=f"{n}").on_queue(name) for n, name in enumerate(names)])
    worker = _worker(sim, driver, queues=f"{first},{then}", burst=True, concurrency=1)
    await asyncio.wait_for(worker.start(), 1000)
    order = [run.key for run in LOG.runs]
    want(order == ["0", "2", "5", "1", "3", "4"], "order", f"ran in the order {order}")
    starts = [run.began for run in LOG.runs]
    apart = all(later - earlier >= 1 - MICROSECOND for earlier, later in pairwise(starts))
    want(apart, "concurrency", f"more than one ran at once: {starts}")


async def _weights(sim: Simulation, driver: MemoryDriver) -> None:
    await _put(sim, driver, *[Plain(key=f"{name} {n}").on_queue(name) for n in range(42) for name in ("low", "high")])
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:1", max_tasks=22, concurrency=1).start(), 1000)
    first = {run.key.partition(" ")[0] for run in LOG.runs[:22]}
    want(len(first) == 2 or sim.seed == 0, "weights", "one of two queues of equal weight waited 22 turns")
    LOG.clear()
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:20", max_tasks=20, concurrency=1).start(), 1000)
    light = sum(run.key.startswith("high") for run in LOG.runs[:20])
    want(light <= 10 or sim.seed == 0, "weights", f"one twentieth of the weight had {light} of 20 turns")


async def _shared_burst(sim: Simulation, driver: MemoryDriver) -> None:
    """Let a burst share its turns between queues: it ends when both are empty, not when one is."""
    tasks = [Plain(key=f"{n}").on_queue(sim.rng.choice(("high", "low"))) for n in range(8)]
    await _put(sim, driver, *tasks)
    await asyncio.wait_for(_worker(sim, driver, queues="high:1,low:3", burst=True, concurrency=2).start(), 1000)
    want(len(LOG.runs) == len(tasks), "burst", f"{len(LOG.runs)} ran, not all that was due in two queues")


async def _crowd(sim: Simulation, driver: MemoryDriver) -> None:
    """Let messages come due while others end: never do more run than there is room for."""
    tasks = [Plain(key=f"{n}").on_queue("low").delay(1 + sim.rng.randrange(32) / 4) for n in range(16)]
    worker = _worker(sim, driver, concurrency=3, max_tasks=15)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(0.5)
    await _put(sim, driver, *tasks)
    await asyncio.wait_for(running, 1000)
    want(len(LOG.runs) == 15, "max_tasks", f"{len(LOG.runs)} ran, not 15")
    crowds = [sum(one.began <= run.began < one.began + 1 - MICROSECOND for one in LOG.runs) for run in LOG.runs]
    want(max(crowds) <= 3, "concurrency", f"{max(crowds)} ran at once, not 3")


async def _handed_back(sim: Simulation, driver: MemoryDriver) -> None:
    [task_id] = await _put(sim, driver, Long(key="long").on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    stopped = now()
    await asyncio.wait_for(running, 1000)
    want(29 <= now() - stopped <= 31, "shutdown", f"took {now() - stopped} s, not 30")
    await _want_handed_back(driver, task_id)
    want(LOG.hooks == [], "shutdown", "failed() of an interrupted attempt ran")


async def _want_handed_back(driver: MemoryDriver, task_id: str) -> None:
    stored = await driver.find(task_id)
    told = None if stored is None else (stored.state.value, stored.attempts, stored.crashes)
    want(told == ("ready", 0, 0), "shutdown", f"an interrupted attempt is not handed back: {told}")


async def _hurried(sim: Simulation, driver: MemoryDriver) -> None:
    """Ask twice: the second time, what runs is handed back at once."""
    [task_id] = await _put(sim, driver, Long(key="long").on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    await asyncio.sleep(1)
    worker.stop()
    stopped = now()
    await asyncio.wait_for(running, 1000)
    want(now() - stopped < 1, "shutdown", f"took {now() - stopped} s when asked twice")
    await _want_handed_back(driver, task_id)


async def _hurried_alone(sim: Simulation, driver: Frail) -> None:
    """Ask twice while the backend is away: the worker ends, whether or not it could hand back what it had."""
    await _put(sim, driver, Long(key="long").on_queue("low"), Plain(key="plain").on_queue("low").delay(2))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    away_at, asked_at, hurried_at = sorted(1 + sim.rng.random() * 5 for _ in range(3))
    await asyncio.sleep(away_at)
    driver.away = True
    await asyncio.sleep(asked_at - away_at)
    worker.stop()
    await asyncio.sleep(hurried_at - asked_at)
    worker.stop()
    stopped = now()
    with suppress(DriverUnavailable):  # which says what it had
        await asyncio.wait_for(running, 1000)
    within_s = 1 + 2 * driver.reply_s  # of a call under way, and of the one that shows that its backend is away
    want(now() - stopped < within_s, "shutdown", f"took {now() - stopped} s when asked twice, with its backend away")
    driver.away = False
    await asyncio.sleep(31)  # what it held is free once its lease has ended


async def _idle_alone(sim: Simulation, driver: Frail) -> None:
    """Ask once while the backend is away and nothing runs: the worker does not wait for its next try to reach it."""
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    driver.away = True
    await asyncio.sleep(2 + sim.rng.random() * 20)
    worker.stop()
    stopped = now()
    await asyncio.wait_for(running, 1000)
    within_s = 0.2 + 2 * driver.reply_s
    want(now() - stopped < within_s, "shutdown", f"an idle worker took {now() - stopped} s, with its backend away")
    driver.away = False


async def _any_time(sim: Simulation, driver: Frail) -> None:
    """Stop a worker in the midst of arrivals: each message has run once and is gone, or waits as if never taken."""
    tasks = [Plain(key=f"{n}").on_queue("low").delay(1 + n / 10) for n in range(12)]
    ids = await _put(sim, driver, *tasks)
    worker = _worker(sim, driver, concurrency=3)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1 + sim.rng.randrange(60) / 20)
    worker.stop(immediate=sim.rng.random() < 0.5)
    await asyncio.wait_for(running, 1000)
    for task_id, one in zip(ids, tasks, strict=True):
        stored = await driver.find(task_id)
        ended = sum(run.ended is not None for run in LOG.of(one.key))
        told = None if stored is None else (stored.state is State.RESERVED, stored.attempts, stored.crashes)
        want(told in (None, (False, 0, 0)), "shutdown", f"{one.key} is not as if never taken: {stored}")
        want((stored is None) == bool(ended), "shutdown", f"{one.key} ended {ended} times, and is {stored}")
    running = asyncio.get_running_loop().create_task(worker.start())  # as good as a new one
    await asyncio.sleep(60)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    for one in tasks:
        ended = sum(run.ended is not None for run in LOG.of(one.key))
        want(ended == 1, "restart", f"{one.key} came to its end {ended} times when the worker was started again")


async def _in_time(sim: Simulation, driver: MemoryDriver) -> None:
    [task_id] = await _put(sim, driver, TooLong(key="short").with_options(timeout=60).on_queue("low"))
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    want(await driver.find(task_id) is None, "shutdown", "what ended in time is not settled")


def _refused() -> None:
    """A time limit of 0 is refused; it is not no limit."""
    try:
        Plain(key="none").with_options(timeout=0)
    except ValueError:
        return
    want(False, "settings", "timeout=0 was taken")


async def _woken(sim: Simulation, driver: Frail) -> None:
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(5)
    due: list[float] = []
    for name in ("low", "high", "low"):
        due += (now(), now() + 7)
        await _put(sim, driver, Plain(key="now").on_queue(name), Plain(key="later").on_queue(name).delay(7))
        await asyncio.sleep(20)
    began = [run.began for run in LOG.runs]
    worker.stop()
    await asyncio.wait_for(running, 1000)
    late_s = 0.1 + 2 * driver.reply_s
    prompt = len(began) == len(due) and all(-HAIR <= b - d < late_s for b, d in zip(began, due, strict=True))
    want(prompt, "wakes", f"ran at {began}, due at {due}")


async def _cut_off(sim: Simulation, driver: Frail) -> None:
    """Let the backend be away, for a while again and again, then for good: a worker asks now and then, and gives up."""
    running = asyncio.get_running_loop().create_task(_worker(sim, driver).start())
    await asyncio.sleep(1)
    for n in range(3):
        await _put(sim, driver, Plain(key=f"{n}").on_queue("low"))
        driver.away, driver.asked = True, 0
        await asyncio.sleep(50)
        want(0 < driver.asked < 200, "outage", f"asked {driver.asked} times in 50 s")
        driver.away = False
        await asyncio.sleep(50)
        want([run.key for run in LOG.runs[n:]] == [str(n)], "outage", f"after outage {n} there ran {LOG.runs[n:]}")
    await _put(sim, driver, Endless(key="endless").on_queue("low"))
    await asyncio.sleep(5)
    driver.away, began = True, now()
    await asyncio.wait([running], timeout=500)
    want(running.done(), "outage", "a worker whose backend is away for good goes on")
    want(isinstance(running.exception(), DriverUnavailable), "outage", f"it ended with {running.exception()!r}")
    want(60 <= now() - began <= 60 + 25 + 10, "outage", f"it gave up after {now() - began} s, not 60")
    want(LOG.hooks == [], "outage", f"hooks of what will run again: {LOG.hooks}")
    driver.away = False
    await asyncio.sleep(31)  # what it held is free once its lease has ended


async def _while_away(sim: Simulation, driver: Frail) -> None:
    """Let attempts end while the backend is away: what ended is settled once it is back, and runs no second time."""
    tasks = [Plain(key=f"{n}").on_queue("low").delay(0.5 + n / 20) for n in range(10)]
    await _put(sim, driver, *tasks)
    worker = _worker(sim, driver)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1.4 + sim.rng.random() / 4)
    driver.away = True
    await asyncio.sleep(20)
    driver.away = False
    await asyncio.sleep(100)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    ran = sorted(run.key for run in LOG.runs)
    want(ran == sorted(one.key for one in tasks), "outage", f"there ran {ran}")


async def _threads(sim: Simulation, driver: MemoryDriver) -> None:
    """Interrupt what runs in a thread, which goes on all the same: its next attempt may not run beside it."""
    [task_id] = await _put(sim, driver, Thread("thread").on_queue("low"))
    runtime = WithThreads(clock=sim.clock, rng=sim.rng, name="own")
    worker = _worker(sim, driver, runtime=runtime)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(1 + sim.rng.random() * 20)
    worker.stop(immediate=True)
    await asyncio.wait_for(running, 1000)
    worker = _worker(sim, driver, runtime=runtime)
    running = asyncio.get_running_loop().create_task(worker.start())
    await asyncio.sleep(150)
    worker.stop()
    await asyncio.wait_for(running, 1000)
    want(await driver.find(task_id) is None, "threads", "it was not run again")
    want(len(runtime.spans) == 2, "threads", f"it ran {len(runtime.spans)} times, not twice")
    (_, ended), (began, _) = runtime.spans
    want(began >= ended, "threads", f"its second attempt began at {began}, while its thread ran to {ended}")


async def _newer(sim: Simulation, driver: MemoryDriver) -> None:
    """A body of a later version waits for a later worker: nothing of it is counted, and it comes again."""
    message = MessageFactory(clock=sim.clock).message(Plain(key="newer").on_queue("low"))
    await driver.enqueue([replace(message, body=message.body[:1] + bytes((WIRE_VERSION + 1,)) + message.body[2:])])
    for _ in range(3):
        await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
        stored = await driver.find(message.id)
        told = None if stored is None else (stored.state.value, stored.attempts, stored.crashes)
        want(told == ("scheduled", 0, 0), "versions", f"a message of a later version is {told}")
        await asyncio.sleep(3600)


async def _signed(sim: Simulation, driver: MemoryDriver) -> None:
    """A worker with keys runs what is signed with one of them, and puts all else aside."""
    keys = {"old": b"o" * 32, "new": b"n" * 32}
    made = {
        reason: MessageFactory(clock=sim.clock, keys=signing).message(Plain(key=reason).on_queue("low"))
        for reason, signing in (
            ("new", SigningKeys(keys, sign_with="new")),
            ("old", SigningKeys(keys)),
            ("stranger's", SigningKeys({"old": b"x" * 32})),
            ("unknown", SigningKeys({"other": b"o" * 32})),
            ("unsigned", None),
        )
    }
    at = sim.rng.randrange(4, len(made["new"].body))
    changed = bytearray(made["new"].body)
    changed[at] ^= 1 << sim.rng.randrange(8)
    spoilt = replace(made["new"], id="changed", body=bytes(changed))
    await driver.enqueue([*made.values(), spoilt])
    await asyncio.wait_for(_worker(sim, driver, burst=True, signing_keys=keys).start(), 1000)
    want(sorted(run.key for run in LOG.runs) == ["new", "old"], "signing", f"there ran {LOG.runs}")
    for one in (made["stranger's"], made["unknown"], made["unsigned"], spoilt):
        stored = await driver.find(one.id)
        reason = None if stored is None else stored.reason
        want(reason is DeadReason.BAD_SIGNATURE, "signing", f"what is not signed with its keys is {stored}")


async def _closed(sim: Simulation, driver: Frail) -> None:
    """Close a driver that is waited on: the waits end, with nothing."""
    loop = asyncio.get_running_loop()
    waits: list[asyncio.Task[Any]] = [
        loop.create_task(driver.reserve(["low"], limit=1, lease_s=30, wait_s=1000)),
        loop.create_task(driver.wait_visible(["high"], wait_s=20)),
    ]
    await asyncio.sleep(1 + sim.rng.random() * 5)
    await driver.close()
    closed = now()
    brought = await asyncio.gather(*waits)
    want(brought == [[], False], "close", f"waits of a driver that was closed brought {brought}")
    want(now() - closed <= 2 * driver.reply_s, "close", f"waits went on for {now() - closed} s after close()")


async def _poison(sim: Simulation, driver: MemoryDriver) -> None:
    """What can't be run is put aside at once, for its own reason, and the rest runs."""
    made = [
        MessageFactory(clock=sim.clock).message(one)
        for one in (Fragile("bad", "TypeError"), InChild("bad"), Thread("bad"))
    ]
    spoilt = [_spoilt(sim.rng.choice(made).body)[n] for n in range(SPOILT)]
    messages = {f"{n}": one for n, one in enumerate(spoilt)}
    await driver.enqueue([replace(made[0], id=name, queue="low", body=body) for name, (body, _) in messages.items()])
    await _put(sim, driver, Plain(key="good").on_queue("low"))
    await asyncio.wait_for(_worker(sim, driver, burst=True).start(), 1000)
    for name, (body, reason) in messages.items():
        stored = await driver.find(name)
        told = None if stored is None else (stored.reason, stored.attempts, stored.crashes, stored.body)
        want(told == (reason, 0, 0, body), "poison", f"what should be {reason} is {told}")
    want([run.key for run in LOG.runs] == ["good"], "poison", "the rest did not run")
    want(LOG.hooks == [], "poison", f"hooks of what can't run: {LOG.hooks}")


def _spoilt(body: bytes) -> list[tuple[bytes, DeadReason]]:
    """Return bodies that are like this one, and can't be run."""
    envelope = decode_envelope(body)
    misfits: list[dict[str, object]] = [{}, {"key": "bad", "other": 1}, {"other": 1}]
    found = [
        (b"garbage", DeadReason.UNDECODABLE),
        (body[:-1], DeadReason.UNDECODABLE),
        (encode_envelope(replace(envelope, arguments=b"\xc1")), DeadReason.UNDECODABLE),
        (encode_envelope(replace(envelope, task="tests.mutants.tasks:Renamed")), DeadReason.UNKNOWN_TASK),
        *[
            (encode_envelope(replace(envelope, arguments=pack_arguments("t", misfit, {}))), DeadReason.BAD_ARGUMENTS)
            for misfit in misfits
        ],
    ]
    assert len(found) == SPOILT
    return found
