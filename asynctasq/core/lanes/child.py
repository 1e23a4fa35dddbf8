"""What a child process does: build a task from bytes, execute it, reply in bytes.

Only bytes cross the pipe. The simulation calls `serve` in its own loop, so the same code runs there.
"""

import asyncio
import ctypes
import enum
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.typed_msgpack import packb, unpackb
from asynctasq.core.current_task import running_task
from asynctasq.core.django_databases import DatabaseSettings, use_databases
from asynctasq.core.exception_codec import pack_exception, unpack_exception
from asynctasq.core.lanes.child_log import send_records
from asynctasq.core.lanes.pipe import receive_frame, send_frame
from asynctasq.core.lifespans import LifespanRun
from asynctasq.core.module_imports import ImportTookTooLong
from asynctasq.core.orms import attempt_scope, open_orms, release_thread_connections, set_up_django
from asynctasq.core.standard_streams import tolerate_output_errors
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.tracebacks import traceback_text
from asynctasq.errors import CodecError, DispatchError, LifespanError
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import AsyncTask, BaseTask, SyncTask
from asynctasq.tasks.configured import lifespans_of
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.resources import current_resources
from asynctasq.utils.loop import new_event_loop

__all__ = ["NO_LIFESPAN", "READY", "ChildSettings", "Reply", "ReplyKind", "Request", "main", "serve"]

PR_SET_PDEATHSIG = 1
PARENT_CHECK_S = 1.0
READY = b"ready"
NO_LIFESPAN = b"no lifespan: "
"""What a child says that could import the application but not enter its lifespans; then why."""
Places = tuple[list[str], str | None, list[str], list[str]]


class ReplyKind(enum.Enum):
    """How the attempt in the child ended."""

    RETURNED = 0
    RAISED = 1
    NOT_BUILT = 2
    BAD_RESULT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt to run in a child. `keep_result` says whether the value is wanted back.

    `file` is where the worker has the task from, None if it does not have it yet. With `only_import` the task's module
    is imported and nothing else is done.
    """

    message_id: str
    attempt: int
    body: bytes
    keep_result: bool = False
    file: str | None = None
    only_import: bool = False

    def encode(self) -> bytes:
        """Return the bytes for the pipe."""
        return packb([self.message_id, self.attempt, self.body, self.keep_result, self.file, self.only_import])

    @classmethod
    def decode(cls, data: bytes) -> "Request":
        """Rebuild from `encode`."""
        fields = cast("tuple[str, int, bytes, bool, str | None, bool]", unpackb(data))
        message_id, attempt, body, keep_result, file, only_import = fields
        return cls(
            message_id=message_id,
            attempt=attempt,
            body=body,
            keep_result=keep_result,
            file=file,
            only_import=only_import,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How an attempt in a child ended: a packed result (None unless wanted) or a packed exception."""

    kind: ReplyKind
    result: bytes | None = None
    error: bytes | None = None

    def encode(self) -> bytes:
        """Return the bytes for the pipe."""
        return packb([self.kind.value, self.result, self.error])

    @classmethod
    def decode(cls, data: bytes) -> "Reply":
        """Rebuild from `encode`.

        Raises: ValueError, TypeError for other bytes: they come from a process that runs task code.
        """
        kind, result, error = cast("tuple[int, object, object]", unpackb(data))
        if not isinstance(result, bytes | None) or not isinstance(error, bytes | None):
            raise TypeError("result and error of a reply are bytes")
        return cls(kind=ReplyKind(kind), result=result, error=error)

    def exception(self) -> BaseException:
        """Return the exception this reply carries."""
        assert self.error is not None
        return unpack_exception(self.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSettings:
    """What a child needs to find the application's tasks: its modules, root and folders, and the worker's `sys.path`.

    `databases` are those of a test, which Django is to use in place of the configured ones. `driver` is where tasks of
    a test dispatch to, "" for nowhere, None for the configured one. `lifespans` are the names of those to enter,
    `log_levels` those of the worker's loggers.
    """

    modules: tuple[str, ...] = ()
    root: str | None = None
    folders: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    body_bytes_max: int = DEFAULT_LIMITS.body_bytes_max
    databases: DatabaseSettings = field(default_factory=dict[str, Mapping[str, str]], repr=False)
    driver: str | None = field(default=None, repr=False)
    lifespans: tuple[str, ...] = ()
    log_levels: Mapping[str, int] = field(default_factory=dict[str, int])

    def encode(self) -> bytes:
        """Return the bytes for the pipe."""
        places = [self.modules, self.root, self.folders, self.path]
        return packb([places, self.body_bytes_max, self.databases, self.driver, self.lifespans, self.log_levels])

    @classmethod
    def decode(cls, data: bytes) -> "ChildSettings":
        """Rebuild from `encode`."""
        places, body_bytes_max, databases, driver, lifespans, log_levels = cast(
            "tuple[Places, int, DatabaseSettings, str | None, list[str], dict[str, int]]", unpackb(data)
        )
        modules, root, folders, path = places
        return cls(
            modules=tuple(modules),
            root=root,
            folders=tuple(folders),
            path=tuple(path),
            body_bytes_max=body_bytes_max,
            databases=databases,
            driver=driver,
            lifespans=tuple(lifespans),
            log_levels=log_levels,
        )

    def make_task_factory(self) -> TaskFactory:
        """Import the application's modules and return the factory of its tasks."""
        set_up_django()
        use_databases(self.databases)
        if self.driver is not None:
            from asynctasq.core.setup import dispatch_to_only  # costs a child that is not a test's nothing

            dispatch_to_only(self.driver)
        application = Application(self.modules, None if self.root is None else Path(self.root), path=self.folders)
        application.load()
        return TaskFactory(application, limits=Limits(body_bytes_max=self.body_bytes_max), decode_in_threads=True)


async def serve(
    request: Request, task_factory: TaskFactory, run_blocking: Callable[[Callable[[], Reply]], Awaitable[Reply]]
) -> Reply:
    """Run one attempt in this process, as a child would; for tests. `run_blocking` runs what may block."""
    task = await build_task(request, task_factory)
    if isinstance(task, Reply):
        return task
    if _is_async(task):
        return await execute_async(task, request, task_factory)
    return await run_blocking(partial(execute_blocking, task, request, task_factory))


async def build_task(request: Request, task_factory: TaskFactory) -> BaseTask[Any] | Reply:
    """Build the task of a request; a reply if that is not possible."""
    try:
        envelope = task_factory.decode_verified(request.body)
        invocation = await task_factory.find(request.message_id, request.attempt, envelope, file=request.file)
        return Reply(kind=ReplyKind.RETURNED) if request.only_import else await task_factory.build(invocation)
    except ImportTookTooLong:  # which ends this child: the thread that imports can't be ended
        raise
    except BaseException as error:  # noqa: BLE001 - codec errors and the user's constructor alike
        return Reply(kind=ReplyKind.NOT_BUILT, error=pack_exception(error))


async def execute_async(task: BaseTask[Any], request: Request, task_factory: TaskFactory) -> Reply:
    """Await the task's `execute` and return how it ended."""
    token = running_task.set(task)
    try:
        value = await cast("AsyncTask[object]", task).execute()
    except BaseException as error:  # noqa: BLE001 - user code; the worker decides what it means
        return Reply(kind=ReplyKind.RAISED, error=pack_exception(error))
    finally:
        running_task.reset(token)
    return _returned(task, value, request, task_factory)


def execute_blocking(task: BaseTask[Any], request: Request, task_factory: TaskFactory) -> Reply:
    """Call the task's `execute` and return how it ended."""
    token = running_task.set(task)
    try:
        value = cast("SyncTask[object]", task).execute()
    except BaseException as error:  # noqa: BLE001 - user code; the worker decides what it means
        return Reply(kind=ReplyKind.RAISED, error=pack_exception(error))
    finally:
        running_task.reset(token)
    return _returned(task, value, request, task_factory)


def _is_async(task: BaseTask[Any]) -> bool:
    return definition_of(type(task)).mode.is_async


def _returned(task: BaseTask[Any], value: object, request: Request, task_factory: TaskFactory) -> Reply:
    """Encode the value even if it is not kept, so that one that can't be serialized is an error at once."""
    try:
        result = task_factory.pack_result(definition_of(type(task)), value)
    except (CodecError, DispatchError) as error:
        return Reply(kind=ReplyKind.BAD_RESULT, error=pack_exception(error))
    return Reply(kind=ReplyKind.RETURNED, result=result if request.keep_result else None)


# -- the child process ---------------------------------------------------------------------------


class _Child:
    """A child's own state: an event loop that serves all its attempts, and the application."""

    def __init__(self, settings: ChildSettings) -> None:
        self.task_factory = settings.make_task_factory()
        self.runner = asyncio.Runner(loop_factory=new_event_loop)
        self._orms = open_orms(None if settings.root is None else Path(settings.root))
        self.runner.run(self._orms.__aenter__())
        self._lifespans = LifespanRun(lifespans_of(settings.lifespans))
        current_resources.set(
            self.runner.run(self._enter_lifespans())
        )  # for blocking tasks: the loop has its own context
        self._kept: AbstractSet[asyncio.Task[Any]] = asyncio.all_tasks(self.runner.get_loop())

    async def _enter_lifespans(self) -> tuple[object, ...] | None:
        await self._lifespans.enter()
        return current_resources.get()

    def close(self) -> None:
        """Close what the application keeps open in the loop, its lifespans first."""
        self.runner.run(self._lifespans.leave())
        self.runner.run(self._orms.__aexit__(None, None, None))
        self.runner.close()

    def serve(self, request: Request) -> Reply:
        task = self.runner.run(self._build(request))
        if isinstance(task, Reply):
            return task
        if not _is_async(task):
            try:
                return execute_blocking(task, request, self.task_factory)
            finally:
                release_thread_connections()
        return self.runner.run(self._execute_and_clean_up(task, request))

    async def _build(self, request: Request) -> BaseTask[Any] | Reply:
        async with attempt_scope() or nullcontext():
            return await build_task(request, self.task_factory)

    async def _execute_and_clean_up(self, task: BaseTask[Any], request: Request) -> Reply:
        async with attempt_scope() or nullcontext():
            reply = await execute_async(task, request, self.task_factory)
            await self._cancel_leftover_tasks()
        return reply

    async def _cancel_leftover_tasks(self) -> None:
        """Cancel what the attempt has left running; the tasks that lifespans started at their start go on."""
        leftover = [other for other in asyncio.all_tasks() - self._kept if other is not asyncio.current_task()]
        for other in leftover:
            other.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)


def main(parent_pid: int, log_descriptor: int) -> None:
    """Serve requests until the worker closes the pipe: first the settings, then one attempt each.

    An empty request asks whether the last attempt is over, and gets an empty answer.
    """
    connection = _take_pipe()
    tolerate_output_errors()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's to handle
    _die_with_parent(parent_pid)
    first = receive_frame(connection)
    if first is None:
        return
    nonce, data = first
    try:
        settings = ChildSettings.decode(data)
        sys.path[:] = [*settings.path, *(entry for entry in sys.path if entry not in settings.path)]
        sender = send_records(socket.socket(fileno=log_descriptor), settings.log_levels)
        child = _Child(settings)
    except LifespanError as error:
        send_frame(connection, nonce, NO_LIFESPAN + str(error).encode("utf-8", "backslashreplace"))
        return
    except Exception as error:
        send_frame(connection, nonce, traceback_text(error).encode("utf-8", "backslashreplace"))
        raise
    send_frame(connection, nonce, READY)
    while (frame := receive_frame(connection)) is not None:
        nonce, data = frame
        reply = b""
        if data:
            request = Request.decode(data)
            sender.message_id = request.message_id
            reply = child.serve(request).encode()
        sys.stdout.flush()
        sys.stderr.flush()
        send_frame(connection, nonce, reply)
    child.close()
    connection.close()  # says that all is closed, before the interpreter takes its time to end


def _take_pipe() -> socket.socket:
    """Move the pipe from standard input to a descriptor that no process started or forked from here has."""
    connection = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.register_at_fork(after_in_child=connection.close)
    return connection


def _die_with_parent(parent_pid: int) -> None:
    """End this child when the worker has died, even of kill -9: another worker will run the message."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        forever = threading.Event()
        while os.getppid() == parent_pid:
            forever.wait(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, name="asynctasq-parent-watch", daemon=True).start()
