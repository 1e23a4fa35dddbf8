"""What may be written as limits of a task, and what their names become at the dispatch."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from asynctasq import AsyncTask, SyncTask, task
from asynctasq.codec.envelope import decode_envelope
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import DispatchError, TaskDefinitionError, UnsupportedFeature
from asynctasq.kernel.limits import LimitRule
from asynctasq.limits import ConcurrencyLimit, RateLimit
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.limits import Limit, rules_of
from asynctasq.testing import FakeQueue


class Charge(AsyncTask[None]):
    tenant: str
    limits = (ConcurrencyLimit("stripe", 5), RateLimit("api:{self.tenant}", 100, per=60))

    async def execute(self) -> None: ...


class Account:
    def __init__(self, number: int) -> None:
        self.number = number


class WithConstructor(SyncTask[None]):
    limits = [RateLimit("account {self.account.number}", 1, per=timedelta(seconds=2))]

    def __init__(self, number: int) -> None:
        super().__init__()
        self.account = Account(number)

    def execute(self) -> None: ...


@task(limits=[ConcurrencyLimit("mail:{to}:{kind}", 2)])
async def mail(to: str, kind: object = "plain") -> None: ...


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


VALUES: dict[str, object] = {"object": object(), "unspeakable": Unspeakable()}


class Elsewhere(SyncTask[None]):
    limits = [ConcurrencyLimit("{self.absent}", 1)]

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind in VALUES:
            self.absent = VALUES[kind]

    def execute(self) -> None: ...


def texts(made: BaseTask[Any]) -> Any:
    return decode_envelope(MessageFactory().message(made).body).limits


# -- as it is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "5", None, 10_001])
def test_a_number_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match="count must be"):
        ConcurrencyLimit("stripe", count)
    with pytest.raises(ValueError, match="count must be"):
        RateLimit("stripe", count, per=60)


@pytest.mark.parametrize("per", [0, -1, True, "60", None, float("inf"), float("nan"), timedelta()])
def test_a_period_that_is_none_is_refused(per: Any) -> None:
    with pytest.raises(ValueError, match="per must be"):
        RateLimit("stripe", 5, per=per)


@pytest.mark.parametrize("name", ["", "x" * 201, 7, None, b"x"])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="1 to 200 characters"):
        ConcurrencyLimit(name, 1)


@pytest.mark.parametrize(
    "name", ["{", "{}", "{0}", "{self.a!r}", "{self.a:>9}", "{self[a]}", "{self.a()}", "{self.}", "}"]
)
def test_a_wrong_placeholder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="wrong placeholder"):
        ConcurrencyLimit(name, 1)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ConcurrencyLimit("x", 1), "must be a list of limits"),
        ("x", "must be a list of limits"),
        ([5], "must hold ConcurrencyLimit"),
        ([ConcurrencyLimit("x", 1), ConcurrencyLimit("x", 2)], "two limits of the name 'x'"),
        ([ConcurrencyLimit("{self.tennant}", 1)], "names self.tennant, which the task does not have"),
        ([ConcurrencyLimit("{tenant}", 1)], r"write \{self.tenant\}"),
        ([ConcurrencyLimit("{self}", 1)], r"has the placeholder \{self\}"),
    ],
)
def test_wrong_limits_of_a_class_are_told_when_it_is_made(limits: Any, said: str) -> None:
    with pytest.raises(TaskDefinitionError, match=said):
        type("Wrong", (Charge,), {"limits": limits, "__module__": __name__})


def test_a_wrong_placeholder_of_a_function_is_told_when_it_is_made() -> None:
    with pytest.raises(TaskDefinitionError, match="'self', which is no parameter: tenant"):

        @task(limits=[ConcurrencyLimit("{self.tenant}", 1)])
        async def wrong(tenant: str) -> None: ...


def test_a_limit_of_each_kind_may_have_one_name() -> None:
    class Both(AsyncTask[None]):
        limits = [ConcurrencyLimit("x", 1), RateLimit("x", 1, per=1)]

        async def execute(self) -> None: ...

    assert len(rules_of(Both.limits, None)) == 2


def test_a_subclass_has_the_limits_of_its_class() -> None:
    class Special(Charge):
        async def execute(self) -> None: ...

    assert texts(Special(tenant="a")) == {"api:{self.tenant}": "api:a"}


def test_a_parameter_can_t_be_called_limits() -> None:
    with pytest.raises(TaskDefinitionError, match="limits"):

        class Wrong(AsyncTask[None]):
            def __init__(self, limits: int) -> None:
                super().__init__()

            async def execute(self) -> None: ...


# -- at the dispatch -------------------------------------------------------------------------------


def test_only_names_with_placeholders_travel() -> None:
    assert texts(Charge(tenant="acme")) == {"api:{self.tenant}": "api:acme"}
    assert texts(WithConstructor(7)) == {"account {self.account.number}": "account 7"}
    assert texts(mail("a@b.c")) == {"mail:{to}:{kind}": "mail:a@b.c:plain"}
    assert texts(mail("a@b.c", UUID(int=1))) == {"mail:{to}:{kind}": f"mail:a@b.c:{UUID(int=1)}"}


def test_a_brace_is_written_twice() -> None:
    limit = ConcurrencyLimit("{{x}}", 1)

    assert rules_of([limit], None) == [LimitRule("{x}", 1)]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Charge(tenant="x" * 10_000), "has 10,004 characters"),
        (lambda: Elsewhere("object"), "object has no text of its own"),
        (lambda: Elsewhere("unspeakable"), "has no value: no"),
        (lambda: Elsewhere("none"), "no attribute 'absent'"),
    ],
)
async def test_a_name_that_can_t_be_made_stores_nothing(made: Any, said: str) -> None:
    driver = MemoryDriver()

    with pytest.raises(DispatchError, match=said):
        await Queue(driver).dispatch([made()])

    assert await driver.queues() == []


async def test_a_driver_that_keeps_no_limits_refuses_the_dispatch() -> None:
    with pytest.raises(UnsupportedFeature, match="can't keep any"):
        await Queue(create_driver("sqs://eu-west-1")).dispatch([Charge(tenant="a")])
    with FakeQueue(like="sqs://eu-west-1"), pytest.raises(UnsupportedFeature, match="can't keep any"):
        await Charge(tenant="a").dispatch()


# -- in the worker ---------------------------------------------------------------------------------


def test_numbers_are_those_of_the_code_and_texts_those_of_the_message() -> None:
    limits: list[Limit] = [RateLimit("b", 2, per=timedelta(minutes=1)), ConcurrencyLimit("a:{self.x}", 3)]

    assert rules_of(limits, {"a:{self.x}": "a:1", "gone": "?"}) == [LimitRule("a:1", 3), LimitRule("b", 2, 60.0)]


def test_a_limit_with_placeholders_that_is_new_does_not_count_for_older_messages() -> None:
    assert rules_of([ConcurrencyLimit("a:{self.x}", 3), ConcurrencyLimit("b", 1)], None) == [LimitRule("b", 1)]


def test_the_order_is_that_of_the_names_whatever_is_written_first() -> None:
    limits: list[Limit] = [RateLimit("a", 1, per=1), ConcurrencyLimit("b", 1), ConcurrencyLimit("a", 1)]

    keys = [rule.key for rule in rules_of(limits, None)]

    assert keys == [rule.key for rule in rules_of(limits[::-1], None)] == sorted(keys)


def test_two_names_that_become_one_are_one() -> None:
    limits: list[Limit] = [ConcurrencyLimit("{self.a}", 3), ConcurrencyLimit("{self.b}", 2)]

    assert len(rules_of(limits, {"{self.a}": "x", "{self.b}": "x"})) == 1
