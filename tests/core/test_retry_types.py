"""retry_on and give_up_on: which failures are retried, by their type, in every mode."""

import asyncio
from typing import Any

import pytest

from asynctasq import (
    AsyncProcessTask,
    AsyncTask,
    Reject,
    Retry,
    Snooze,
    SyncProcessTask,
    SyncTask,
    task,
)
from asynctasq.core.exception_codec import RemoteError, is_one_of, pack_exception, unpack_exception
from asynctasq.errors import TaskDefinitionError, TaskTimeoutError, WorkerCrashedError
from asynctasq.kernel.decide import is_retried
from asynctasq.testing import FakeQueue, perform

ASKED: list[str] = []
TOLD: list[str] = []
OUTCOMES: dict[str, BaseException] = {
    "refused": ConnectionRefusedError("no"),
    "missing": FileNotFoundError("no"),
    "value": ValueError("no"),
    "exit": SystemExit(3),
    "retry": Retry("busy", after=1),
    "snooze": Snooze(1),
    "reject": Reject("no"),
}


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    ASKED.clear()
    TOLD.clear()


class Policy:
    """Retries what the connection is to blame for, but not a refusal."""

    max_attempts = 2
    retry_on = (OSError, TimeoutError)
    give_up_on = (ConnectionRefusedError,)

    def __init__(self, raises: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.raises = raises

    def fail(self) -> None:
        raise OUTCOMES[self.raises]

    def should_retry(self, exception: Exception) -> bool:
        ASKED.append(type(exception).__name__)
        return True

    def failed(self, exception: Exception) -> None:
        TOLD.append(type(exception).__name__)


class InLoop(Policy, AsyncTask[None]):
    async def execute(self) -> None:
        self.fail()


class InThread(Policy, SyncTask[None]):
    def execute(self) -> None:
        self.fail()


class InLoopOfChild(Policy, AsyncProcessTask[None]):
    async def execute(self) -> None:
        self.fail()


class InChild(Policy, SyncProcessTask[None]):
    def execute(self) -> None:
        self.fail()


KINDS: list[Any] = [InLoop, InThread, InLoopOfChild, InChild]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raises", "attempts", "asked"),
    [
        ("missing", 2, ["FileNotFoundError"]),
        ("refused", 1, []),
        ("value", 1, []),
        ("exit", 1, []),
        ("retry", 2, []),
        ("reject", 1, []),
    ],
)
def test_the_type_of_a_failure_says_whether_it_is_retried(
    kind: Any, raises: str, attempts: int, asked: list[str]
) -> None:
    with FakeQueue() as queue:
        kind(raises).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(kind, attempts=attempts)
    assert asked == ASKED
    assert [type(OUTCOMES[raises]).__name__] == TOLD


@pytest.mark.parametrize("kind", KINDS)
async def test_a_snooze_is_no_failure(kind: Any) -> None:
    assert (await perform(kind("snooze"))).outcome == "snoozed"


class Slow(AsyncTask[None]):
    timeout = 1
    max_attempts = 2
    retry_on: Any = (TimeoutError,)

    async def execute(self) -> None:
        await asyncio.sleep(60)


class SlowInChild(AsyncProcessTask[None]):
    timeout = 1
    max_attempts = 2
    retry_on: Any = (TimeoutError,)

    async def execute(self) -> None:
        await asyncio.sleep(60)


@pytest.mark.parametrize("kind", [Slow, SlowInChild])
def test_a_time_limit_is_a_timeout_error(kind: Any) -> None:
    class Otherwise(kind):
        retry_on = (ConnectionError,)

    class GivesUp(kind):
        retry_on = None
        give_up_on = (TaskTimeoutError,)

    with FakeQueue() as queue:
        for one in (kind, Otherwise, GivesUp):
            one().dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(kind, with_=TimeoutError, attempts=2)
        queue.assert_failed(Otherwise, with_=TimeoutError, attempts=1)
        queue.assert_failed(GivesUp, with_=TimeoutError, attempts=1)


class CannotBeBuilt(AsyncTask[None]):
    max_attempts = 2
    retry_on = (ConnectionError,)

    def __init__(self, built: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ASKED.append("built")
        if len(ASKED) > 1:
            raise ValueError("not again")

    async def execute(self) -> None: ...


def test_what_keeps_a_task_from_being_built_is_retried_as_ever() -> None:
    with FakeQueue() as queue:
        CannotBeBuilt(1).dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(CannotBeBuilt, with_=ValueError, attempts=2)


class Asks(InLoop):
    give_up_on: Any = None

    def should_retry(self, exception: Exception) -> bool:
        ASKED.append(type(exception).__name__)
        return False


def test_should_retry_decides_about_what_retry_on_lets_through() -> None:
    with FakeQueue() as queue:
        Asks("missing").dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(Asks, attempts=1)
    assert ASKED == ["FileNotFoundError"]


def test_a_function_has_them_as_settings() -> None:
    @task(max_attempts=2, retry_delay=0, give_up_on=(ValueError,))
    async def convert(text: str) -> int:
        return int(text)

    with FakeQueue() as queue:
        convert("five").dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(convert, with_=ValueError, attempts=1)


def test_an_inherited_policy_may_be_taken_back() -> None:
    class Takes(InLoop):
        retry_on: Any = None
        give_up_on: Any = None

    with FakeQueue() as queue:
        Takes("value").dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(Takes, attempts=2)


# -- an exception whose class is not imported here ---------------------------------------------------


class Loses(SyncProcessTask[None]):
    max_attempts = 3
    retry_delay = 0
    retry_on: Any = (OSError,)

    def execute(self) -> None:
        from tests.core.only_in_children import LostThere

        raise LostThere("the connection")


class LosesForGood(Loses):
    retry_on: Any = None
    give_up_on = (ConnectionResetError,)


def test_an_exception_that_only_the_child_has_imported_is_retried_by_its_type() -> None:
    with FakeQueue(real_executors=True) as queue:
        Loses().dispatch_sync()
        LosesForGood().dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_failed(Loses, with_=RemoteError, attempts=3)
        queue.assert_failed(LosesForGood, with_=RemoteError, attempts=1)


def returned(error: BaseException) -> BaseException:
    return unpack_exception(pack_exception(error))


def test_an_exception_of_a_class_that_is_unknown_here_is_known_by_what_it_derives_from() -> None:
    hidden = type("Hidden", (ConnectionRefusedError,), {"__module__": "only.in.the.child"})

    error = returned(hidden("no"))

    assert type(error) is RemoteError
    assert is_one_of(error, (ValueError, OSError))
    assert not is_one_of(error, (ValueError, TimeoutError, RemoteError))


def test_an_exception_of_a_known_class_is_compared_as_such() -> None:
    assert is_one_of(returned(ConnectionRefusedError("no")), (OSError,))
    assert not is_one_of(returned(ConnectionRefusedError("no")), (ValueError,))


def test_the_names_of_classes_that_leave_a_child_are_bounded() -> None:
    deep: type[Exception] = OSError
    for depth in range(100):
        deep = type("D" * 5000, (deep,), {"__module__": f"far.away{depth}"})

    assert len(pack_exception(deep("no"))) < 64 * 1024


# -- the rule, and where it is written ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_on", "give_up_on", "retried"),
    [
        (None, None, True),
        ((OSError,), None, True),
        ((ValueError,), None, False),
        (None, (OSError,), False),
        (None, (ValueError,), True),
        ((OSError, ValueError), (OSError,), False),
        ((OSError,), (ConnectionError,), False),
    ],
)
def test_what_is_given_up_wins_over_what_is_retried(retry_on: Any, give_up_on: Any, retried: bool) -> None:
    refused = ConnectionRefusedError()

    assert is_retried(lambda types: isinstance(refused, types), retry_on=retry_on, give_up_on=give_up_on) is retried


@pytest.mark.parametrize("name", ["retry_on", "give_up_on"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (ConnectionError, r"must be a tuple of exception types: \(ConnectionError,\), not"),
        ([ConnectionError], "must be a tuple of exception types, not"),
        ("ConnectionError", "must be a tuple of exception types, not"),
        ((), "is empty; name an exception type, or leave it None"),
        (("ConnectionError",), "must name subclasses of Exception, not 'ConnectionError'"),
        ((int,), "must name subclasses of Exception, not"),
        ((BaseException,), "must name subclasses of Exception, not"),
        ((asyncio.CancelledError,), "must name subclasses of Exception, not"),
        ((KeyboardInterrupt, ValueError), "must name subclasses of Exception, not"),
        ((ValueError(),), "must name subclasses of Exception, not"),
        ((Retry,), "names Retry, which is no failure"),
        ((ValueError, Reject), "names Reject, which is no failure"),
    ],
)
def test_what_is_no_exception_type_is_refused_when_the_class_is_made(name: str, value: Any, says: str) -> None:
    async def function() -> None: ...

    with pytest.raises(TaskDefinitionError, match=f"{name} {says}"):
        task(**{name: value})(function)


def test_a_policy_that_retries_nothing_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TaskDefinitionError, match="nothing would be retried; take it out of one of the two"):

        class Never(AsyncTask[None]):
            retry_on = (ConnectionError, FileNotFoundError)
            give_up_on = (OSError,)

            async def execute(self) -> None: ...


def test_a_name_of_another_library_is_told() -> None:
    with pytest.raises(TaskDefinitionError, match="did you mean 'retry_on'"):

        class Celery(AsyncTask[None]):
            autoretry_for = (ConnectionError,)

            async def execute(self) -> None: ...


def test_a_crash_is_no_exception() -> None:
    class Crashes(AsyncTask[None]):
        retry_on = (ValueError,)
        give_up_on = (WorkerCrashedError,)

        async def execute(self) -> None:
            await asyncio.sleep(10)

    from asynctasq.testing import Crash

    with FakeQueue(faults=Crash(at="mid_attempt", task=Crashes)) as queue:
        Crashes().dispatch_sync()

        queue.run_until_idle_sync()

        queue.assert_completed(Crashes)
