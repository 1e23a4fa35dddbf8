"""What can't work is told when the class is made, in words that say what to do."""

from datetime import timedelta
from typing import Any

import pytest

from asynctasq.errors import TaskDefinitionError
from asynctasq.kernel.retry import Delays, Exponential, Fixed
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask, Task, task
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.mode import Mode

NAN = float("nan")


async def execute_async(self: Any) -> None: ...


def execute_sync(self: Any) -> None: ...


def make(base: type[BaseTask[Any]] = AsyncTask, **namespace: Any) -> type[BaseTask[Any]]:
    default = execute_async if base in (AsyncTask, AsyncProcessTask) else execute_sync
    return type("Made", (base,), {"execute": default, **namespace})


@pytest.mark.parametrize("base", [AsyncTask, AsyncProcessTask])
def test_a_blocking_execute_in_an_async_task_is_refused(base: type[BaseTask[Any]]) -> None:
    with pytest.raises(TaskDefinitionError, match="must be `async def`; for blocking code derive from SyncTask"):
        make(base, execute=execute_sync)


@pytest.mark.parametrize("base", [SyncTask, SyncProcessTask])
def test_an_async_execute_in_a_blocking_task_is_refused(base: type[BaseTask[Any]]) -> None:
    with pytest.raises(TaskDefinitionError, match="must be `def`; for async code derive from AsyncTask"):
        make(base, execute=execute_async)


async def produces() -> Any:
    yield 1


def produces_blocking() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("base", "execute"), [(AsyncTask, produces), (SyncTask, produces_blocking), (AsyncTask, 5), (SyncTask, "text")]
)
def test_an_execute_that_returns_nothing_to_wait_for_is_refused(base: type[BaseTask[Any]], execute: object) -> None:
    with pytest.raises(TaskDefinitionError, match="must be a method that returns"):
        make(base, execute=execute)


@pytest.mark.parametrize(
    ("base", "words"), [(AsyncTask, "async def execute"), (SyncTask, "`def execute"), (SyncProcessTask, "`def execute")]
)
def test_a_task_without_execute_is_refused_when_it_is_built(base: type[BaseTask[Any]], words: str) -> None:
    cls = type("NoExecute", (base,), {})

    with pytest.raises(TaskDefinitionError, match=f"NoExecute has no execute.*{words}"):
        cls()


def test_a_common_base_may_leave_execute_to_its_children() -> None:
    class Base(AsyncTask[None]):
        queue = "mail"

    class Child(Base):
        async def execute(self) -> None: ...

    assert definition_of(type(Child())).options.queue == "mail"


@pytest.mark.parametrize(
    "name",
    [
        "queue",
        "timeout",
        "failed",
        "delay",
        "dispatch",
        "max_attempts",
        "retry_delay",
        "attempt",
        "execute",
        "on_queue",
    ],
)
def test_a_constructor_parameter_that_would_hide_the_api_is_refused(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def __init__(self, {name}, **kwargs): super(type(self), self).__init__(**kwargs)", namespace)

    with pytest.raises(TaskDefinitionError, match=f"hide an attribute or method of every task: {name}; rename"):
        make(__init__=namespace["__init__"])


@pytest.mark.parametrize("name", ["data", "items", "key", "url", "payload", "body", "message", "name", "value"])
def test_ordinary_parameter_names_are_fine(name: str) -> None:
    namespace: dict[str, Any] = {"AsyncTask": AsyncTask}
    exec(f"def __init__(self, {name}, **kwargs): AsyncTask.__init__(self, **kwargs); self.{name} = {name}", namespace)

    built = make(__init__=namespace["__init__"])(**{name: 1})

    assert getattr(built, name) == 1


@pytest.mark.parametrize("name", ["queue", "timeout", "failed", "execute", "delay"])
def test_a_function_may_name_its_parameters_as_it_likes(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def work({name}): return {name}", namespace)

    built: Any = task(namespace["work"])(**{name: 3})

    assert built.execute() == 3


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("max_attempts", -1, "max_attempts must be a whole number, 0 or more"),
        ("max_attempts", 1.5, "max_attempts"),
        ("max_attempts", True, "max_attempts"),
        ("max_attempts", "3", "max_attempts"),
        ("max_attempts", None, "max_attempts"),
        ("max_crashes", 0, "max_crashes must be a whole number, 1 or more"),
        ("timeout", -1, "timeout must be more than 0 seconds"),
        ("timeout", 0, "timeout must be more than 0 seconds"),
        ("timeout", timedelta(0), "timeout"),
        ("timeout", NAN, "timeout"),
        ("timeout", float("inf"), "timeout"),
        ("timeout", True, "timeout"),
        ("timeout", "30", "timeout"),
        ("retry_delay", -1, "retry_delay must be 0 or more"),
        ("retry_delay", NAN, "retry_delay"),
        ("retry_delay", "60", "retry_delay"),
        ("retry_delay", True, "retry_delay"),
        ("retry_delay", None, "retry_delay"),
        ("retry_delay", [], "empty list"),
        ("retry_delay", [1, -1], "each retry_delay"),
        ("retry_strategy", "linear", "one of fixed, exponential"),
        ("keep_result", -5, "keep_result"),
        ("keep_result", 0, "keep_result"),
        ("keep_result", "yes", "keep_result"),
        ("queue", "", "queue name ''"),
        ("queue", "with space", "queue name 'with space'"),
        ("queue", "it's", "queue name"),
        ("queue", 'a"b', "queue name"),
        ("queue", "x" * 81, "queue name"),
        ("queue", "line\n", "queue name"),
        ("queue", None, "queue name"),
        ("queue", 5, "queue name"),
        ("_driver_override", 5, "_driver_override"),
    ],
)
def test_a_setting_that_could_not_work_is_refused(attribute: str, value: object, words: str) -> None:
    with pytest.raises(TaskDefinitionError, match=words) as caught:
        make(**{attribute: value})
    assert str(caught.value).startswith("Made: ")


@pytest.mark.parametrize("setting", ["max_atempts", "process_pool", "delay"])
def test_an_unknown_setting_of_the_decorator_is_refused(setting: str) -> None:
    decorate: Any = task

    with pytest.raises(TaskDefinitionError, match=f"no setting {setting}; known: driver, keep_result"):
        decorate(**{setting: 1})


@pytest.mark.parametrize(("setting", "value"), [("timeout", -1), ("queue", "a b"), ("max_attempts", -1)])
def test_the_decorator_checks_its_settings(setting: str, value: Any) -> None:
    decorate: Any = task(**{setting: value})

    with pytest.raises(TaskDefinitionError, match=setting):
        decorate(execute_sync)


async def an_async_generator() -> Any:
    yield 1


def a_generator() -> Any:
    yield 1


@pytest.mark.parametrize("decorated", [print, int, SyncTask, a_generator, an_async_generator, staticmethod])
def test_the_decorator_refuses_what_is_no_function_that_returns(decorated: Any) -> None:
    with pytest.raises(TaskDefinitionError):
        task(decorated)


def test_a_task_is_an_async_task() -> None:
    assert Task is AsyncTask


@pytest.mark.parametrize(
    ("base", "mode"),
    [
        (AsyncTask, Mode.LOOP),
        (SyncTask, Mode.THREAD),
        (AsyncProcessTask, Mode.ASYNC_PROCESS),
        (SyncProcessTask, Mode.SYNC_PROCESS),
    ],
)
def test_the_class_says_where_a_task_runs(base: type[BaseTask[Any]], mode: Mode) -> None:
    assert definition_of(make(base)).mode is mode


def test_what_nobody_set_has_the_documented_defaults() -> None:
    options = definition_of(make()).options

    assert (options.queue, options.max_attempts, options.retry) == ("default", 3, Fixed(delay_s=60.0))
    assert (options.timeout_s, options.max_crashes, options.keep_result_s) == (None, 3, None)


@pytest.mark.parametrize(
    ("attributes", "policy"),
    [
        ({"retry_delay": 5}, Fixed(delay_s=5.0)),
        ({"retry_delay": timedelta(minutes=2)}, Fixed(delay_s=120.0)),
        ({"retry_delay": 0}, Fixed(delay_s=0.0)),
        ({"retry_delay": [1, timedelta(seconds=2), 3.5]}, Delays(delays_s=(1.0, 2.0, 3.5))),
        ({"retry_delay": 2, "retry_strategy": "exponential"}, Exponential(base_s=2.0, cap_s=3600.0)),
        (
            {"retry_delay": 2, "retry_strategy": "exponential", "retry_delay_max": timedelta(seconds=30)},
            Exponential(base_s=2.0, cap_s=30.0),
        ),
    ],
)
def test_attributes_describe_the_retry_policy(attributes: dict[str, Any], policy: object) -> None:
    assert definition_of(make(**attributes)).options.retry == policy


@pytest.mark.parametrize(
    ("value", "kept_s"), [(True, 86_400.0), (False, None), (60, 60.0), (timedelta(hours=1), 3600.0)]
)
def test_keep_result_is_a_flag_or_a_duration(value: Any, kept_s: float | None) -> None:
    assert definition_of(make(keep_result=value)).options.keep_result_s == kept_s


def test_zero_attempts_are_kept_as_zero() -> None:
    assert definition_of(make(max_attempts=0)).options.max_attempts == 0


def test_hiding_a_final_method_is_refused() -> None:
    async def dispatch(self: Any) -> str:
        return ""

    with pytest.raises(TaskDefinitionError, match="dispatch"):
        make(dispatch=dispatch)
