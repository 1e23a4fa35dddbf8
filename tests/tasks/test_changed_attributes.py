"""An attribute assigned after the task was built is told at the dispatch; a constructor may change what it is given."""

from typing import Any

import pytest

from asynctasq import AsyncTask, SyncTask, task
from asynctasq.errors import DispatchError
from asynctasq.tasks import BaseTask
from asynctasq.testing import FakeQueue

SEEN: list[Any] = []
BUILT: list[str] = []


class Fields(SyncTask[None]):
    to: str
    copies: int = 1

    def execute(self) -> None:
        SEEN.append((self.to, self.copies))


class Anything(SyncTask[None]):
    def execute(self) -> None:
        SEEN.append(vars(self).get("to"))


class Keeps(SyncTask[None]):
    def __init__(self, to: str, copies: int = 1, *rest: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        BUILT.append(to)
        self.to = to
        self.copies = copies
        self.rest = rest

    def execute(self) -> None:
        SEEN.append((self.to, self.copies))


class Inherits(Keeps):
    def __init__(self, subject: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.subject = subject


class Transforms(SyncTask[None]):
    def __init__(self, to: str, tags: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        BUILT.append(to)
        self.to = to.strip().lower()
        self.tags = tags or []

    def execute(self) -> None:
        SEEN.append((self.to, self.tags))


def assigned(built: BaseTask[Any], name: str, value: object) -> BaseTask[Any]:
    setattr(built, name, value)
    return built


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Fields(to="ada"), "to"),
        (lambda: Fields(to="ada"), "copies"),
        (lambda: Fields(to="ada", copies=2), "copies"),
        (lambda: Anything(to="ada"), "to"),
        (lambda: Keeps("ada"), "to"),
        (lambda: Keeps(to="ada"), "copies"),
        (lambda: Keeps("ada", 2, 3), "copies"),
        (lambda: Inherits(subject="hello", to="ada"), "to"),
        (lambda: Inherits(subject="hello", to="ada"), "subject"),
    ],
)
def test_an_assigned_attribute_is_told_at_the_dispatch(build: Any, name: str) -> None:
    with FakeQueue() as queue:
        with pytest.raises(DispatchError, match=rf"the attribute '{name}' was assigned after the task was built"):
            assigned(build(), name, 7).delay(5).dispatch_sync()

        queue.assert_nothing_dispatched()


def test_an_equal_value_of_the_same_type_is_no_change() -> None:
    with FakeQueue() as queue:
        assigned(Fields(to="ada", copies=2000), "copies", int("2000")).dispatch_sync()
        with pytest.raises(DispatchError, match="'copies' was assigned"):
            assigned(Fields(to="ada", copies=2000), "copies", 2000.0).dispatch_sync()

        queue.assert_dispatched(Fields, times=1)


def test_a_constructor_that_changes_what_it_is_given_keeps_working() -> None:
    SEEN.clear()
    with FakeQueue() as queue:
        Transforms(" ADA ").dispatch_sync()
        Transforms(" BOB ", tags=["x"]).dispatch_sync()

        queue.run_until_idle_sync()

    assert SEEN == [("ada", []), ("bob", ["x"])]


def test_a_constructor_is_called_again_only_once_to_learn_that_it_changes_what_it_is_given() -> None:
    class ByItself(Transforms):
        pass

    BUILT.clear()
    with FakeQueue():
        for _ in range(3):
            ByItself("ADA").dispatch_sync()

    assert len(BUILT) == 3 + 2  # one for each of the two arguments


def test_a_constructor_that_keeps_its_arguments_is_not_called_again() -> None:
    BUILT.clear()
    with FakeQueue():
        Keeps("ada", copies=2).dispatch_sync()

    assert BUILT == ["ada"]


class Fails(SyncTask[None]):
    """Can be built once."""

    def __init__(self, to: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        BUILT.append(to)
        if len(BUILT) > 1:
            raise ConnectionError
        self.to = to.upper()

    def execute(self) -> None: ...


def test_a_constructor_that_fails_the_second_time_fails_no_dispatch() -> None:
    BUILT.clear()
    with FakeQueue() as queue:
        Fails("ada").dispatch_sync()

        queue.assert_dispatched(Fails, to="ada")


class Described(SyncTask[None]):
    """Has a property where others have an attribute."""

    def __init__(self, to: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._to = to.upper()

    @property
    def to(self) -> str:
        return self._to

    def execute(self) -> None: ...


@task
def function(to: str) -> None: ...


@pytest.mark.parametrize("build", [Described, function])
def test_what_keeps_its_arguments_elsewhere_is_not_judged(build: Any) -> None:
    with FakeQueue() as queue:
        build(to="ada").dispatch_sync()

        queue.assert_dispatched(build, to="ada")


class NextPage(AsyncTask[None]):
    def __init__(self, page: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.page = page

    async def execute(self) -> None:
        self.page += 1
        await self.dispatch()


def test_a_running_task_that_changes_itself_and_dispatches_itself_is_told() -> None:
    with FakeQueue() as queue:
        NextPage(1).with_options(max_attempts=1).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(NextPage, with_=DispatchError)
