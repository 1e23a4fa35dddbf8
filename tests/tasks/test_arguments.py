"""What travels is what the constructor was given; the worker calls the constructor with it again."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from asynctasq.errors import DispatchError, UnserializableValue
from asynctasq.tasks import AsyncTask, BaseTask, SyncTask, task
from asynctasq.testing import FakeQueue

SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


def run(*tasks: BaseTask[Any]) -> FakeQueue:
    """Dispatch, run, and fail if anything did not complete."""
    with FakeQueue() as queue:
        for built in tasks:
            built.dispatch_sync()
        queue.drain_sync()
        return queue


class Doubles(AsyncTask[None]):
    retry_delay = 1
    max_attempts = 3

    def __init__(self, numbers: list[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.numbers = [3 * number for number in numbers]

    async def execute(self) -> None:
        SEEN.append(self.numbers)
        if self.attempt < 3:
            raise ValueError("again")


def test_a_constructor_that_transforms_sees_the_same_arguments_at_every_attempt() -> None:
    with FakeQueue() as queue:
        Doubles([1, 2]).dispatch_sync()
        queue.run_until_idle_sync()

    assert SEEN == [[3, 6], [3, 6], [3, 6]]


class Client:
    """Can't be serialized."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class UsesClient(AsyncTask[None]):
    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.client = Client()
        self.url = url

    async def execute(self) -> None:
        SEEN.append((type(self.client), self.url))


def test_what_a_constructor_makes_for_itself_need_not_travel() -> None:
    run(UsesClient("http://x"))

    assert [(Client, "http://x")] == SEEN


class Every(SyncTask[None]):
    def __init__(self, first: int, /, second: int, *rest: int, third: int = 3, **named: Any) -> None:
        super().__init__()
        self.got = (first, second, rest, third, named)

    def execute(self) -> None:
        SEEN.append(self.got)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, 2), {}),
        ((1,), {"second": 2}),
        ((1, 2, 4, 5), {}),
        ((1, 2, 4), {"third": 9, "other": "x"}),
        ((1,), {"second": 2, "third": 0, "other": None}),
    ],
)
def test_every_kind_of_parameter_travels(args: tuple[int, ...], kwargs: dict[str, Any]) -> None:
    built = Every(*args, **kwargs)

    run(built)

    assert [built.got] == SEEN


@task
async def every(first: int, /, second: int, *rest: int, third: int = 3, **named: Any) -> None:
    SEEN.append((first, second, rest, third, named))


@pytest.mark.parametrize(
    ("args", "kwargs", "seen"),
    [
        ((1, 2), {}, (1, 2, (), 3, {})),
        ((1, 2, 4, 5), {"third": 0, "x": [1]}, (1, 2, (4, 5), 0, {"x": [1]})),
        ((1,), {"second": 2}, (1, 2, (), 3, {})),
    ],
)
def test_every_kind_of_parameter_of_a_function_travels(args: Any, kwargs: Any, seen: Any) -> None:
    run(every(*args, **kwargs))

    assert [seen] == SEEN


@dataclass
class Point:
    x: int


class Points(SyncTask[None]):
    def __init__(self, *rest: Point, **named: list[Point]) -> None:
        super().__init__()
        self.got = (rest, named)

    def execute(self) -> None:
        SEEN.append(self.got)


@task
async def points(*rest: Point, **named: list[Point]) -> None:
    SEEN.append((rest, named))


@pytest.mark.parametrize("build", [Points, points])
def test_records_among_extra_arguments_travel_by_their_annotation(build: Any) -> None:
    run(build(Point(1), Point(2), a=[Point(3)], b=[]))

    assert [((Point(1), Point(2)), {"a": [Point(3)], "b": []})] == SEEN


@pytest.mark.parametrize("name", ["first", "*"])
def test_a_keyword_that_could_be_mistaken_for_another_argument_is_refused(name: str) -> None:
    with FakeQueue() as queue, pytest.raises(TypeError, match="can't be told apart from a positional argument"):
        every(1, 2, **{name: 5}).dispatch_sync()
    queue.assert_nothing_dispatched()


class Inherits(UsesClient):
    pass


def test_an_inherited_constructor_works() -> None:
    run(Inherits("http://y"))

    assert [(Client, "http://y")] == SEEN


class Plain(AsyncTask[None]):
    to: str
    copies: int = 1

    async def execute(self) -> None:
        SEEN.append((self.to, self.copies))


def test_without_a_constructor_keywords_become_attributes() -> None:
    run(Plain(to="ada"), Plain(to="grace", copies=2))

    assert SEEN == [("ada", 1), ("grace", 2)]


def test_a_value_that_cannot_travel_is_named_with_its_path_and_stores_nothing() -> None:
    with FakeQueue() as queue, pytest.raises(UnserializableValue, match=r"Plain\.to\[2\].*lock"):
        Plain(to=["a", "b", threading.Lock()]).dispatch_sync()
    queue.assert_nothing_dispatched()


@pytest.mark.parametrize("name", ["queue", "timeout", "failed", "dispatch", "task_id", "_task_id", "_options"])
def test_a_keyword_that_would_hide_the_api_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="would hide"):
        Plain(to="ada", **{name: 1})


def test_arguments_a_constructor_does_not_declare_are_refused() -> None:
    with pytest.raises(TypeError, match=r"UsesClient\(url\) got unexpected arguments: uri"):
        UsesClient("http://x", uri="http://y")


class Hides(AsyncTask[None]):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.__dict__["timeout"] = 5

    async def execute(self) -> None: ...


def test_an_attribute_that_hides_the_api_is_refused_at_dispatch() -> None:
    with FakeQueue() as queue, pytest.raises(DispatchError, match=r"sets self.timeout, which hides"):
        Hides().dispatch_sync()
    queue.assert_nothing_dispatched()


def test_dispatching_twice_makes_two_messages() -> None:
    with FakeQueue() as queue:
        built = Plain(to="ada")
        ids = [built.dispatch_sync(), built.dispatch_sync()]
        queue.drain_sync()

    assert len(set(ids)) == 2
    assert SEEN == [("ada", 1)] * 2


async def test_a_task_runs_without_any_queue() -> None:
    await Plain(to="ada").execute()

    assert SEEN == [("ada", 1)]


def test_a_task_is_not_told_that_it_takes_what_its_constructor_lacks() -> None:
    with pytest.raises(TypeError):
        UsesClient()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the mistake under test


@task
def thread_with_self(self: int, cls: int) -> None:
    SEEN.append((self, cls))


@task
async def loop_with_self(cls: int, self: int) -> None:
    SEEN.append((self, cls))


class TakesCls(AsyncTask[None]):
    def __init__(self, cls: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = cls

    async def execute(self) -> None:
        SEEN.append(self.given)


class HasSelf(AsyncTask[None]):
    async def execute(self) -> None:
        SEEN.append((self.self, self.cls))  # type: ignore[attr-defined]


def test_arguments_may_be_called_self_and_cls() -> None:
    named: dict[str, Any] = {"self": 1, "cls": 2}

    run(
        thread_with_self(1, 2),
        thread_with_self(**named),
        loop_with_self(2, 1),
        TakesCls(2),
        TakesCls(cls=2),
        HasSelf(**named),
    )

    assert SEEN == [(1, 2), (1, 2), (1, 2), 2, 2, (1, 2)]
    with FakeQueue() as queue:
        thread_with_self.dispatch_sync(**named)
        queue.drain_sync()
    assert SEEN[-1] == (1, 2)


class Sends(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 0

    async def execute(self) -> None:
        if self.attempt == 2 and not any(each == "sent" for _, each, *_ in SEEN):
            SEEN.append((await self.on_queue("later").dispatch(), "sent"))
        raise ValueError

    def failed(self, exception: Exception) -> None:
        SEEN.append((self._task_id, self.attempt, self._dispatched_at is not None))


def test_a_task_that_dispatches_itself_anew_remains_what_it_is() -> None:
    with FakeQueue() as queue:
        first = Sends().dispatch_sync()
        queue.drain_sync(errors="collect")

    [(second, _), *failed] = SEEN
    assert failed == [(first, 2, True), (second, 2, True)]
