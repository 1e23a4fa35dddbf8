"""Waits for conditions, with deadlines that are generous and scaled by ASYNCTASQ_TEST_PATIENCE."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from asynctasq.testing.patience import patient_s

__all__ = ["SOON_S", "patient_s", "until", "wait_until"]

SOON_S = patient_s(30)
"""The deadline of what takes less than a second on a free machine."""
LOOK_S = 0.005


async def until(condition: Callable[[], Any], what: str = "the condition holds", *, within_s: float = SOON_S) -> Any:
    """Return the first true answer of a function or a coroutine function; fail when none comes in time."""
    deadline = time.monotonic() + within_s
    while not (answer := await _answer(condition)):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(LOOK_S)
    return answer


async def _answer(condition: Callable[[], Any]) -> Any:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer


def wait_until(condition: Callable[[], Any], what: str = "the condition holds", *, within_s: float = SOON_S) -> Any:
    """Return the first true answer, where no event loop runs; fail when none comes in time."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        pause.wait(LOOK_S)
    return answer
