"""The setting `fair_key`: where it is read, what is refused, and whose task runs when."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from asynctasq import AsyncTask, SyncTask, dispatch_many, dispatch_many_sync, task
from asynctasq.codec.schedule import decode_ticker, encode_ticker
from asynctasq.core.schedule_messages import ScheduledTask, ScheduleMessages, definitions_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.errors import DispatchError, TaskDefinitionError, UnsupportedFeature
from asynctasq.kernel.messages import UniqueKey
from asynctasq.kernel.schedule import Tick, Ticker
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.schedules import Every
from asynctasq.testing import FakeQueue, Simulation, simulate

RAN: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


class Report(AsyncTask[None]):
    """Notes that it runs; the first attempt of those named so fails."""

    tenant: object
    name: str = ""
    fair_key = "tenant"
    retry_delay = 0

    async def execute(self) -> None:
        RAN.append(f"{self.tenant}{self.name}")
        if self.name.startswith("failing") and self.attempt == 1:
            raise ValueError(self.name)


class ByMethod(SyncTask[None]):
    def __init__(self, account: tuple[str, int], **rest: Any) -> None:
        super().__init__(**rest)
        self.account = account

    def fair_key(self) -> str:
        return f"{self.account[0]}-{self.account[1]}"

    def execute(self) -> None: ...


@task(fair_key="tenant")
async def export(number: int, tenant: str = "nobody") -> None:
    RAN.append(f"{tenant}{number}")


@task(fair_key=lambda self: self.tenant[:3])
def upload(tenant: str) -> None: ...


@task
def plain(tenant: str) -> None: ...


def key_of(of: BaseTask[Any]) -> str:
    return MessageFactory().message(of).fair_key


# -- where it is read --------------------------------------------------------------------------------


def test_it_is_an_argument_an_attribute_or_what_a_function_returns() -> None:
    assert key_of(Report(tenant="acme")) == "acme"
    assert key_of(ByMethod(("acme", 7))) == "acme-7"
    assert key_of(export(1, tenant="acme")) == "acme"
    assert key_of(export(1)) == "nobody"
    assert key_of(upload("acme inc")) == "acm"
    assert key_of(plain("acme")) == ""


def test_a_dispatch_can_say_it() -> None:
    assert key_of(plain("acme").with_options(fair_key="tenant")) == "acme"
    assert key_of(plain("acme").with_options(fair_key=lambda self: self.tenant.upper())) == "ACME"
    assert key_of(export(1).with_options(fair_key=None)) == "nobody"


def test_a_number_and_a_uuid_are_written_as_text() -> None:
    number = UUID(int=7)

    assert key_of(Report(tenant=12)) == "12"
    assert key_of(Report(tenant=number)) == str(number)


def test_none_is_no_key() -> None:
    assert key_of(Report(tenant=None)) == ""


def test_an_attribute_that_the_constructor_makes_is_read_at_the_dispatch() -> None:
    class Made(AsyncTask[None]):
        fair_key = "owner"

        def __init__(self, user: str) -> None:
            super().__init__()
            self.owner = user.partition("@")[2]

        async def execute(self) -> None: ...

    assert key_of(Made("a@acme")) == "acme"


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "says"),
    [
        ("", "1 to 200 characters"),
        ("t" * 201, "1 to 200 characters"),
        ("a\n", "printable"),
        (True, "a text, not True"),
        (1.5, "a text, not 1.5"),
        (["a"], "a text, not"),
    ],
)
def test_a_value_that_is_no_key_is_an_error_of_the_dispatch(tenant: object, says: str) -> None:
    with pytest.raises(DispatchError, match=says) as caught:
        key_of(Report(tenant=tenant))

    assert "Report: a fair key must" in str(caught.value)


def test_an_attribute_that_is_missing_is_an_error_of_the_dispatch() -> None:
    with pytest.raises(DispatchError, match=r"plain: its fair_key can't be read: AttributeError: .*'team'"):
        key_of(plain("acme").with_options(fair_key="team"))


def test_a_function_that_fails_is_an_error_of_the_dispatch() -> None:
    with pytest.raises(DispatchError, match="its fair_key can't be read: ZeroDivisionError"):
        key_of(plain("acme").with_options(fair_key=lambda _: 1 / 0))


@pytest.mark.parametrize("value", [7, "a b", "", b"tenant", int])
def test_what_is_neither_a_name_nor_a_function_is_no_setting(value: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="fair_key must be the name of"):
        task(fair_key=value)(lambda tenant: None)
    with pytest.raises(ValueError, match="fair_key must be the name of"):
        plain("acme").with_options(fair_key=value)


def test_a_name_that_the_task_does_not_have_is_refused_when_it_is_defined() -> None:
    def send(tenant: str) -> None: ...

    with pytest.raises(
        TaskDefinitionError, match=r"send\.fair_key names 'team', which is no argument of it; it has tenant"
    ):
        task(fair_key="team")(send)
    with pytest.raises(TaskDefinitionError, match="names 'team'"):
        type("Typed", (Report,), {"fair_key": "team", "__module__": __name__})


@pytest.mark.parametrize("driver", [SQSDriver(region="eu-central-1"), MySQLDriver("mysql://localhost/db")], ids=str)
async def test_a_driver_that_gives_no_key_its_turn_refuses_it(driver: Any) -> None:
    with pytest.raises(UnsupportedFeature, match=r"has fair_key set, but .* use a queue for each key"):
        await Queue(driver=driver).dispatch([Report(tenant="acme")])


def test_a_fake_queue_like_such_a_driver_refuses_it_too() -> None:
    with FakeQueue(like="sqs"), pytest.raises(UnsupportedFeature, match="fair_key"):
        Report(tenant="acme").dispatch_sync()


# -- what runs when ------------------------------------------------------------------------------------


def test_keys_take_turns_and_a_retry_does_not_wait_behind_them() -> None:
    with FakeQueue() as queue:
        dispatch_many_sync([Report(tenant="a", name=str(number)) for number in range(40)])
        dispatch_many_sync([Report(tenant="b", name="failing"), Report(tenant="b", name="1")])
        assert [one.fair_key for one in queue.dispatched()] == [*"a" * 40, *"bb"]
        assert str(queue.dispatched()[0]).endswith(" fair_key=a")
        queue.run_until_idle_sync()

    assert RAN[:6] == ["a0", "a1", "bfailing", "a2", "b1", "a3"]
    again = RAN.index("bfailing", 3)
    assert again < 30, "the retry waits by time, not behind all that waits by rank"


@simulate(runs=10, workers=1, concurrency=1, faults=())
async def test_in_a_simulation_a_small_tenant_is_done_soon(sim: Simulation) -> None:
    RAN.clear()
    await dispatch_many([export(number, tenant="large") for number in range(30)])
    await dispatch_many([export(number, tenant="small") for number in range(3)])
    await sim.settle()

    assert len(RAN) == 33
    begun = RAN.index("small0")
    assert RAN.index("small2") - begun <= 5


async def test_a_queue_stores_the_key_with_the_message() -> None:
    queue = Queue(driver=MemoryDriver())
    for number in range(4):
        await queue.dispatch([export(number, tenant="a")])
    await queue.dispatch([export(0, tenant="b")])

    order = [(await queue.driver.reserve(["default"], limit=1, lease_s=60))[0].body for _ in range(5)]

    assert [b"b" in body.split(b"tenant")[1][:4] for body in order] == [False, False, True, False, False]


# -- schedules -------------------------------------------------------------------------------------------


def test_a_schedule_keeps_the_key_of_its_task() -> None:
    item = ScheduledTask(task=Report, schedule=Every(seconds=60, arguments={"tenant": "acme"}), name="report")
    [definition] = definitions_of([item]).values()
    assert definition.fair_key == "acme"
    back = decode_ticker(encode_ticker(Ticker(definition=definition))).definition

    messages = ScheduleMessages()

    assert back == definition
    assert messages.run(back, Tick(nominal_at=60.0, delay_s=0.0), now=60.0).fair_key == "acme"
    assert messages.run_now(back, "id", now=60.0).fair_key == "acme"
    assert messages.ticker(Ticker(definition=back)).fair_key == ""


@pytest.mark.parametrize("unique", [None, UniqueKey(key="k")])
def test_a_ticker_without_a_fair_key_is_as_it_was(unique: UniqueKey | None) -> None:
    item = ScheduledTask(task=Report, schedule=Every(seconds=60, arguments={"tenant": None}), name="report")
    [definition] = definitions_of([item]).values()
    with_key = replace(definition, unique=unique, fair_key="acme")
    without = replace(definition, unique=unique)

    shorter, longer = encode_ticker(Ticker(definition=without)), encode_ticker(Ticker(definition=with_key))

    assert len(shorter) + len(b"\xa4acme") <= len(longer)
    assert decode_ticker(shorter).definition == without
