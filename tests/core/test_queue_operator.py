"""What an operator finds, page by page, and removes, on every backend whose messages can be seen."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.core import queue_operator
from asynctasq.core.queue_operator import QueueOperator, TaskFilter
from asynctasq.drivers.base import NO, Bury, Driver
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DriverUnavailable, InvalidQueueName, TaskNotFoundError, UnsupportedFeature
from asynctasq.kernel.messages import DeadReason, ErrorRecord, Message, State
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.servers import Servers
from tests.core.backends import INSPECTABLE, operator_of
from tests.patience import SOON_S


@dataclass(frozen=True)
class Address:
    city: str


class Ship(AsyncTask[None]):
    order: int
    to: Address

    async def execute(self) -> None:
        return None


class Bill(AsyncTask[None]):
    who: str

    async def execute(self) -> None:
        return None


@pytest.fixture(params=list(INSPECTABLE))
async def driver(request: pytest.FixtureRequest, conformance_servers: Servers) -> AsyncIterator[Driver]:
    harness: DriverHarness = INSPECTABLE[request.param](conformance_servers)
    await harness.prepare()
    made = harness.create()
    await made.open()
    yield made
    await made.close()
    await harness.clean_up()


async def bury(driver: Driver, count: int, *, queue: str = "default") -> None:
    """Make dead letters of what is ready."""
    leases = await driver.reserve([queue], limit=count, lease_s=30)
    assert len(leases) == count
    dead = Bury(reason=DeadReason.FAILED, counted=True, error=ErrorRecord(type="ValueError", message="no"))
    await driver.settle([(lease, dead) for lease in leases])


async def ids_of(operator: QueueOperator, wanted: TaskFilter, limit: int) -> list[str]:
    """Return the ids that are meant, read page by page."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await operator.search(wanted, limit=limit, cursor=cursor)
        ids += [task.status.id for task in page.tasks]
        if page.cursor is None:
            return ids
        assert len(page.tasks) == limit, "only the last page may be shorter"
        cursor = page.cursor


async def test_each_queue_has_its_depth(driver: Driver) -> None:
    await Queue(driver).dispatch([Bill(who="a"), Bill(who="b").on_queue("other"), Bill(who="c").delay(60)])

    depths = await operator_of(driver).depths(["empty"])

    counts = {name: (depth.ready, depth.scheduled) for name, depth in depths.items()}
    assert counts == {"default": (1, 1), "empty": (0, 0), "other": (1, 0)}


async def test_a_message_is_shown_with_its_arguments(driver: Driver) -> None:
    (task_id,) = await Queue(driver).dispatch([Ship(order=7, to=Address("Oslo"))])

    shown = await operator_of(driver).show(task_id)

    assert shown.status.task.endswith(":Ship")
    assert shown.status.state is State.READY
    assert shown.arguments == {"order": "7", "to": "Address(city='Oslo')"}


async def test_an_id_that_never_was_is_told(driver: Driver) -> None:
    with pytest.raises(TaskNotFoundError, match=r"there is no message 'nobody' in .*: it has completed, was cancelled"):
        await operator_of(driver).show("nobody")


async def test_a_body_that_is_no_task_is_shown_as_unreadable(driver: Driver) -> None:
    await driver.enqueue([Message(id="odd", queue="default", body=b"\xc1 not ours")])

    (shown,) = (await operator_of(driver).search(TaskFilter(), limit=10)).tasks

    assert shown.status.id == "odd"
    assert shown.arguments is None
    assert shown.unreadable


async def test_filters_choose(driver: Driver) -> None:
    bills = [Bill(who=who) for who in "abc"]
    ids = list(
        await Queue(driver).dispatch([*bills, Ship(order=1, to=Address("Oslo")), Bill(who="d").on_queue("other")])
    )
    operator = operator_of(driver)

    async def found(**wanted: Any) -> list[str]:
        return await ids_of(operator, TaskFilter(**wanted), 2)

    assert await found() == [*ids[:4], ids[4]]
    assert await found(queue="other") == [ids[4]]
    assert await found(task="Ship") == [ids[3]]
    assert await found(task=f"{__name__}:Bill", queue="default") == ids[:3]
    assert await found(arguments={"who": "b"}) == [ids[1]]
    assert await found(arguments={"who": "'b'"}) == [ids[1]]
    assert await found(arguments={"order": "1"}) == [ids[3]]
    assert await found(arguments={"nothing": "b"}) == []
    assert await found(state=State.DEAD) == []
    assert await found(older_than_s=3600) == []
    with pytest.raises(InvalidQueueName):
        await found(queue="no such name!")


async def test_dead_letters_are_removed_by_filter_and_the_others_stay(driver: Driver) -> None:
    ids = await Queue(driver).dispatch([Bill(who="a"), Ship(order=1, to=Address("Oslo")), Bill(who="b")])
    await bury(driver, 3)
    (waiting,) = await Queue(driver).dispatch([Bill(who="c")])
    operator, told = operator_of(driver), list[int]()

    assert await operator.count(TaskFilter(task="Bill", state=State.DEAD)) == 2
    assert await operator.discard_all(TaskFilter(task="Bill"), told.append) == 2

    assert told[-1] == 2
    assert await ids_of(operator, TaskFilter(), 10) == [ids[1], waiting]


async def test_what_waits_and_what_runs_is_cancelled_and_a_dead_letter_stays(driver: Driver) -> None:
    dead, running = await Queue(driver).dispatch([Bill(who="a"), Bill(who="b")])
    await bury(driver, 1)
    (lease,) = await driver.reserve(["default"], limit=1, lease_s=30)
    (waiting,) = await Queue(driver).dispatch([Bill(who="c")])

    cancelled = await operator_of(driver).cancel([dead, running, waiting, "nobody"])

    assert (lease.message_id, cancelled) == (running, {running, waiting})
    assert await driver.extend([lease], lease_s=30) == {running}
    assert await ids_of(operator_of(driver), TaskFilter(), 10) == [dead]


async def test_a_redrive_goes_step_by_step_and_ends_at_its_limit(driver: Driver) -> None:
    await Queue(driver).dispatch([Bill(who=str(number)) for number in range(7)])
    await bury(driver, 7)
    operator, told = operator_of(driver), list[int]()

    assert await operator.redrive("default", limit=5, rate=None, on_progress=told.append) == 5
    assert await operator.redrive("default", limit=None, rate=1_000, on_progress=told.append) == 2
    assert await operator.redrive("default", limit=None, rate=None, on_progress=told.append) == 0

    assert told == [5, 2]
    assert (await driver.depth("default")).ready == 7


class Breaks(MemoryDriver):
    """Goes away after the first redrive."""

    calls = 0

    async def redrive(self, queue: str, *, limit: int) -> int:
        self.calls += 1
        if self.calls > 1:
            raise DriverUnavailable("gone")
        return await super().redrive(queue, limit=limit)


async def test_what_was_redriven_before_the_backend_went_away_is_told() -> None:
    driver, told = Breaks(), list[int]()
    await Queue(driver).dispatch([Bill(who=str(number)) for number in range(150)])
    await bury(driver, 150)

    with pytest.raises(DriverUnavailable):
        await operator_of(driver).redrive("default", limit=None, rate=None, on_progress=told.append)

    depth = await driver.depth("default")
    assert (told, depth.ready, depth.dead) == ([100], 100, 50)


class DiesAgain(MemoryDriver):
    """What is redriven fails at once, and is a dead letter again."""

    calls = 0

    async def redrive(self, queue: str, *, limit: int) -> int:
        self.calls += 1
        count = await super().redrive(queue, limit=limit)
        await bury(self, count)
        return count


async def test_what_dies_again_meanwhile_is_not_redriven_for_ever() -> None:
    driver, told = DiesAgain(), list[int]()
    await Queue(driver).dispatch([Bill(who=str(number)) for number in range(150)])
    await bury(driver, 150)

    moved = await operator_of(driver).redrive("default", limit=None, rate=None, on_progress=told.append)

    assert (moved, told, driver.calls) == (150, [100, 150], 2)


async def test_nothing_is_waited_for_after_the_last_dead_letter() -> None:
    driver = MemoryDriver()
    await Queue(driver).dispatch([Bill(who="a")])
    await bury(driver, 1)

    async with asyncio.timeout(SOON_S):
        await operator_of(driver).redrive("default", limit=None, rate=0.001, on_progress=lambda _: None)


class Blind(MemoryDriver):
    """Can't look at its messages, as Amazon SQS."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, inspects=NO)


async def test_what_a_driver_can_not_show_is_refused_and_depth_and_redrive_work() -> None:
    driver = Blind()
    await Queue(driver).dispatch([Bill(who="a")])
    await bury(driver, 1)
    operator = operator_of(driver)

    assert (await operator.depths(["default"]))["default"].dead == 1
    assert await operator.redrive("default", limit=None, rate=None, on_progress=lambda _: None) == 1
    with pytest.raises(UnsupportedFeature, match="can't look at its messages"):
        await operator.search(TaskFilter(), limit=1)


Row = tuple[str, bool, bool]


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans(), st.booleans()), max_size=40),
    limit=st.integers(1, 20),
)
async def test_pages_hold_everything_that_is_meant_once_and_in_order(rows: Sequence[Row], limit: int) -> None:
    driver = MemoryDriver()
    tasks = [(Bill(who="x") if bill else Ship(order=1, to=Address("y"))) for _, bill, _ in rows]
    placed = [
        task.on_queue(queue).delay(60 if later else 0) for task, (queue, _, later) in zip(tasks, rows, strict=True)
    ]
    ids = await Queue(driver).dispatch(placed)
    meant = [(row[0], task_id) for row, task_id in zip(rows, ids, strict=True) if row[1] and not row[2]]

    wanted = TaskFilter(task="Bill", state=State.READY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_operator, "SCAN", 7)
        found = await ids_of(operator_of(driver), wanted, limit)

    assert found == [task_id for _, task_id in sorted(meant, key=lambda pair: pair[0])]
