"""The setting `unique`: which keys tasks have, what becomes of dispatches with one, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from asynctasq import AsyncTask, SyncTask, dispatch_many, dispatch_many_sync, task
from asynctasq.drivers.base import NO
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DispatchError, TaskDefinitionError, UniqueConflictError, UnsupportedFeature
from asynctasq.kernel.messages import Message, State, UniqueKey
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.unique import Unique


class Sync(AsyncTask[None]):
    user: str
    full: bool = False
    unique = Unique(lambda self: self.user)

    async def execute(self) -> None: ...


class ByArguments(SyncTask[None]):
    unique = True

    def __init__(self, number: int, names: frozenset[str] = frozenset(), **rest: Any) -> None:
        super().__init__(**rest)
        self.number, self.names = number, names

    def execute(self) -> None: ...


@task(unique=Unique(key=lambda self: f"{self.queue}/{self.self}", until="started"))
async def upload(queue: str, self: int = 1) -> None: ...


@task(unique=True)
def count(*numbers: int, **named: int) -> None: ...


def key_of(of: BaseTask[Any]) -> UniqueKey | None:
    return MessageFactory().message(of).unique


# -- keys --------------------------------------------------------------------------------------------


def test_a_key_is_a_short_digest_of_what_the_function_returns() -> None:
    one, other = key_of(Sync(user="a")), key_of(Sync(user="b", full=True))

    assert one is not None
    assert one == key_of(Sync(user="a", full=True)) != other
    assert (len(one.key), one.until, one.window_s, one.on_conflict) == (48, "done", None, "skip")


def test_true_takes_all_arguments_whatever_their_order_and_with_their_defaults() -> None:
    keys = [
        key_of(ByArguments(1)),
        key_of(ByArguments(number=1, names=frozenset())),
        key_of(ByArguments(names=frozenset(), number=1)),
    ]

    assert len(set(keys)) == 1
    assert key_of(ByArguments(2)) not in keys
    assert key_of(ByArguments(1, frozenset("ab"))) == key_of(ByArguments(1, frozenset("ba"))) not in keys
    assert key_of(count(1, 2, b=1, a=2)) == key_of(count(1, 2, a=2, b=1)) != key_of(count(2, 1, a=2, b=1))


def test_the_key_of_a_function_task_is_made_of_its_arguments() -> None:
    assert key_of(upload("x")) == key_of(upload(queue="x", self=1)) != key_of(upload("x", 2))


def test_a_key_belongs_to_its_task_unless_it_says_otherwise() -> None:
    def with_(**of: Any) -> list[UniqueKey | None]:
        return [key_of(made.with_options(unique=Unique("k", **of))) for made in (Sync(user="a"), ByArguments(1))]

    own, shared = with_(), with_(across_tasks=True)

    assert own[0] != own[1]
    assert shared[0] == shared[1] not in own


def test_a_dispatch_may_have_another_key_or_none() -> None:
    assert key_of(Sync(user="a").with_options(unique=False)) is None
    by_arguments = key_of(Sync(user="a").with_options(unique=True))
    assert by_arguments not in (
        None,
        key_of(Sync(user="a")),
        key_of(Sync(user="a", full=True).with_options(unique=True)),
    )
    window = key_of(Sync(user="a").with_options(unique=Unique("k", window=timedelta(minutes=1), on_conflict="raise")))
    assert window is not None
    assert (window.window_s, window.on_conflict) == (60.0, "raise")


def test_a_key_may_have_any_characters() -> None:
    texts = ("ä", "\ud800", "a\x00", "a", "x" * 1000)
    keys = [key_of(Sync(user="a").with_options(unique=Unique(text))) for text in texts]

    assert len(set(keys)) == 5


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Unique(""), "1 to 1,000 characters, not 0"),
        (lambda: Unique("x" * 10_240), "not 10,240"),
        (lambda: Unique(b"k"), "must be a text, or a function"),  # type: ignore[arg-type]
        (lambda: Unique(until="never"), "until must be one of started, done"),  # type: ignore[arg-type]
        (lambda: Unique(on_conflict="fail"), "on_conflict must be one of skip, replace, raise"),  # type: ignore[arg-type]
        (lambda: Unique(window=0), "window must be more than 0 seconds"),
        (lambda: Unique(window=float("nan")), "window must be"),
        (lambda: Unique(window="1m"), "window must be a number"),  # type: ignore[arg-type]
        (lambda: Unique(until="done", window=5), "until or window, not both"),
        (lambda: Unique(across_tasks=True), "needs a key"),
    ],
)
def test_a_wrong_setting_is_refused_where_it_is_written(make: Callable[[], Unique], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_setting_that_is_no_unique_is_refused_where_it_is_written() -> None:
    with pytest.raises(TaskDefinitionError, match="unique must be Unique"):

        class Wrong(AsyncTask[None]):
            unique = "user"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

            async def execute(self) -> None: ...

    with pytest.raises(ValueError, match="unique must be Unique"):
        Sync(user="a").with_options(unique=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TaskDefinitionError, match="did you mean 'unique'"):

        class Other(AsyncTask[None]):
            unique_for = 5

            async def execute(self) -> None: ...


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (lambda _: 5, "must be a text, not of <class 'int'>"),
        (lambda _: None, "must be a text"),
        (lambda _: "", "1 to 1,000 characters, not 0"),
        (lambda _: "x" * 10_240, "not 10,240"),
        (lambda self: self.nothing, "raised AttributeError"),
    ],
)
async def test_a_key_that_is_none_is_refused_at_the_dispatch_and_nothing_is_stored(
    key: Callable[[Any], Any], says: str
) -> None:
    driver = MemoryDriver()
    bad = Sync(user="b").with_options(unique=Unique(key))

    with pytest.raises(DispatchError, match=says):
        await Queue(driver).dispatch([Sync(user="a"), bad])

    assert await driver.queues() == []


async def test_a_driver_that_can_not_keep_a_task_unique_refuses_it_in_words() -> None:
    driver = MemoryDriver()
    driver.capabilities = replace(driver.capabilities, unique=NO)

    with pytest.raises(UnsupportedFeature, match=r"Sync has unique set, but memory .* can't keep a task unique"):
        await Queue(driver).dispatch([Sync(user="a")])

    await Queue(driver).dispatch([Sync(user="a").with_options(unique=False)])


# -- dispatches --------------------------------------------------------------------------------------


@pytest.fixture
def driver() -> Any:
    made = MemoryDriver()
    token = scoped_dispatcher.set(Queue(made))
    yield made
    scoped_dispatcher.reset(token)


async def stored(driver: MemoryDriver) -> list[str]:
    return [message.id for message in (await driver.list_messages("default")).messages]


async def test_a_skipped_dispatch_returns_the_handle_of_the_one_that_lives(driver: MemoryDriver) -> None:
    first = await Sync(user="a").dispatch()
    skipped = Sync(user="a")

    second = await skipped.dispatch()

    assert second == first
    assert skipped.task_id == first, "the task knows the message that stands for it"
    assert await stored(driver) == [first]
    assert (await second.status()).state is State.READY


async def test_dispatch_many_returns_the_living_ids_in_order(driver: MemoryDriver) -> None:
    ids = await dispatch_many([Sync(user="a"), Sync(user="b"), ByArguments(1), Sync(user="a"), ByArguments(1)])

    assert ids[3] == ids[0]
    assert ids[4] == ids[2]
    assert await stored(driver) == [*ids[:3]]


def test_synchronous_code_gets_living_ids_too(driver: MemoryDriver) -> None:
    first = Sync(user="a").dispatch_sync()

    assert dispatch_many_sync([Sync(user="a"), Sync(user="b")])[0] == first


async def test_a_conflict_may_raise_and_names_the_one_that_lives(driver: MemoryDriver) -> None:
    first = await Sync(user="a").dispatch()
    strict = Sync(user="a").with_options(unique=Unique(lambda self: self.user, on_conflict="raise"))

    with pytest.raises(UniqueConflictError, match="holds the unique key") as caught:
        await dispatch_many([Sync(user="b"), strict])

    assert caught.value.task_id == first
    assert await stored(driver) == [first]


async def test_a_replaced_dispatch_gives_way_with_its_body_and_its_delay(driver: MemoryDriver) -> None:
    last = Unique("report", on_conflict="replace")
    first = await Sync(user="a").delay(60).with_options(unique=last).dispatch()

    second = await Sync(user="b").delay(120).with_options(unique=last).dispatch()

    assert await stored(driver) == [second] != [first]
    assert (await second.status()).state is State.SCHEDULED


async def test_the_same_task_id_again_changes_nothing(driver: MemoryDriver) -> None:
    chosen = "8c8e9a4a-0b3c-4ee3-8a52-0ea7ac0d9f8e"
    first = await Sync(user="a").with_options(task_id=chosen).dispatch()

    assert await Sync(user="b").with_options(task_id=chosen).dispatch() == first == chosen
    assert await Sync(user="b").dispatch() != first, "the key of what was not stored is free"


async def test_a_batch_without_keys_is_stored_as_ever(driver: MemoryDriver) -> None:
    new = await driver.enqueue([Message(id="m", queue="q", body=b"")])

    assert type(new) is list
