"""Calls that can't work say what to write instead; a function's parameters may have any name."""

from typing import Any

import pytest

from asynctasq import AsyncTask, task
from asynctasq.testing import FakeQueue

SEEN: list[Any] = []


@task
async def add(number: int) -> int:
    return number + 1


class Add(AsyncTask[int]):
    number: int

    async def execute(self) -> int:
        return self.number + 1


async def awaits(built: Any) -> None:
    await built


async def test_awaiting_a_call_of_a_function_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"a call of add builds a task.*`await add\(\.\.\.\)\.dispatch\(\)`"):
        await awaits(add(1))


async def test_awaiting_a_task_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"`await Add\(\.\.\.\)\.dispatch\(\)`"):
        await awaits(Add(number=1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("delay", r"write `await add\.dispatch\(\.\.\.\)`.*`await add\(\.\.\.\)\.delay\(seconds\)\.dispatch\(\)`"),
        ("apply_async", r"write `await add\.dispatch\(\.\.\.\)`"),
        ("send", r"write `await add\.dispatch\(\.\.\.\)`"),
        ("on_queue", r"build the task first: add\(\.\.\.\)\.on_queue"),
        ("fly", r"has no attribute 'fly'; what was decorated is add\.function"),
    ],
)
def test_an_attribute_of_another_library_says_what_to_write(name: str, says: str) -> None:
    with pytest.raises(AttributeError, match=says):
        getattr(add, name)(1)


def test_what_a_function_lacks_can_be_asked_for() -> None:
    assert not hasattr(add, "delay")
    assert getattr(add, "fly", None) is None


def by_place(number: int, /, times: int = 1) -> None:
    SEEN.append(number * times)


def by_place_and_named(number: int = 0, /, **named: int) -> None: ...


@pytest.mark.parametrize("function", [by_place, by_place_and_named])
def test_an_argument_by_place_alone_is_refused_by_name_at_the_call(function: Any) -> None:
    with pytest.raises(TypeError, match="number"):
        task(function)(number=1)


def test_an_argument_by_place_alone_reaches_the_function() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        task(by_place)(2, times=3).dispatch_sync()

        queue.run_until_idle_sync()

    assert SEEN == [6]


NAMES = [
    *("self", "cls", "args", "kwargs", "task", "function", "name", "arguments", "connection", "_private"),
    *("queue", "timeout", "expires", "retry_on", "give_up_on", "max_attempts", "missing", "validate", "driver"),
    *("delay", "at", "dispatch", "on_queue", "retry_after", "task_id", "dispatched_at", "attempt", "execute", "failed"),
    *("_task_id", "_options", "_arguments_given", "_is_running", "_mode"),
]


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("shape", ["{}: int", "*, {}: int", "first: int = 0, *, {}: int = 0", "**named: int"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_parameter_of_a_function_may_have_any_name(kind: str, shape: str, validate: bool) -> None:
    for name in NAMES:
        seen: dict[str, object] = {}
        space: dict[str, Any] = {"seen": seen}
        code = f"{kind} function({shape.format(name)}) -> None: seen.update(locals().get('named') or locals())"
        exec(code, space)
        with FakeQueue() as queue:
            task(validate=validate)(space["function"])(**{name: 7}).delay(1).dispatch_sync()

            queue.run_until_idle_sync()

            queue.assert_dispatched(queue.dispatched()[0].task, {name: 7})
        assert seen[name] == 7, code
