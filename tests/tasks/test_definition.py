"""Mistakes in a task are told when its class is made or it is built, and name what to do."""

import math
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DispatchError, TaskDefinitionError
from asynctasq.kernel.retry import Delays, Exponential, Fixed
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask, Task, task
from asynctasq.tasks.definition import options_of

ASYNC_KINDS = [AsyncTask, AsyncProcessTask]
SYNC_KINDS = [SyncTask, SyncProcessTask]


def make(settings: dict[str, object], base: type[BaseTask[Any]] = SyncTask) -> type[BaseTask[Any]]:
    def execute(self: Any) -> None:
        return None

    return type("Made", (base,), {"__module__": __name__, "execute": execute, **settings})


@pytest.mark.parametrize("base", [*ASYNC_KINDS, *SYNC_KINDS])
def test_a_task_without_execute_can_not_be_built(base: type[BaseTask[Any]]) -> None:
    cls = type("Idle", (base,), {"__module__": __name__})

    with pytest.raises(TaskDefinitionError, match=r"Idle has no execute\(\); add `(async )?def execute\(self\)`"):
        cls()


def test_a_base_without_execute_may_be_derived_from() -> None:
    base = type("Base", (SyncTask,), {"__module__": __name__, "queue": "mail"})

    cls = make({}, base)

    assert options_of(cls()).queue == "mail"


@pytest.mark.parametrize("base", ASYNC_KINDS)
def test_def_execute_in_an_async_task_is_refused(base: type[BaseTask[Any]]) -> None:
    with pytest.raises(TaskDefinitionError, match=r"Made\.execute must be `async def`.*derive from SyncTask"):
        make({}, base)


@pytest.mark.parametrize("base", SYNC_KINDS)
def test_async_def_execute_in_a_sync_task_is_refused(base: type[BaseTask[Any]]) -> None:
    async def execute(self: Any) -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"Made\.execute must be `def`.*derive from AsyncTask"):
        make({"execute": execute}, base)


def yields(self: Any) -> Iterator[int]:
    yield 1


async def yields_async(self: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("base", [AsyncTask, SyncTask])
@pytest.mark.parametrize("execute", [yields, yields_async, 5], ids=["generator", "async generator", "a number"])
def test_execute_that_does_not_return_is_refused(base: type[BaseTask[Any]], execute: object) -> None:
    with pytest.raises(TaskDefinitionError, match="must be a method that returns"):
        make({"execute": execute}, base)


@pytest.mark.parametrize("function", [yields, yields_async])
def test_a_function_that_yields_is_no_task(function: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="yields; a task must return"):
        task(function)


@pytest.mark.parametrize("name", ["queue", "timeout", "failed", "dispatch", "delay", "max_attempts", "attempt"])
def test_a_parameter_that_hides_the_api_is_refused(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def __init__(self, {name}, **kwargs): super(type(self), self).__init__(**kwargs)", namespace)

    with pytest.raises(TaskDefinitionError, match=rf"hide an attribute or method of every task: {name}; rename"):
        make({"__init__": namespace["__init__"]})


@pytest.mark.parametrize("name", ["data", "items", "key", "url", "payload", "body", "message", "name", "id"])
def test_ordinary_parameter_names_are_fine(name: str) -> None:
    class Ordinary(SyncTask[None]):
        def execute(self) -> None: ...

    assert vars(Ordinary(**{name: 1}))[name] == 1


def test_a_function_may_name_its_parameters_as_it_likes() -> None:
    @task
    def move(queue: str, timeout: int, delay: int) -> tuple[str, int, int]:
        return queue, timeout, delay

    built: Any = move("a", 1, delay=2)

    assert built.execute() == ("a", 1, 2)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("timeout", -1, "timeout must be more than 0 seconds, not -1"),
        ("timeout", 0, "timeout must be more than 0 seconds, not 0"),
        ("timeout", math.nan, "timeout must be more than 0 seconds, not nan"),
        ("timeout", math.inf, "timeout must be more than 0 seconds, not inf"),
        ("timeout", True, "timeout must be a number of seconds or a timedelta, not True"),
        ("timeout", "5", "timeout must be a number of seconds or a timedelta, not '5'"),
        ("max_attempts", -1, "max_attempts must be a whole number, 0 or more, not -1"),
        ("max_attempts", 1.5, "max_attempts must be a whole number, 0 or more, not 1.5"),
        ("max_attempts", True, "max_attempts must be a whole number, 0 or more, not True"),
        ("max_attempts", 2**31, "max_attempts must be 2147483647 at most, not 2147483648"),
        ("max_crashes", 0, "max_crashes must be a whole number, 1 or more, not 0"),
        ("max_crashes", sys.maxsize, "max_crashes must be 1000 at most"),
        ("retry_delay", [], "retry_delay is an empty list"),
        ("retry_delay", [1, -1], "each retry_delay must be 0 or more seconds, not -1"),
        ("retry_delay", -1, "retry_delay must be 0 or more seconds, not -1"),
        ("retry_delay", math.nan, "retry_delay must be 0 or more seconds, not nan"),
        ("retry_delay", "60", "retry_delay must be a number of seconds or a timedelta, not '60'"),
        ("retry_strategy", "linear", "retry_strategy must be one of fixed, exponential, not 'linear'"),
        ("keep_result", -5, "keep_result must be more than 0 seconds, not -5"),
        ("queue", "", "queue name"),
        ("queue", "two words", "queue name"),
        ("queue", "it's", "queue name"),
        ("queue", "a" * 500, "queue name"),
        ("queue", None, "queue name"),
        ("queue", 5, "queue name"),
        ("queue", "line\n", "queue name"),
        ("max_attempts", None, "max_attempts must be a whole number"),
        ("max_attempts", "3", "max_attempts must be a whole number"),
        ("timeout", timedelta(), "timeout must be more than 0 seconds"),
        ("retry_delay", None, "retry_delay must be a number of seconds"),
        ("retry_delay", True, "retry_delay must be a number of seconds"),
        ("keep_result", 0, "keep_result must be more than 0 seconds"),
        ("keep_result", "yes", "keep_result must be a number of seconds"),
        ("_driver_override", 5, "_driver_override must be the name of a driver, a driver, or None, not 5"),
        ("_driver_override", MemoryDriver, "_driver_override must be the name of a driver, a driver, or None, not"),
    ],
)
def test_a_setting_that_could_not_work_is_refused(setting: str, value: object, words: str) -> None:
    with pytest.raises(TaskDefinitionError) as refused:
        make({setting: value})

    assert str(refused.value).startswith("Made: ")
    assert words in str(refused.value)


def test_a_cap_that_could_not_work_is_refused_for_the_exponential_strategy() -> None:
    with pytest.raises(TaskDefinitionError, match="retry_delay_max must be 0 or more"):
        make({"retry_strategy": "exponential", "retry_delay_max": -1})


def test_the_same_checks_hold_for_a_function() -> None:
    with pytest.raises(TaskDefinitionError, match="timeout must be more than 0"):

        @task(timeout=-1)
        def never() -> None: ...


def test_an_unknown_setting_of_a_function_is_refused_with_the_known_ones() -> None:
    decorate: Any = task

    with pytest.raises(TaskDefinitionError, match=r"no setting max_attempt, tmeout; known: driver, .*timeout"):
        decorate(tmeout=5, max_attempt=3)


@pytest.mark.parametrize("thing", [5, SyncTask, "text", print])
def test_only_functions_are_decorated(thing: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="@task decorates functions"):
        task(thing)


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"retry_delay": 5}, Fixed(delay_s=5.0)),
        ({"retry_delay": timedelta(minutes=2)}, Fixed(delay_s=120.0)),
        ({"retry_delay": [1, timedelta(seconds=2), 0]}, Delays(delays_s=(1.0, 2.0, 0.0))),
        (
            {"retry_delay": 3, "retry_strategy": "exponential", "retry_delay_max": timedelta(minutes=1)},
            Exponential(base_s=3.0, cap_s=60.0),
        ),
    ],
)
def test_retry_settings_become_the_policy_they_describe(settings: dict[str, object], policy: object) -> None:
    assert options_of(make(settings)()).retry == policy


def test_no_attempts_is_kept_apart_from_the_default() -> None:
    assert options_of(make({"max_attempts": 0})()).max_attempts == 0


@pytest.mark.parametrize(
    ("kept", "seconds"), [(False, None), (True, 86_400.0), (5, 5.0), (timedelta(hours=1), 3_600.0)]
)
def test_keep_result_says_for_how_long(kept: object, seconds: float | None) -> None:
    assert options_of(make({"keep_result": kept})()).keep_result_s == seconds


def test_settings_are_inherited_and_overridden() -> None:
    parent = make({"queue": "parent", "max_attempts": 7})

    child = make({"queue": "child"}, parent)

    options = options_of(child())
    assert (options.queue, options.max_attempts) == ("child", 7)


def test_a_setting_assigned_later_holds_for_the_tasks_made_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = make({"max_attempts": 7})
    child = make({}, parent)
    earlier = child()

    with monkeypatch.context() as patch:
        patch.setattr(parent, "max_attempts", 1)
        patch.setattr(child, "queue", "elsewhere")
        assert (options_of(child()).max_attempts, options_of(child()).queue) == (1, "elsewhere")
        assert options_of(parent()).max_attempts == 1

    assert (options_of(child()).max_attempts, options_of(child()).queue) == (7, "default")
    assert options_of(earlier).max_attempts == 7


def test_a_setting_of_a_function_may_be_assigned_later_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def function() -> None: ...

    monkeypatch.setattr(function.task_class, "retry_delay", [1, 2])

    assert options_of(function()).retry == Delays(delays_s=(1.0, 2.0))


def test_a_setting_assigned_later_that_could_not_work_is_refused_when_a_task_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls = make({})

    monkeypatch.setattr(cls, "timeout", -1)

    with pytest.raises(TaskDefinitionError, match="timeout must be more than 0 seconds, not -1"):
        cls()


def test_task_is_another_name_of_async_task() -> None:
    assert Task is AsyncTask


class Forgetful(SyncTask[None]):
    def __init__(self, a: int) -> None:
        self.a = a

    def execute(self) -> None: ...


@pytest.mark.parametrize("use", [lambda built: MessageFactory().message(built), lambda built: built.on_queue("other")])
def test_a_forgotten_super_init_is_told_by_name(use: Any) -> None:
    with pytest.raises(DispatchError, match=r"Forgetful\.__init__ did not call super\(\)\.__init__\(\*\*kwargs\)"):
        use(Forgetful(1))


class Hiding(SyncTask[None]):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        setattr(self, name, "mine")

    def execute(self) -> None: ...


@pytest.mark.parametrize("name", ["queue", "timeout", "failed", "should_retry", "execute"])
def test_an_instance_attribute_that_hides_the_api_is_told_at_dispatch(name: str) -> None:
    with pytest.raises(DispatchError, match=rf"sets self\.{name}, which hides"):
        MessageFactory().message(Hiding(name))


@pytest.mark.parametrize("name", ["queue", "timeout", "_private", "_options"])
def test_an_undeclared_argument_that_hides_an_attribute_is_refused(name: str) -> None:
    class Bare(SyncTask[None]):
        def execute(self) -> None: ...

    with pytest.raises(TypeError, match=f"argument '{name}' would hide an attribute of the task; rename it"):
        Bare(**{name: 1})


class Declared(SyncTask[None]):
    def __init__(self, a: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a = a

    def execute(self) -> None: ...


def test_an_argument_the_constructor_does_not_declare_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Declared\(a\) got unexpected arguments: b"):
        Declared(1, b=2)


@pytest.mark.parametrize("name", ["dispatch", "dispatch_sync", "delay", "on_queue", "retry_after", "with_options"])
def test_a_method_that_would_replace_one_that_every_task_needs_is_refused(name: str) -> None:
    with pytest.raises(TaskDefinitionError, match=rf"Made\.{name} would replace a method that every task needs"):
        make({name: lambda self: None})


@pytest.mark.parametrize("name", ["attempt", "task_id"])
def test_an_attribute_that_would_replace_what_a_task_knows_of_itself_is_refused(name: str) -> None:
    with pytest.raises(TaskDefinitionError, match=rf"Made\.{name} would replace"):
        make({name: 5})


@pytest.mark.parametrize("name", ["failed", "should_retry"])
def test_a_hook_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(TaskDefinitionError, match=rf"Made\.{name}"):
        make({name: True})


def test_what_nobody_set_has_the_documented_defaults() -> None:
    options = options_of(make({})())

    assert (options.queue, options.max_attempts, options.retry) == ("default", 3, Fixed(delay_s=60.0))
    assert (options.timeout_s, options.max_crashes, options.keep_result_s) == (None, 3, None)
