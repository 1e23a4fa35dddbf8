"""Schedules in the worker: which it plants, what it refuses at its start, and what becomes of damaged tickers."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from asynctasq import AsyncTask, Cron, Every
from asynctasq.codec.envelope import MAGIC, WIRE_VERSION
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.paused_queues import PAUSES_QUEUE
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.schedule_duty import ScheduleDuty, all_notes, check_keeps_schedules, note
from asynctasq.core.schedule_messages import ScheduledTask, ScheduleMessages, definitions_of
from asynctasq.core.schedule_operator import ScheduleOperator
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import NO, Message
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import BadSignature, ConfigError, UndecodableBody, UnsupportedFeature
from asynctasq.kernel.messages import State
from asynctasq.kernel.schedule import CronRule, ScheduleDefinition, Tick, Ticker, ticker_id
from asynctasq.tasks.application import Application
from asynctasq.tasks.schedules import Schedule
from tests.patience import SOON_S, until

RAN: list[str] = []
KEYS = {"2026": b"k" * 32}


class Report(AsyncTask[None]):
    kind: str = "daily"

    async def execute(self) -> None:
        RAN.append(self.kind)


class Needs(AsyncTask[None]):
    kind: str

    async def execute(self) -> None: ...


class Elsewhere(AsyncTask[None]):
    queue = "other"

    async def execute(self) -> None: ...


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


def scheduled(schedule: Schedule, *, name: str = "report", task: type[AsyncTask[Any]] = Report) -> ScheduledTask:
    return ScheduledTask(task=task, schedule=schedule, name=name)


def definition(schedule: Schedule, **choices: Any) -> ScheduleDefinition:
    [made] = definitions_of([scheduled(schedule, **choices)]).values()
    return made


@asynccontextmanager
async def working(
    driver: MemoryDriver, *schedules: ScheduledTask, queues: str = "default", **settings: Any
) -> AsyncIterator[Worker]:
    """Run a worker in real time, with its schedules looked after often."""
    given = WorkerSettings(
        schedules=schedules, schedule_check_s=0.05, handle_signals=False, application=Application(), **settings
    )
    worker = Worker(driver, queues, settings=given, runtime=ProductionRuntime(wait_s=0.2))
    running = asyncio.create_task(worker.start())
    try:
        yield worker
    finally:
        worker.stop()
        await running


def finds(driver: MemoryDriver, name: str, state: State | None = None) -> Callable[[], Any]:
    async def found() -> Any:
        stored = await driver.find(ticker_id(name))
        return stored if stored is not None and (state is None or stored.state is state) else None

    return found


def ticker_of(stored: Any, messages: ScheduleMessages | None = None) -> Ticker:
    return (messages or ScheduleMessages()).ticker_in(stored.id, stored.queue, stored.body)


async def test_a_worker_enqueues_the_tickers_of_its_schedules() -> None:
    driver = MemoryDriver()

    async with working(driver, scheduled(Cron("0 3 1 1 *")), scheduled(Every(weeks=9), name="other", task=Elsewhere)):
        here = await until(finds(driver, "report", State.SCHEDULED))
        there = await until(finds(driver, "other", State.READY))

    assert (here.queue, there.queue) == ("default", "other")
    assert ticker_of(here).next_at is not None


async def test_a_ticker_that_lives_is_left_as_it_is() -> None:
    driver = MemoryDriver()
    own = definition(Every(weeks=9))
    before = Ticker(definition=own, next_at=4e9, last_at=1.0)
    await driver.enqueue([ScheduleMessages().ticker(before, delay_s=1e8)])

    async with working(driver, scheduled(Every(weeks=9))):
        await until(lambda: _looked(driver))

    stored = await driver.find(ticker_id("report"))
    assert ticker_of(stored) == before


async def _looked(driver: MemoryDriver) -> bool:
    return len(await all_notes(driver)) >= 2


async def test_a_changed_schedule_takes_the_place_of_the_old_and_keeps_its_last_tick() -> None:
    driver = MemoryDriver()
    before = Ticker(definition=definition(Every(weeks=9)), next_at=4e9, last_at=1.0)
    await driver.enqueue([ScheduleMessages().ticker(before, delay_s=1e8)])

    async with working(driver, scheduled(Every(weeks=3))):

        async def replaced() -> bool:
            stored = await driver.find(ticker_id("report"))
            return stored is not None and ticker_of(stored).definition == definition(Every(weeks=3))

        await until(replaced)

    assert ticker_of(await driver.find(ticker_id("report"))).last_at == 1.0


async def test_a_schedule_that_moved_from_a_queue_nobody_serves_goes_on() -> None:
    driver = MemoryDriver()
    before = definition(Every(weeks=9), task=Elsewhere)
    await driver.enqueue([ScheduleMessages().ticker(Ticker(definition=before, next_at=1_000.0, last_at=1.0))])

    async with working(driver, scheduled(Every(weeks=9))):
        await until(lambda: RAN)

    assert RAN == ["daily"], "the tick that was due there is run here, once"
    stored = await driver.find(ticker_id("report"))
    assert stored is not None
    assert stored.queue == "default"


async def test_a_dead_ticker_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    await driver.enqueue([Message(id=ticker_id("report"), queue="default", body=b"damaged")])

    async with working(driver, scheduled(Every(weeks=9))):
        await until(finds(driver, "report", State.SCHEDULED))

    assert "the ticker of schedule 'report' was a dead letter; it begins anew" in caplog.text


async def test_a_schedule_that_left_the_code_ends_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    driver = MemoryDriver()
    caplog.set_level(logging.WARNING)
    async with working(driver, scheduled(Every(weeks=9)), scheduled(Every(weeks=9), name="gone")):
        await until(finds(driver, "gone", State.SCHEDULED))

    async with working(driver, scheduled(Every(weeks=9))):
        await until(lambda: "gone" in caplog.text)

    assert "schedule 'gone' has ended: the code does not have it any more" in caplog.text
    assert await driver.find(ticker_id("gone")) is None
    assert await driver.find(ticker_id("report")) is not None


async def test_the_last_schedule_of_an_application_ends_at_its_next_tick() -> None:
    driver = MemoryDriver()
    async with working(driver, scheduled(Every(seconds=1, arguments={"kind": "old"}))):
        await until(lambda: RAN)
    ran = len(RAN)
    given = WorkerSettings(schedules=(), handle_signals=False, application=Application(("tests",)))
    worker = Worker(driver, settings=given, runtime=ProductionRuntime(wait_s=0.2))

    running = asyncio.create_task(worker.start())
    await until(lambda: _is_gone(driver, "report"))
    worker.stop()
    await running

    assert len(RAN) <= ran + 1


async def _is_gone(driver: MemoryDriver, name: str) -> bool:
    return await driver.find(ticker_id(name)) is None


async def test_a_worker_that_knows_no_code_ends_nothing() -> None:
    driver = MemoryDriver()
    async with working(driver, scheduled(Every(seconds=1))):
        await until(lambda: RAN)
    ran = len(RAN)

    async with working(driver):
        await until(lambda: len(RAN) > ran + 1)

    assert await driver.find(ticker_id("report")) is not None


async def test_a_worker_without_schedules_asks_the_store_for_nothing_more() -> None:
    calls: list[str] = []

    class Counting(MemoryDriver):
        async def enqueue(self, messages: Any) -> list[str]:
            calls.append("enqueue")
            return await super().enqueue(messages)

        async def find(self, message_id: str) -> Any:
            calls.append("find")
            return await super().find(message_id)

        async def list_messages(self, queue: str, **more: Any) -> Any:
            if queue != PAUSES_QUEUE:
                calls.append("list_messages")
            return await super().list_messages(queue, **more)

    driver = Counting()
    await driver.enqueue([Message(id="m", queue="default", body=b"damaged")])
    calls.clear()
    async with working(driver):
        await until(lambda: driver._dead.get("default"))

    assert calls == []


PROGRAM = """
import asyncio
from asynctasq import AsyncTask, Every, Worker
from asynctasq.drivers.memory_driver import MemoryDriver

class Ticking(AsyncTask[None]):
    schedule = Every(seconds=1)

    async def execute(self) -> None:
        print("ticked")
        worker.stop()

worker = Worker(MemoryDriver())
asyncio.run(worker.start())
"""


def test_a_worker_keeps_the_schedules_of_all_imported_tasks_unless_told_otherwise() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=SOON_S, check=True)

    assert done.stdout == "ticked\n"


async def test_in_a_test_run_a_worker_keeps_none_unless_told_which() -> None:
    class Ticking(AsyncTask[None]):
        schedule = Every(weeks=9)

        async def execute(self) -> None: ...

    driver = MemoryDriver()
    worker = Worker(driver, settings=WorkerSettings(handle_signals=False, burst=True))
    await worker.start()

    assert await driver.queues() == []


async def test_a_driver_that_can_not_keep_schedules_is_refused_at_the_start() -> None:
    driver = MemoryDriver()
    driver.capabilities = replace(driver.capabilities, inspects=NO)
    given = WorkerSettings(schedules=[scheduled(Every(hours=1))], handle_signals=False)

    with pytest.raises(UnsupportedFeature, match="can't keep schedules: it can't look for a message by its id"):
        await Worker(driver, settings=given).start()


@pytest.mark.parametrize(
    ("schedules", "says"),
    [
        (
            [scheduled(Every(hours=1)), scheduled(Every(hours=2), task=Elsewhere)],
            "have schedules of one name, 'report'",
        ),
        (
            [scheduled(Every(hours=1), task=Needs)],
            r"no message can be made for .*Needs: .*lacks kind; give what it takes",
        ),
        ([scheduled(Every(hours=1, arguments={"kind": object()}))], "no message can be made"),
        ([scheduled(Every(hours=1, arguments={"nope": 1}))], "got unexpected arguments: nope"),
    ],
)
async def test_schedules_that_can_not_work_are_told_at_the_start(schedules: list[ScheduledTask], says: str) -> None:
    given = WorkerSettings(schedules=schedules, handle_signals=False)

    with pytest.raises(ConfigError, match=says):
        await Worker(MemoryDriver(), settings=given).start()


async def test_signed_schedules_run_and_others_do_not() -> None:
    driver, keys = MemoryDriver(), SigningKeys(KEYS)
    messages = ScheduleMessages(keys=keys)
    async with working(driver, scheduled(Every(seconds=1)), signing_keys=KEYS):
        await until(lambda: len(RAN) > 1)
        stored = await until(finds(driver, "report", State.SCHEDULED))

    assert ticker_of(stored, messages).definition == definition(Every(seconds=1))
    with pytest.raises(BadSignature):
        messages.ticker_in(stored.id, "other", stored.body)
    with pytest.raises(BadSignature):
        messages.ticker_in(ticker_id("other"), stored.queue, stored.body)


def test_what_is_no_ticker_is_told() -> None:
    own = definition(Every(hours=1))
    run = ScheduleMessages().run(own, Tick(nominal_at=3600.0, delay_s=0.0), now=3600.0)

    with pytest.raises(UndecodableBody, match="is no ticker of a schedule"):
        ScheduleMessages().ticker_in(run.id, run.queue, run.body)


def test_a_message_of_a_tick_is_the_same_whoever_makes_it() -> None:
    own, tick = definition(Every(hours=1)), Tick(nominal_at=3600.0, delay_s=0.5)

    first, second = (ScheduleMessages().run(own, tick, now=3600.0) for _ in range(2))

    assert first == second
    assert ScheduleMessages().run(own, Tick(nominal_at=7200.0, delay_s=0.0), now=0.0).id != first.id


async def test_a_worker_goes_off_duty_when_it_stops() -> None:
    driver = MemoryDriver()
    async with working(driver, scheduled(Every(weeks=9))):
        await until(finds(driver, "report"))

    kinds = [note.id.split(":")[1] for note in await all_notes(driver)]
    assert sorted(kinds) == ["code", "name"]


async def test_codes_that_nobody_has_are_forgotten_after_twenty() -> None:
    store = check_keeps_schedules(MemoryDriver())
    for count in range(30):
        duty = ScheduleDuty(store, f"w{count}", report_s=60)
        assert await duty.report("default", [definition(Every(hours=count + 1))]) is not None
        await duty.end()

    assert 19 < len(await all_notes(store)) < 24


# -- the operator ----------------------------------------------------------------------------------


async def test_an_operator_sees_what_is_in_the_store_and_in_the_code() -> None:
    driver, own = MemoryDriver(), definition(Cron("0 3 * * *", tz="Europe/Berlin"))
    other = definition(Every(hours=1), name="elsewhere")
    async with working(driver, scheduled(Cron("0 3 * * *", tz="Europe/Berlin"))):
        await until(finds(driver, "report", State.SCHEDULED))

    by_code = ScheduleOperator(driver, ScheduleMessages(), {"report": own, "elsewhere": other})
    without = ScheduleOperator(driver, ScheduleMessages(), {})

    [new, old] = await by_code.views()
    assert (new.name, new.state, new.defined, new.next_at) == ("elsewhere", "not started", True, None)
    assert (old.name, old.state, old.defined, old.rule, old.tz) == (
        "report",
        "active",
        True,
        "0 3 * * *",
        "Europe/Berlin",
    )
    [alone] = await without.views()
    assert (alone.name, alone.defined, alone.task) == ("report", False, f"{__name__}:Report")
    assert alone.next_at is not None


NEWER = bytes([MAGIC, WIRE_VERSION + 1])
FORGED = {
    "a time zone that there is not": {"rule": CronRule(expression="* * * * *", tz="No/Where")},
    "an expression that is none": {"rule": CronRule(expression="no cron", tz="UTC")},
    "a template that is none": {"template": b"no envelope"},
    "a template of a newer version": {"template": NEWER},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
async def test_a_forged_ticker_is_shown_as_damaged_and_the_others_as_they_are(changes: dict[str, Any]) -> None:
    driver, own = MemoryDriver(), definition(Every(weeks=9))
    forged = replace(own, name="forged", **changes)
    notes = [note("name", "forged"), note("name", "report"), note("pause"), note("name"), note("pause", "a", "b")]
    tickers = [ScheduleMessages().ticker(Ticker(definition=one, next_at=4e9)) for one in (own, forged)]
    await driver.enqueue([*notes, *tickers])

    views = await ScheduleOperator(driver, ScheduleMessages(), {}).views()

    assert [(view.name, view.state) for view in views] == [("forged", "damaged"), ("report", "active")]


async def test_a_ticker_with_a_template_of_a_newer_version_is_a_dead_letter() -> None:
    driver = MemoryDriver()
    forged = replace(definition(Every(seconds=1)), template=NEWER)
    await driver.enqueue([ScheduleMessages().ticker(Ticker(definition=forged, next_at=1.0))])

    async with working(driver):
        await until(finds(driver, "report", State.DEAD))


async def test_a_damaged_ticker_is_shown_as_such() -> None:
    driver, own = MemoryDriver(), definition(Every(hours=1))
    await driver.enqueue([Message(id=ticker_id("report"), queue="default", body=b"damaged")])

    [view] = await ScheduleOperator(driver, ScheduleMessages(), {"report": own}).views()

    assert (view.state, view.next_at) == ("damaged", None)


async def test_a_paused_schedule_does_not_run_until_it_is_resumed() -> None:
    driver = MemoryDriver()
    operator = ScheduleOperator(driver, ScheduleMessages(), {"report": definition(Every(seconds=1))})
    assert await operator.pause("report")
    assert not await operator.pause("report"), "it was paused already"

    async with working(driver, scheduled(Every(seconds=1))):
        first = await until(finds(driver, "report", State.SCHEDULED))

        async def passed_by() -> bool:
            stored = await driver.find(ticker_id("report"))
            return stored is not None and (ticker_of(stored).next_at or 0) > (ticker_of(first).next_at or 0) + 1

        await until(passed_by)
        assert RAN == []
        assert [view.state for view in await operator.views()] == ["paused"]
        assert await operator.resume("report")
        assert not await operator.resume("report")
        await until(lambda: RAN)


async def test_what_was_due_before_a_pause_passes_by_as_well() -> None:
    driver, own = MemoryDriver(), definition(Every(weeks=9, misfire="run_all"))
    operator = ScheduleOperator(driver, ScheduleMessages(), {"report": own})
    await operator.pause("report")
    await driver.enqueue([ScheduleMessages().ticker(Ticker(definition=own, next_at=1_000.0))])

    async with working(driver, scheduled(Every(weeks=9, misfire="run_all"))):
        await until(finds(driver, "report", State.SCHEDULED))

    assert RAN == []


async def test_a_late_ticker_of_a_served_queue_is_left_to_who_runs_it() -> None:
    driver = MemoryDriver()
    before = Ticker(definition=definition(Every(weeks=9), task=Elsewhere), next_at=1_000.0)
    await driver.enqueue([ScheduleMessages().ticker(before)])

    async with working(driver, scheduled(Every(weeks=3), task=Elsewhere)):
        await until(lambda: _looked(driver))

    assert ticker_of(await driver.find(ticker_id("report"))) == before


async def test_a_run_by_hand_is_beside_the_ticks() -> None:
    driver = MemoryDriver()
    operator = ScheduleOperator(driver, ScheduleMessages(), {"report": definition(Every(weeks=9))})

    await operator.run("report", "by-hand", now=1e9)

    [lease] = await driver.reserve(["default"], limit=5, lease_s=30)
    assert lease.message_id == "by-hand"


class OfATenant(AsyncTask[None]):
    fair_key = staticmethod(lambda _: "acme")

    async def execute(self) -> None: ...


class OnceAtATime(AsyncTask[None]):
    unique = True

    async def execute(self) -> None: ...


async def test_a_run_by_hand_is_told_who_holds_the_key_of_a_unique_task() -> None:
    driver, own = MemoryDriver(), definition(Every(weeks=9), task=OnceAtATime)
    operator = ScheduleOperator(driver, ScheduleMessages(), {"report": own})

    assert await operator.run("report", "first", now=1e9) == "first"
    assert await operator.run("report", "second", now=1e9) == "first"


async def test_a_unique_task_on_a_driver_without_keys_is_refused_at_the_start() -> None:
    driver = MemoryDriver()
    driver.capabilities = replace(driver.capabilities, unique=NO)

    with pytest.raises(UnsupportedFeature, match="the task of schedule 'report' has unique set"):
        async with working(driver, scheduled(Every(hours=1), task=OnceAtATime)):
            pass


async def test_a_task_with_a_fair_key_on_a_driver_without_turns_is_refused_at_the_start() -> None:
    driver = MemoryDriver()
    driver.capabilities = replace(driver.capabilities, fair=NO)

    with pytest.raises(UnsupportedFeature, match="the task of schedule 'report' has fair_key set"):
        async with working(driver, scheduled(Every(hours=1), task=OfATenant)):
            pass


async def test_the_next_ticks_come_from_the_store() -> None:
    driver, own = MemoryDriver(), definition(Every(hours=1))
    operator = ScheduleOperator(driver, ScheduleMessages(), {"report": own})

    assert (await operator.next_ticks("report", 2, now=0.0))[1] == [3600.0, 7200.0]
    await driver.enqueue([ScheduleMessages().ticker(Ticker(definition=own, next_at=36_000.0), delay_s=60)])

    assert (await operator.next_ticks("report", 3, now=0.0))[1] == [36_000.0, 39_600.0, 43_200.0]


async def test_an_unknown_name_is_told_with_the_nearest() -> None:
    operator = ScheduleOperator(MemoryDriver(), ScheduleMessages(), {"report": definition(Every(hours=1))})

    with pytest.raises(ConfigError, match=r"there is no schedule 'reprot'; did you mean 'report'\?"):
        await operator.pause("reprot")
    with pytest.raises(ConfigError, match="known: none"):
        await ScheduleOperator(MemoryDriver(), ScheduleMessages(), {}).run("x", "id", now=0.0)
