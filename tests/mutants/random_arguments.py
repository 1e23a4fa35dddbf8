"""What a dispatch carries: drawn arguments, called in drawn ways, through a real queue to a worker and back.

What a worker makes of a call must be what calling it here makes, equal and of the same types. And a queue's ids and
messages must be as the calls were given: in order, on their drivers, all or none.
"""

import asyncio
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar, Final, NamedTuple, cast
from zoneinfo import ZoneInfo

from asynctasq.core.lanes.child import Reply, Request
from asynctasq.core.lanes.lanes import InlineLanes, Lanes
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DispatchError, UnserializableValue
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask, TaskFunction, task
from asynctasq.tasks.application import Application
from asynctasq.testing import Simulation
from tests.mutants.oracle import begin, want

TASKS: Final = 5
DAY_S: Final = 86_400.0
MARGIN_S: Final = 100.0
"""More than a run of all of them takes."""
QUEUES: Final = ("high", "low", "default")
KEPT: Final[Sequence[tuple[Any, float]]] = (
    (True, DAY_S),
    (4000, 4000.0),
    (dt.timedelta(days=1, minutes=40), DAY_S + 2400),
)


class Colour(enum.Enum):
    """Values that travel as plain ones, rebuilt from annotations."""

    RED = "r"
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: int
    name: str = "origin"


class Pair(NamedTuple):
    left: object
    right: object = None


Rebuilt = Colour | Point | Pair | None

PLAIN: Final[Sequence[object]] = (
    *(None, True, 0, -1, 2**70, -(2**70), 1.5, 1e300, "", "häß\x00", b"", b"bytes\xff", 1 + 2j),
    *(decimal.Decimal("1.10"), uuid.UUID(int=7), pathlib.PurePosixPath("/a/b"), pathlib.Path("c")),
    *(dt.datetime(2026, 3, 4, 5, 6, 7, 89), dt.datetime(2026, 3, 4, 5, 6, 7, 89, dt.UTC)),
    *(dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")), dt.date(2026, 3, 4)),
    *(dt.time(1, 2, 3, 4), dt.timedelta(days=-1, microseconds=5), dt.timedelta(days=400)),
)
RECORDS: Final[Sequence[Rebuilt]] = (
    None,
    Colour.RED,
    Colour.BLUE,
    Point(1),
    Point(2, "two"),
    Point(0, ""),
    Pair((1, "a")),
    Pair(1, 2),
    Pair(0, ()),
)


def _pick(sim: Simulation, values: Sequence[Any]) -> Any:
    return values[int(sim.rng.random() * len(values))]


def _value(sim: Simulation, depth: int = 3) -> object:
    """Draw a plain value, a container of some now and then."""
    kind = _pick(sim, ("plain", "plain", "list", "tuple", "dict", "set", "frozenset")) if depth else "plain"
    items = [] if kind == "plain" else [_value(sim, depth - 1) for _ in range(_pick(sim, (2, 0, 3)))]
    match kind:
        case "list":
            return items
        case "tuple":
            return tuple(items)
        case "dict":
            keys = [_pick(sim, ("a", 1, None, (1, "b"), uuid.UUID(int=3))) for _ in items]
            return dict(zip(keys, items, strict=True))
        case "set" | "frozenset":
            plain = [_pick(sim, PLAIN) for _ in items]
            return set(plain) if kind == "set" else frozenset(plain)
    return _pick(sim, PLAIN)


def typed(value: object) -> object:
    """Return what differs where values or their types do, however deep."""
    kind = type(value).__name__
    if isinstance(value, dict):
        mapping = cast("dict[object, object]", value)
        return kind, frozenset((typed(key), typed(item)) for key, item in mapping.items())
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(typed, cast("set[object]", value)))
    if isinstance(value, list | tuple):
        return kind, tuple(map(typed, cast("list[object]", value)))
    return kind, repr(value)


# -- the calls ---------------------------------------------------------------------------------------


@task(queue="high")
async def gathers(first: object, /, second: object = 2, *rest: object, named: object = 3, **more: object) -> object:
    return [first, second, rest, named, more]


@task(queue="low")
def gathers_in_thread(first: object, *rest: object, named: object = 3) -> object:
    return [first, rest, named]


@task(queue="low", process=True)
def gathers_in_child(first: object, second: object = 2, *, named: object = 3, **more: object) -> object:
    return [first, second, named, more]


@task(queue="low")
async def rebuilds(first: Rebuilt, named: dict[str, list[Rebuilt]] | None = None) -> list[Any]:
    return [repr(first), repr(named)]


@task(queue="high")
async def gives_back(first: Rebuilt) -> Rebuilt:
    return first


class Base:
    """Settings that several tasks share, and a constructor that does not keep what it is given."""

    queue: ClassVar[str] = "low"
    max_attempts: ClassVar[int] = 1

    def __init__(self, number: object, *items: object, named: object = None) -> None:
        super().__init__()
        self.number, self.named = [number, number], {"given": named}
        self.seen = [number, *items, named]
        self.doubled = [*items, *items]

    def all(self) -> list[object]:
        """Return what the task knows."""
        return [self.seen, self.doubled, type(self).__name__]


class Keeps(Base, AsyncTask[object]):
    async def execute(self) -> object:
        return self.all()


class KeepsMore(Keeps):
    """Has settings, arguments and code of its own beside those of what it is derived from."""

    queue = "high"

    def __init__(self, number: object, *items: object, named: object = None, other: object = 0) -> None:
        super().__init__(number, *items, named=named)
        self.seen.append(other)


class KeepsInThread(Base, SyncTask[object]):
    def execute(self) -> object:
        return self.all()


class KeepsInChild(Base, AsyncProcessTask[object]):
    async def execute(self) -> object:
        return self.all()


class KeepsInBlockingChild(Base, SyncProcessTask[object]):
    def execute(self) -> object:
        return self.all()


class Bare(AsyncTask[object]):
    """Has no constructor: what it is given becomes attributes."""

    first: object
    named: object
    _driver_override = "other"

    async def execute(self) -> object:
        return [self.first, self.named]


Call = tuple[type[BaseTask[Any]], BaseTask[Any], BaseTask[Any]]
"""The class of a call, the task to dispatch, and one that is run here."""


def _drawn(sim: Simulation, name: str) -> Call:
    begin(sim, name)
    draw: Callable[[Simulation], Call] = _pick(sim, (_values, _values, _records))
    return draw(sim)


def _values(sim: Simulation) -> Call:
    """Draw a call with plain values."""
    functions = (gathers, gathers_in_thread, gathers_in_child)
    callee: Any = _pick(sim, (*functions, Keeps, KeepsMore, KeepsInThread, KeepsInChild, KeepsInBlockingChild, Bare))
    if callee is Bare:
        return _call(Bare, first=_value(sim), named=_value(sim))
    most = 2 if callee is gathers_in_child else 4
    args = [_value(sim) for _ in range(min(most, _pick(sim, (1, 2, 3, 4))))]
    kwargs: dict[str, object] = {"named": _value(sim)} if _pick(sim, (True, False)) else {}
    if callee in (gathers, gathers_in_child, KeepsMore) and _pick(sim, (True, False)):
        kwargs["other"] = _value(sim)
    return _call(callee, *args, **kwargs)


def _records(sim: Simulation) -> Call:
    """Draw a call with values that only an annotation can bring back."""
    records = [_pick(sim, RECORDS) for _ in range(_pick(sim, (1, 3)))]
    if _pick(sim, (True, False)):
        return _call(gives_back, records[0])
    return _call(rebuilds, records[0], named={"some": records})


def _call(callee: Callable[..., Any], *args: object, **kwargs: object) -> Call:
    cls = callee.task_class if isinstance(callee, TaskFunction) else callee
    return cast("type[BaseTask[Any]]", cls), callee(*args, **kwargs), callee(*args, **kwargs)


async def _here(one: BaseTask[Any]) -> object:
    """Run it without a queue."""
    returned = cast("Any", one).execute()
    return await returned if asyncio.iscoroutine(returned) else returned


# -- the workload ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class RecordingRuntime(SimulatedRuntime):
    """Records in which lane each message ran."""

    ran_in: dict[str, str]

    def lanes(self, settings: WorkerSettings, task_factory: TaskFactory, *, threads: int) -> Lanes:
        del settings, threads
        return TellingLanes(task_factory, self.ran_in)


class TellingLanes(InlineLanes):
    """Notes what runs where."""

    def __init__(self, task_factory: TaskFactory, ran_in: dict[str, str]) -> None:
        super().__init__(task_factory)
        self._ran_in = ran_in

    async def run_async(self, task: AsyncTask[object], timeout_s: float | None) -> object:
        self._ran_in[str(task._task_id)] = "loop"
        return await super().run_async(task, timeout_s)

    async def run_blocking(self, call: Callable[[], object], timeout_s: float | None, *, what: str) -> object:
        self._ran_in[str(cast("Any", call).__self__._task_id)] = "thread"
        return await super().run_blocking(call, timeout_s, what=what)

    async def run_in_process(self, request: Request, timeout_s: float | None) -> Reply:
        self._ran_in[request.message_id] = "child"
        return await super().run_in_process(request, timeout_s)


LANES: Final[Sequence[tuple[type[BaseTask[Any]], str]]] = (
    (AsyncTask, "loop"),
    (SyncTask, "thread"),
    (AsyncProcessTask, "child"),
    (SyncProcessTask, "child"),
)


@dataclass(frozen=True, slots=True)
class Side:
    """A queue with two drivers, and nothing but what is dispatched in one run."""

    sim: Simulation
    drivers: dict[str, MemoryDriver]
    queue: Queue
    ran_in: dict[str, str] = field(default_factory=dict[str, str])

    async def ids(self) -> list[str]:
        """Return the ids of all messages there are."""
        pages = [await driver.list_messages(name) for driver in self.drivers.values() for name in QUEUES]
        return [message.id for page in pages for message in page.messages]

    async def work(self) -> None:
        """Run what is due."""
        for driver in self.drivers.values():
            settings = WorkerSettings(application=Application(), handle_signals=False, burst=True)
            runtime = RecordingRuntime(clock=self.sim.clock, rng=self.sim.rng, name="own", ran_in=self.ran_in)
            worker = Worker(driver, ",".join(QUEUES), settings=settings, runtime=runtime)
            await asyncio.wait_for(worker.start(), MARGIN_S / 2)


async def carried(sim: Simulation) -> None:
    """Dispatch drawn calls in one go, once with a bad one among them; compare what they come to."""
    _forget()
    drivers = {name: MemoryDriver(clock=sim.clock) for name in ("default", "other")}
    numbers = count(1)
    factory = MessageFactory(clock=sim.clock, new_id=lambda: str(uuid.UUID(int=next(numbers))))
    side = Side(sim, drivers, Queue(drivers["default"], find_driver=drivers.__getitem__, factory=factory))
    calls = [_drawn(sim, f"call {n}") for n in range(TASKS)]
    begin(sim, "the batch")
    kept = [_pick(sim, KEPT) for _ in calls]
    tasks = [one.with_options(keep_result=keep) for (_, one, _), (keep, _) in zip(calls, kept, strict=True)]
    await _refused(side, tasks)
    ids = await side.queue.dispatch(tasks)
    await _stored(side, calls, ids)
    await side.work()
    left = await side.ids()
    want(left == [], "carried", f"{left} did not run to their end")
    for (cls, _, here), task_id in zip(calls, ids, strict=True):
        there, wanted = await side.queue.result(task_id, task=cls), await _here(here)
        lane = next(lane for kind, lane in LANES if issubclass(cls, kind))
        want(side.ran_in[task_id] == lane, "lanes", f"{cls.__name__} ran in a {side.ran_in[task_id]}, not a {lane}")
        want(typed(there) == typed(wanted), "carried", f"{cls.__name__} made {there!r}, here it makes {wanted!r}")
    await _kept(
        side, [(cls, task_id, keep_s) for (cls, _, _), task_id, (_, keep_s) in zip(calls, ids, kept, strict=True)]
    )
    for driver in drivers.values():
        await driver.close()


def _forget() -> None:
    """Let the classes be as in a process that has just begun: they find out about themselves when they are used."""
    for cls in (Keeps, KeepsMore):
        if "_definition" in vars(cls):
            del cls._definition


async def _refused(side: Side, tasks: Sequence[BaseTask[Any]]) -> None:
    """Let one task of a batch be refused: none of it is stored."""
    bad = Keeps(object()) if _pick(side.sim, (True, False)) else _hiding()
    place = int(side.sim.rng.random() * (len(tasks) + 1))
    try:
        await side.queue.dispatch([*tasks[:place], bad, *tasks[place:]])
    except (UnserializableValue, DispatchError):
        stored = await side.ids()
        want(stored == [], "dispatch", f"a bad task is number {place} of a batch, and {len(stored)} are stored")
        return
    want(False, "dispatch", "a task that can't be stored was taken")


def _hiding() -> BaseTask[Any]:
    bad = Keeps(1)
    vars(bad)["attempt"] = 3
    return bad


async def _stored(side: Side, calls: Sequence[Call], ids: Sequence[str]) -> None:
    """Look for each message where its call says it goes."""
    for (cls, one, _), task_id in zip(calls, ids, strict=True):
        driver = side.drivers["other" if cls is Bare else "default"]
        found = await driver.find(task_id)
        want(one._task_id == task_id, "dispatch", f"a {cls.__name__} has the id of another: {task_id}")
        queue = "default" if cls is Bare else cls.queue
        told = found and (found.queue, cls.__name__.encode() in found.body)
        want(told == (queue, True), "dispatch", f"a {cls.__name__} is stored as {found}")


async def _kept(side: Side, results: Sequence[tuple[type[BaseTask[Any]], str, float]]) -> None:
    """Look for the results when they are about to go, and when they are gone."""
    began = side.sim.clock.now()
    for at_s, there in sorted((keep_s + part, part < 0) for _, _, keep_s in results for part in (-MARGIN_S, 1.0)):
        await asyncio.sleep(max(0.0, began + at_s - side.sim.clock.now()))
        for cls, task_id, keep_s in results:
            if keep_s in (at_s + MARGIN_S, at_s - 1.0):
                data = await side.drivers["other" if cls is Bare else "default"].fetch_result(task_id)
                said = "is gone too soon" if there else "is still there"
                want((data is not None) == there, "results", f"{at_s} s on, what {cls.__name__} returned {said}")
