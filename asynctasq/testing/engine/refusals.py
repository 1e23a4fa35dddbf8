"""What a test tool refuses to a task: an error of the test, which the task neither handles nor is retried for."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from asynctasq.core.current_task import running_task
from asynctasq.core.django_databases import InMemoryDatabase
from asynctasq.core.tracebacks import exception_text
from asynctasq.tasks.definition import definition_of, task_id_of
from asynctasq.testing.errors import OtherLoopResource, RealWorldAccess, SimulationError
from asynctasq.testing.loop.waits import Origin, origin_of

__all__ = ["error_of_test", "refusal_in"]

_SIGNS = ("attached to a different loop", "is bound to a different event loop")
"""How asyncio says that what is awaited belongs to another loop."""


def error_of_test(error: SimulationError) -> SimulationError:
    """Return the error to report for a refusal: it names the task that runs now, and its line."""
    line = _application_line(_frames_up(inspect.currentframe()))
    return type(error)(f"{error}\n  asked for by {_running_task()}, at {line}")


def refusal_in(error: BaseException) -> SimulationError | None:
    """Return the error of the test if a task failed because of what a test can't have, not by its own fault."""
    if isinstance(error, InMemoryDatabase):  # in a child process, where no loop refuses anything
        return RealWorldAccess(str(error))
    return _other_loop_error(error)


def _other_loop_error(error: BaseException) -> OtherLoopResource | None:
    """Return the error of the test if a task failed because something it used belongs to another event loop."""
    found = next((each for each in _chain(error) if any(sign in exception_text(each) for sign in _SIGNS)), None)
    if found is None:
        return None
    frames = [*_frames_down(found.__traceback__)]
    owner = _package(frames)
    line = _application_line(iter(reversed(frames)))
    return OtherLoopResource(
        f"{_running_task()} used {owner} that belongs to another event loop than the one that this FakeQueue runs "
        f"tasks on, at {line}. A pool, client or lock belongs to the loop that first used it. Either let the FakeQueue "
        "run on that loop, by `async with FakeQueue()` in an async test of the same loop scope, or make it in the task "
        f"itself, or without keeping connections (SQLAlchemy's NullPool).\n  asyncio said: {found}"
    )


def _running_task() -> str:
    task = running_task.get()
    if task is not None:
        return f"{definition_of(type(task)).name} (message {task_id_of(task)})"
    current = asyncio.current_task()
    return "the code under test" if current is None else current.get_name()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _frames_down(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _frames_up(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _application_line(frames: Iterator[FrameType]) -> str:
    for frame in frames:
        if origin_of(frame.f_code) is Origin.APPLICATION:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return "a place in no file of the application"


def _package(frames: list[FrameType]) -> str:
    """Return whose resource it was: the innermost installed package that was at work."""
    for frame in reversed(frames):
        parts = Path(frame.f_code.co_filename).parts
        if origin_of(frame.f_code) is Origin.LIBRARY and "site-packages" in parts:
            return f"a resource of {parts[parts.index('site-packages') + 1].removesuffix('.py')}"
    return "a future, lock or connection"
