"""Enters the lifespans of an application before its first task, and leaves them in reverse after the last one."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from asynctasq.core.exception_codec import log_error
from asynctasq.core.tracebacks import exception_text
from asynctasq.errors import LifespanError
from asynctasq.logs import get_logger
from asynctasq.tasks.configured import Lifespan
from asynctasq.tasks.resources import current_resources

__all__ = ["ENTER_S_MAX", "LifespanRun"]

logger = get_logger(__name__)

ENTER_S_MAX = 60.0
"""How long the lifespans of a process may take to start, in seconds."""
CUT_S = 0.2
"""How long one that was cancelled may take to end: less than until whoever waits here is cancelled again."""

_Entered = tuple[str, AbstractAsyncContextManager[object]]


class LifespanRun:
    """The lifespans of one process, entered and left by one asyncio task of their own, as cancel scopes require.

    What they yield is in `current_resources` of the context that entered them, and of what is started there.
    """

    def __init__(self, lifespans: Sequence[Lifespan]) -> None:
        self._lifespans = lifespans
        self.at_work = False
        """Whether one of them is being entered or left."""
        self._task: asyncio.Task[None] | None = None
        self._name = ""
        self._failure: BaseException | None = None
        self._resources: list[object] = []
        self._before: tuple[object, ...] | None = None
        self._cancelled = False

    @property
    def entered(self) -> bool:
        """Whether there is something to leave."""
        return self._task is not None

    async def enter(self, within_s: float = ENTER_S_MAX) -> None:
        """Enter them in order; those that were entered are left again when one fails, or this is cancelled.

        Raises: LifespanError if one raises, or all of them take longer than `within_s`.
        """
        if not self._lifespans:
            return
        self._entered, self._leaving = asyncio.Event(), asyncio.Event()
        self._failure, self._resources, self._cancelled = None, [], False
        self._task = asyncio.get_running_loop().create_task(self._hold(), name="lifespan")
        self.at_work = True
        try:
            async with asyncio.timeout(within_s):
                await self._entered.wait()
        except TimeoutError:
            name = self._name
            await self._cut()
            raise LifespanError(f"the lifespan {name} did not start within {within_s:g} s") from None
        except asyncio.CancelledError:
            await self._cut()
            raise
        finally:
            self.at_work = False
        self._raise_failure()
        self._before = current_resources.get()
        current_resources.set(tuple(self._resources))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._task = None
            text = f"the lifespan {self._name} failed at its start: {exception_text(self._failure, repr)}"
            log_error(logger, logging.ERROR, text, self._failure)
            raise LifespanError(text) from self._failure

    async def leave(self) -> None:
        """Leave those that were entered, in reverse; what they raise is logged. If cancelled it cuts what hangs."""
        if self._task is None:
            return
        current_resources.set(self._before)
        self._leaving.set()
        self.at_work = True
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            logger.error("the lifespan %s did not end in time and is cut", self._name)  # noqa: TRY400 - nothing broke
            await self._cut()
            raise
        finally:
            self.at_work = False
        self._task = None

    async def _cut(self) -> None:
        """Cancel what is at work; one that ignores that is abandoned."""
        task, self._task = self._task, None
        assert task is not None, "something is at work"
        self._cancelled = True
        task.cancel()
        if not (await asyncio.wait([task], timeout=CUT_S))[0]:
            logger.error("the lifespan %s ignores its cancellation and is abandoned", self._name)

    async def _hold(self) -> None:
        entered: list[_Entered] = []
        try:
            for lifespan in self._lifespans:
                self._name = lifespan.name or "that was given"
                scope = lifespan.make()
                resource = await scope.__aenter__()
                entered.append((self._name, scope))
                if resource is not None:
                    self._resources.append(resource)
        except GeneratorExit:  # of a simulated worker that was killed: none of its code runs any more
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            failed = self._name
            await self._leave_all(entered)
            self._name, self._failure = failed, error
        else:
            self._entered.set()
            await self._leaving.wait()
            await self._leave_all(entered)
        finally:
            self._entered.set()

    async def _leave_all(self, entered: Sequence[_Entered]) -> None:
        for name, scope in reversed(entered):
            self._name = name
            try:
                await scope.__aexit__(None, None, None)
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - user code may raise anything; the others are left all the same
                if not self._cancelled:
                    log_error(logger, logging.ERROR, f"the lifespan {name} failed at its end", error)
