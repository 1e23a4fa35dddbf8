"""Whatever an exception, a constructor or a hook does, the attempt ends, it is counted, and its texts are bounded."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asynctasq.core.exception_codec import pack_exception, record_of, unpack_exception
from asynctasq.core.tracebacks import MESSAGE_BYTES_MAX, NAME_BYTES_MAX, TRACEBACK_BYTES_MAX
from asynctasq.errors import DELAY_S_MAX, CodecError, Retry, Snooze, UndecodableBody
from asynctasq.kernel.decide import SNOOZE_AGAIN_S_MIN
from asynctasq.kernel.messages import DeadReason, StoredMessage
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue
from asynctasq.utils.loop import run_despite_exits

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what __del__ raises

RAN: Counter[str] = Counter()
EXITS: list[type[BaseException]] = [
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    GeneratorExit,
    ValueError,
    RecursionError,
]
RECORD_BYTES_MAX = 21_000
MARGIN_BYTES = 100
"""What marks a text that was cut."""


MISBEHAVES = [False]
"""Whether they do: not when the garbage collector finds them in a later test."""


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    RAN.clear()
    MISBEHAVES[0] = True
    yield
    MISBEHAVES[0] = False


def leave(error: type[BaseException]) -> Callable[..., Any]:
    def method(*_: object, **__: object) -> None:
        if MISBEHAVES[0]:
            raise error("leaving")

    return method


def misbehaving(error: type[BaseException], *names: str, base: type[BaseException] = Exception) -> type[BaseException]:
    return type("Misbehaving", (base,), {name: leave(error) for name in names})


class Metaclass(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__module__", "__name__"):
            raise SystemExit(3)
        return super().__getattribute__(name)


class WithoutName(Exception, metaclass=Metaclass): ...


class TextOfAnotherClass(str):
    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit(3)

    def __getitem__(self, key: Any) -> Any:
        raise SystemExit(3)

    def __str__(self) -> Any:
        raise SystemExit(3)


class GivesSubclass(Exception):
    def __str__(self) -> str:
        return TextOfAnotherClass("text")


class WithoutClass(Exception):
    @property
    def __class__(self) -> Any:
        raise SystemExit(3)


class WithoutDict(Exception):
    @property
    def __dict__(self) -> Any:
        raise SystemExit(3)


class ArgumentExits:
    __repr__ = __str__ = __eq__ = __hash__ = __reduce__ = __getattribute__ = leave(SystemExit)


class StillWords(Snooze):
    def __init__(self) -> None:
        self.delay_s = "soon"  # type: ignore[assignment]


class NoDelay(Snooze):
    def __init__(self) -> None: ...


class RetriesNever(Retry):
    def __init__(self) -> None:
        self.after_s = float("inf")


def huge_name() -> BaseException:
    return type("X" * 5_000_000, (Exception,), {})("short")


def noted() -> BaseException:
    error = ValueError("short")
    for _ in range(50):
        error.add_note("é" * 100_000)
    return error


MAKERS: list[Callable[[], BaseException]] = [
    *(
        lambda error=error, name=name: misbehaving(error, *name)("argument")
        for error in EXITS
        for name in [("__str__",), ("__repr__",), ("__str__", "__repr__", "__reduce__", "__eq__", "__del__")]
    ),
    lambda: ValueError(ArgumentExits()),
    lambda: WithoutName("text"),
    GivesSubclass,
    WithoutClass,
    WithoutDict,
    lambda: ValueError("é" * 3_000_000),
    lambda: ValueError("x" * 100_000_000),
    lambda: ValueError("\ud800" * 10_000),
    lambda: KeyError("\x00\x1b" * 100_000),
    lambda: ExceptionGroup("g" * 100_000, [ValueError("🎈" * 1_000_000)]),
    huge_name,
    noted,
]


@pytest.mark.parametrize("make", MAKERS)
def test_every_exception_has_a_record_of_bounded_size(make: Callable[[], BaseException]) -> None:
    try:
        raise make() from ValueError("cause" * 100_000)
    except BaseException as error:
        record = record_of(error)

    for text, bytes_max in [
        (record.type, NAME_BYTES_MAX),
        (record.message, MESSAGE_BYTES_MAX),
        (record.traceback, TRACEBACK_BYTES_MAX),
    ]:
        assert type(text) is str
        assert len(json.dumps(text)) <= bytes_max + MARGIN_BYTES
    assert len(record.to_json()) < RECORD_BYTES_MAX


@pytest.mark.parametrize("make", MAKERS)
def test_every_exception_leaves_a_child_process(make: Callable[[], BaseException]) -> None:
    data = pack_exception(make())

    assert len(data) < 200_000
    error = unpack_exception(data)
    assert len(str(error.__cause__)) <= TRACEBACK_BYTES_MAX + MARGIN_BYTES
    record_of(error)


def test_a_huge_message_leaves_room_for_the_frames() -> None:
    def frame_of_the_task() -> None:
        float("é" * 3_000_000)

    try:
        frame_of_the_task()
    except ValueError as error:
        record = record_of(error)

    assert "frame_of_the_task" in record.traceback
    assert record.message.startswith("could not convert string to float: 'ééé")
    assert record.message.endswith(" characters more]")


@pytest.mark.parametrize("cls", [CodecError, UndecodableBody])
def test_an_error_text_that_names_what_a_body_holds_is_bounded(cls: type[CodecError]) -> None:
    text = str(cls(f"the message has a {'x' * 5_000_000!r}; was it changed since the task was dispatched?"))

    assert len(text) < 2_000
    assert text.endswith("was it changed since the task was dispatched?")


# -- attempts -------------------------------------------------------------------------------------


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["fine"] += 1


def with_mode(base: type[BaseTask[None]], **members: Any) -> type[BaseTask[None]]:
    """Return a task whose `execute` is `run`, in any of the four modes."""
    run = members.pop("run")

    async def execute_async(self: object) -> None:
        RAN["execute"] += 1
        run()

    def execute_blocking(self: object) -> None:
        RAN["execute"] += 1
        run()

    is_async = issubclass(base, AsyncTask | AsyncProcessTask)
    members["execute"] = execute_async if is_async else execute_blocking
    settings = {"max_attempts": 2, "retry_delay": 1}
    return type("Hostile", (base,), settings | members)


MODES: list[type[BaseTask[None]]] = [AsyncTask, SyncTask, SyncProcessTask, AsyncProcessTask]


def run_beside_fine(task: BaseTask[Any]) -> tuple[FakeQueue, StoredMessage | None]:
    """Run the task and an innocent one; return the queue and what is left of the task's message, if anything is."""

    async def find() -> StoredMessage | None:
        return await queue.driver.find(task_id)  # type: ignore[attr-defined, no-any-return]

    with FakeQueue() as queue:
        task_id = task.dispatch_sync()
        Fine().dispatch_sync()
        queue.run_until_idle_sync()
        stored = queue._engine.run_sync(find())
    assert RAN["fine"] == 1
    return queue, stored


def dead_after(task: BaseTask[Any]) -> int:
    """Run the task to its dead letter; return how many attempts were counted."""
    _, stored = run_beside_fine(task)
    assert stored is not None
    assert stored.reason is DeadReason.FAILED
    assert stored.error is not None
    assert len(stored.error.to_json()) < RECORD_BYTES_MAX
    return stored.attempts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", MAKERS)
def test_every_exception_is_a_counted_attempt(mode: type[BaseTask[None]], make: Callable[[], BaseException]) -> None:
    def run() -> None:
        raise make()

    assert dead_after(with_mode(mode, run=run)()) == 2
    assert RAN["execute"] == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", EXITS)
def test_a_constructor_that_exits_ends_in_a_dead_letter(mode: type[BaseTask[None]], error: type[BaseException]) -> None:
    built = Counter[str]()

    def construct(self: Any, **kwargs: Any) -> None:
        built["times"] += 1
        if built["times"] > 1:  # the first is the dispatch
            raise misbehaving(error, "__str__", "__repr__", base=error)("no")
        mode.__init__(self, **kwargs)

    assert dead_after(with_mode(mode, __init__=construct, run=lambda: None)()) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", EXITS)
@pytest.mark.parametrize("hook", ["should_retry", "failed"])
def test_a_hook_that_raises_what_exits_when_shown_changes_nothing(
    mode: type[BaseTask[None]], error: type[BaseException], hook: str
) -> None:
    def misbehave(self: object, exception: Exception) -> None:
        RAN[hook] += 1
        raise misbehaving(error, "__str__", "__repr__")("no")

    assert dead_after(with_mode(mode, run=lambda: 1 / 0, **{hook: misbehave})()) == 2
    assert RAN[hook] == 1


def test_an_answer_of_should_retry_without_a_truth_value_means_yes() -> None:
    class Answer:
        __bool__ = leave(SystemExit)

    assert dead_after(with_mode(AsyncTask, run=lambda: 1 / 0, should_retry=lambda *_: Answer())()) == 2
    assert RAN["execute"] == 2


def test_a_hook_that_cancels_its_own_asyncio_task_ends_in_a_counted_attempt() -> None:
    async def failed(self: object, exception: Exception) -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    assert dead_after(with_mode(AsyncTask, run=lambda: 1 / 0, failed=failed)()) == 2
    assert RAN["execute"] == 2


@pytest.mark.parametrize("signal", [StillWords, NoDelay])
def test_a_snooze_without_a_usable_delay_is_a_failed_attempt(signal: Callable[[], BaseException]) -> None:
    def run() -> None:
        raise signal()

    assert dead_after(with_mode(AsyncTask, run=run)()) == 2
    assert RAN["execute"] == 2


def test_a_retry_after_too_long_is_at_most_a_hundred_years() -> None:
    def run() -> None:
        raise RetriesNever

    with FakeQueue() as queue:
        with_mode(AsyncTask, run=run)().dispatch_sync()
        queue.run_due_sync()

    due_at = [entry.due_at - entry.at for entry in queue.ledger if entry.detail == "retry"]
    assert due_at == [pytest.approx(DELAY_S_MAX, abs=1)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delay_s", [0, -5, 1e-9])
def test_a_message_is_never_snoozed_twice_in_a_row_without_a_pause(mode: type[BaseTask[None]], delay_s: float) -> None:
    def run() -> None:
        if RAN["execute"] <= 20:
            raise Snooze(delay_s)

    queue, stored = run_beside_fine(with_mode(mode, run=run)())

    assert stored is None
    assert RAN["execute"] == 21
    assert queue.clock.elapsed.total_seconds() >= 19 * SNOOZE_AGAIN_S_MIN


def test_an_exit_of_a_background_task_that_can_not_be_shown_ends_nothing() -> None:
    exits = misbehaving(SystemExit, "__str__", "__repr__", base=SystemExit)

    async def background() -> None:
        raise exits("no")

    async def main() -> str:
        task = asyncio.create_task(background())
        await asyncio.wait([task])
        task.exception()
        return "alive"

    assert run_despite_exits(main()) == "alive"
