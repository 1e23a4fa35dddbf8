"""A kept traceback says what the interpreter would have printed."""

import gc
import traceback
import weakref
from collections.abc import Callable

import pytest

from asynctasq.codec.envelope import decode_envelope
from asynctasq.core.tracebacks import TRACEBACK_BYTES_MAX, drop_library_frames, traceback_text
from asynctasq.tasks import AsyncTask, SyncProcessTask
from asynctasq.testing import FakeQueue


class Unprinted(Exception): ...


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def plain() -> None:
    raise ValueError("plain")


def nested() -> None:
    [plain() for _ in range(1)]


def with_cause() -> None:
    try:
        plain()
    except ValueError as error:
        raise RuntimeError("caused") from error


def in_context() -> None:
    try:
        plain()
    except ValueError:
        raise KeyError("context")  # noqa: B904 - that is the case


def suppressed() -> None:
    try:
        plain()
    except ValueError:
        raise KeyError("alone") from None


def with_notes() -> None:
    error = ValueError("noted")
    error.add_note("look here")
    raise error


def group() -> None:
    raise ExceptionGroup("many", [ValueError(1), TypeError(2)])


def wrong_name() -> None:
    number_of_things = 1
    print(number_of_things, number_of_thing)  # noqa: F821 - that is the case


def wrong_attribute() -> None:
    "".joint([])


def wrong_import() -> None:
    from asynctasq.tasks import AsyncTusk  # noqa: F401 # type: ignore[attr-defined]


def of_a_module() -> None:
    raise Unprinted("of a module")


def without_text() -> None:
    raise ValueError


def recursion(depth: int = 40) -> None:
    if depth == 0:
        plain()
    recursion(depth - 1)


def alternating(depth: int = 20) -> None:
    if depth == 0:
        plain()
    (alternating if depth % 2 else recursion)(depth - 1)


def deep(depth: int = 200) -> None:
    exec("def f(): g()", names := {"g": plain if depth == 0 else lambda: deep(depth - 1)})
    names["f"]()


def syntax() -> None:
    compile("a b", "somewhere", "exec")


def unprintable() -> None:
    raise Unprintable


CASES = [
    plain, nested, with_cause, in_context, suppressed, with_notes, group, wrong_name, wrong_attribute, recursion,
    alternating, syntax, unprintable, wrong_import, of_a_module, without_text,
]  # fmt: skip


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_the_text_is_the_interpreters_own_the_second_time_too(function: Callable[[], object]) -> None:
    errors = [caught(function), caught(function)]

    assert [traceback_text(error) for error in errors] == ["".join(traceback.format_exception(e)) for e in errors]


def test_equal_code_in_two_files_is_told_apart() -> None:
    functions = []
    for name in ("one.py", "two.py"):
        exec(compile("def same():\n    raise ValueError\n", name, "exec"), space := {})
        functions.append(space["same"])

    texts = [traceback_text(caught(function)) for function in functions]

    assert functions[0].__code__ == functions[1].__code__
    assert ['"one.py"' in text for text in texts] == [True, False]


def test_a_long_text_keeps_its_end() -> None:
    text = traceback_text(caught(deep))

    assert len(text) < TRACEBACK_BYTES_MAX + 10
    assert text.startswith("[...]\n")
    assert text.endswith("ValueError: plain\n")


def test_an_exception_that_has_no_traceback_has_a_text() -> None:
    assert traceback_text(ValueError("made")) == "ValueError: made\n"


def test_no_local_of_a_frame_lives_on() -> None:
    class Local:
        pass

    watched: list[weakref.ref[Local]] = []

    def fails() -> None:
        local = Local()
        watched.append(weakref.ref(local))
        raise ValueError

    traceback_text(caught(fails))
    gc.collect()

    assert watched[0]() is None


class Raises(AsyncTask[None]):
    async def execute(self) -> None:
        plain()


class RaisesInAChild(SyncProcessTask[None]):
    def execute(self) -> None:
        plain()


@pytest.mark.parametrize("task", [Raises, RaisesInAChild])
async def test_what_is_kept_of_a_failed_attempt_begins_in_the_users_code(task) -> None:
    async with FakeQueue() as queue:
        task_id = await task().with_options(max_attempts=1).dispatch()
        await queue.drain(errors="collect")
        stored = await queue.driver.find(task_id)

    frames = [line.strip() for line in stored.error.traceback.splitlines() if line.strip().startswith("File")]
    assert ["test_tracebacks.py" in frame for frame in frames] == [True, True]


def test_a_traceback_of_ours_alone_stays_whole() -> None:
    error = caught(lambda: decode_envelope(b""))
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # without this file's frames

    before = traceback_text(error)
    drop_library_frames(error)

    assert traceback_text(error) == before
    assert "decode_envelope" in before
