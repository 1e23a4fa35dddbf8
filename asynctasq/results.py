"""Results, states and the end of messages, as the application asks for them: waits, decodes, says why there is none."""

import asyncio
import math
from typing import Any

from asynctasq.codec.arguments import load_result, task_of_result
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys, open_result
from asynctasq.drivers.base import CancelsRunning, Driver, Inspectable, KeepsResults
from asynctasq.errors import (
    CodecError,
    ResultNotKept,
    ResultTimeoutError,
    TaskCancelledError,
    TaskFailedError,
    TaskNotFoundError,
    UnknownTask,
    UnsupportedFeature,
)
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import State, StoredMessage, cancelled_token
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.cancellation import Cancellation
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.registry import registered
from asynctasq.tasks.task_status import TaskStatus, ended_status, status_of

__all__ = ["cancel_task", "check_cancels_running", "fetch_status", "wait_for_result"]

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

    Raises: TaskFailedError, ResultTimeoutError, TaskCancelledError, TaskNotFoundError, ResultNotKept,
    UnsupportedFeature if the driver keeps no results, BadSignature for a result that is not signed as that of this
    message, UnknownTask.
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
    if cancelled_token(data) is not None:
        raise TaskCancelledError(f"task {task_id} was cancelled, so it has no result")
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
    kept = await _keeping(driver).fetch_result(task_id) if driver.capabilities.keeps_results else None
    if kept is None:
        raise not_found(driver, task_id)
    return ended_status(task_id, cancelled=cancelled_token(kept) is not None)


async def cancel_task(driver: Driver, task_id: str) -> Cancellation:
    """Cancel a task, whatever it is doing, and say what that was. Repeated, it says the same, for as long as is known.

    Raises: UnsupportedFeature if the driver can't.
    """
    token = (await check_cancels_running(driver).cancel_running([task_id])).get(task_id)
    if token is None:
        token = await _cancelled_before(driver, task_id)
    if token is None:
        return Cancellation.NOTHING
    return Cancellation.RUNNING if token else Cancellation.QUEUED


async def _cancelled_before(driver: Driver, task_id: str) -> str | None:
    """Return the token under which this task was cancelled: the reply to an earlier call may have been lost."""
    kept = await _keeping(driver).fetch_result(task_id)
    token = None if kept is None else cancelled_token(kept)
    # A message of this id is of a later life, and can only be a dead letter.
    return None if token is None or await _inspecting(driver).find(task_id) is not None else token


def not_found(driver: object, task_id: str) -> TaskNotFoundError:
    """Return the error about an id of which nothing is stored, not even a result."""
    return TaskNotFoundError(
        f"{driver} has neither a message nor a result of task {task_id}: it has completed without keep_result or its "
        "result was not kept any longer, it was cancelled, it went to another driver (give its class as task=), or "
        "there never was such a task"
    )


def check_cancels_running(driver: Driver) -> CancelsRunning:
    """Return a driver that cancels by id; raise UnsupportedFeature for one that can't."""
    if not driver.capabilities.cancels_running or not isinstance(driver, CancelsRunning):
        raise UnsupportedFeature(
            f"{driver} can't cancel tasks by their ids; let the task ask your own database whether it is still wanted"
        )
    return driver


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
