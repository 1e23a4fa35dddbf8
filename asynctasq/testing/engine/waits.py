"""How code waits for the workers of an engine: for a condition, an instant or rest; or gets why they can't go on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from asynctasq.testing.loop import SharedLoop, SimulationLoop

__all__ = ["Waits"]


class Waits:
    """Those who wait for the workers that run in `loop`, which is asked for when it is needed."""

    def __init__(self, loop: Callable[[], SimulationLoop | SharedLoop]) -> None:
        self.failure: BaseException | None = None
        self.failure_raised = False
        self._loop = loop
        self._awaited: list[_Wait] = []
        self._check_scheduled = False
        self._futures: set[asyncio.Future[bool]] = set()

    def notify_change(self) -> None:
        """Check the conditions that are waited for, once all that can happen at this instant has happened."""
        if self._awaited and not self._check_scheduled:
            self._check_scheduled = True
            self._loop().call_at_instant_end(self._check_waiting)

    def _check_waiting(self) -> None:
        self._check_scheduled = False
        for awaited in self._awaited:
            if self.failure is not None or awaited.condition():
                awaited.finish(True)

    async def until(self, done: Callable[[], bool], *, virtual_s_max: float) -> bool:
        """Let workers run until `done`, asked at the end of each instant with a change; False after `virtual_s_max`."""
        awaited = _Wait(done, self._future())
        timer = self._loop().call_later(virtual_s_max, awaited.finish, False)
        self._awaited.append(awaited)
        self.notify_change()
        try:
            held = await awaited.end
        finally:
            timer.cancel()
            self._awaited.remove(awaited)
        self.raise_failure()
        return held or done()

    async def until_instant_end(self) -> None:
        """Let everything happen that can happen at this virtual instant."""
        rested = self._future()
        self._loop().call_at_instant_end(_set, rested)
        await rested
        self.raise_failure()

    async def until_clock(self, elapsed_s: float) -> None:
        """Let workers run until the clock shows `elapsed_s`, and all that happens at that instant."""
        reached = self._future()
        timer = self._loop().call_at(elapsed_s, _set, reached)
        try:
            await reached
        finally:
            timer.cancel()
        await self.until_instant_end()

    def fail(self, error: BaseException) -> None:
        """Let whoever waits for the workers get this error, or who waits next."""
        self.failure = self.failure or error
        for future in list(self._futures):
            if not future.done():
                future.set_exception(error)
                self.failure_raised = True

    def raise_failure(self) -> None:
        """Raise why the workers can't go on, if they can't."""
        if self.failure is not None:
            self.failure_raised = True
            raise self.failure

    def _future(self) -> "asyncio.Future[bool]":
        """Return a future that `fail` ends."""
        future: asyncio.Future[bool] = self._loop().create_future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future


def _set(future: "asyncio.Future[bool]") -> None:
    if not future.done():
        future.set_result(True)


@dataclass(slots=True, eq=False)
class _Wait:
    """A condition that is waited for; `end` is True if it held at the end of an instant, False if time ran out."""

    condition: Callable[[], bool]
    end: asyncio.Future[bool]

    def finish(self, held: bool) -> None:
        """End the wait; others may have changed the state before the waiting code goes on."""
        if not self.end.done():
            self.end.set_result(held)
