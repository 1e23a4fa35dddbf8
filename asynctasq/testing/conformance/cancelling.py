"""Cancels one call at each of its suspensions, in the two ways a cancellation can happen there."""

import asyncio
import functools
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from asynctasq.testing.patience import patient_s

__all__ = ["cancel_at_each_suspension"]

ROUNDS_MAX = 40
HANGS_S = patient_s(20)


def _cancel(task: asyncio.Task[Any], _: object) -> None:
    task.cancel()


class _CancelledAt:
    """Awaits a coroutine and cancels the task at its `at`-th suspension.

    `late` cancels when what it waits for is done and the task is about to go on; else it is cancelled while waiting.
    """

    def __init__(self, call: Coroutine[Any, Any, object], *, at: int, late: bool) -> None:
        self._call = call
        self._at = at
        self._late = late
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, object]:
        return self._step()

    def _step(self) -> Generator[Any, Any, object]:
        task = asyncio.current_task()
        assert task is not None
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._call.send(value) if error is None else self._call.throw(error)
            except StopIteration as stop:
                result: object = stop.value
                return result
            self.suspensions += 1
            if self.suspensions == self._at:
                if self._late and waits_for is not None:
                    waits_for.add_done_callback(functools.partial(_cancel, task))
                else:
                    task.cancel()
            value = error = None
            try:
                value = yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - goes on into the call, CancelledError above all
                error = thrown


async def _run_cancelled(call: Coroutine[Any, Any, object], *, at: int, late: bool) -> bool:
    """Run the call, cancelled at its `at`-th suspension; return whether it came that far."""
    cancelled_call = _CancelledAt(call, at=at, late=late)

    async def run() -> object:
        return await cancelled_call

    task = asyncio.create_task(run())
    done, _ = await asyncio.wait([task], timeout=HANGS_S)
    assert done, f"a call cancelled at its suspension {at} did not end within {HANGS_S:g} s"
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    assert task.cancelled() or late or cancelled_call.suspensions < at, (
        f"a cancellation at suspension {at} was swallowed"
    )
    return cancelled_call.suspensions >= at


async def _check_in_time(check: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(check, HANGS_S)
    except TimeoutError as error:
        raise AssertionError(
            f"after a cancelled call the next ones hang for {HANGS_S:g} s: was a connection lost?"
        ) from error


async def cancel_at_each_suspension(
    make_call: Callable[[], Awaitable[Coroutine[Any, Any, object]]],
    check: Callable[[], Awaitable[None]],
    *,
    at_least: int = 1,
) -> int:
    """Make and cancel a call at its first suspension, its second, and so on to its end; `check` after each.

    All over again until `at_least` calls were cancelled, so that a pool that loses a connection each time runs out;
    a call that never suspends can't be cancelled. Returns how many calls were cancelled.
    """
    count = 0
    for late in itertools.cycle((False, True)):
        at, reached, before = 1, True, count
        while reached and at <= ROUNDS_MAX:
            reached = await _run_cancelled(await make_call(), at=at, late=late)
            await _check_in_time(check())
            count += reached
            at += 1
        if late and (count >= at_least or count == before):
            return count
    raise AssertionError("the cycle has no end")
