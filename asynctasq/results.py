"""Results and states of messages, as the application asks for them: waits, decodes, and says why there is none."""

import asyncio
import math
from typing import Any

from asynctasq.codec.arguments import load_result, task_of_result
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys, open_result
from asynctasq.drivers.base import Driver, Inspectable, KeepsResults
from asynctasq.errors import (
    CodecError,
    ResultNotKept,
    ResultTimeoutError,
    TaskFailedError,
    TaskNotFoundError,
    UnknownTask,
    UnsupportedFeature,
)
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import State, StoredMessage
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.registry import registered
from asynctasq.tasks.task_status import TaskStatus, completed_status, status_of

__all__ = ["fetch_status", "wait_for_result"]

WAIT_S_MAX = 3600.0
"""The longest single wait that a driver is asked for; after it the state is looked at again."""


async def wait_for_result(
    driver: Driver,
    task_id: str,
    *,
    task: type[BaseTask[Any]] | None,
    timeout_s: float | None,
    keys: SigningKeys | None,
    limits: Limits,
) -> object:
    """Return what the task returned, once it has ended; `task` is its class, if that is known.

    While a message with this id lives, an earlier result of the same id is not looked at.

    Raises: TaskFailedError, ResultTimeoutError, TaskNotFoundError, ResultNotKept, UnsupportedFeature if the driver
    keeps no results, BadSignature for a result that is not signed as that of this message, UnknownTask.
    """
    keeps, inspects = _keeping(driver), _inspecting(driver)
    loop = asyncio.get_running_loop()
    deadline = math.inf if timeout_s is None else loop.time() + timeout_s
    while (stored := await inspects.find(task_id)) is not None:
        if stored.state is State.DEAD:
            raise _failure(stored)
        _check_kept(stored, limits)
        left_s = deadline - loop.time()
        if left_s <= 0:
            raise ResultTimeoutError(
                f"task {task_id} has not ended within {timeout_s:g} s; it is {stored.state.value} in queue "
                f"{stored.queue!r}",
                state=stored.state.value,
            )
        await keeps.wait_result(task_id, wait_s=min(left_s, WAIT_S_MAX))
    data = await keeps.fetch_result(task_id)
    if data is None:
        raise not_found(driver, task_id)
    data = open_result(data, keys, task_id)
    return await load_result(data, _returns(data, task_id, task), limits)


async def fetch_status(driver: Driver, task_id: str, *, limits: Limits) -> TaskStatus:
    """Return what the driver knows of the task now.

    Raises: TaskNotFoundError if that is nothing, UnsupportedFeature if the driver can't look at its messages.
    """
    stored = await _inspecting(driver).find(task_id)
    if stored is not None:
        envelope = _envelope(stored, limits)
        if envelope is None:
            return status_of(stored, task="", max_attempts=None)
        return status_of(stored, task=envelope.task, max_attempts=envelope.max_attempts)
    if driver.capabilities.keeps_results and await _keeping(driver).fetch_result(task_id) is not None:
        return completed_status(task_id)
    raise not_found(driver, task_id)


def not_found(driver: object, task_id: str) -> TaskNotFoundError:
    """Return the error about an id of which nothing is stored, not even a result."""
    return TaskNotFoundError(
        f"{driver} has neither a message nor a result of task {task_id}: it has completed without keep_result or its "
        "result was not kept any longer, it was cancelled, it went to another driver (give its class as task=), or "
        "there never was such a task"
    )


def _keeping(driver: Driver) -> KeepsResults:
    if not driver.capabilities.keeps_results or not isinstance(driver, KeepsResults):
        raise UnsupportedFeature(f"{driver} keeps no results; let the task store what it found where you look for it")
    return driver


def _inspecting(driver: Driver) -> Inspectable:
    if not driver.capabilities.inspects or not isinstance(driver, Inspectable):
        raise UnsupportedFeature(f"{driver} can't look at a message by its id, so it knows no status of a task")
    return driver


def _envelope(stored: StoredMessage, limits: Limits) -> Envelope | None:
    """Return what a body holds, None if it can't be read; nothing is run, so its signature is not asked for."""
    try:
        return decode_envelope(stored.body, limits=limits)
    except CodecError:
        return None


def _check_kept(stored: StoredMessage, limits: Limits) -> None:
    envelope = _envelope(stored, limits)
    if envelope is not None and envelope.keep_result_s is None:
        raise ResultNotKept(
            f"task {stored.id} ({envelope.task}) was dispatched without keep_result, so it has no result"
        )


def _failure(stored: StoredMessage) -> TaskFailedError:
    error, reason = stored.error, "unknown" if stored.reason is None else stored.reason.value
    return TaskFailedError(
        stored.id,
        type="" if error is None else error.type,
        message="" if error is None else error.message,
        traceback="" if error is None else error.traceback,
        attempts=stored.attempts,
        reason=reason,
    )


def _returns(data: bytes, task_id: str, task: type[BaseTask[Any]] | None) -> object:
    """Return the annotation that the result is rebuilt by: that of its task."""
    name = task_of_result(data)
    if task is None and name is not None:
        task = registered(name)
        if task is None:
            raise UnknownTask(
                f"the result of task {task_id} is rebuilt as {name} is annotated, which is not imported here; import "
                "its module, or give its class as task="
            )
    return None if task is None else definition_of(task).returns
