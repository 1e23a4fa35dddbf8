"""Defects in how tasks are cancelled."""

from typing import Any

from asynctasq import results as results_module
from asynctasq.core import cancelled_attempts as cancelled_attempts_module
from asynctasq.core import leases as leases_module
from asynctasq.core.cancellation import CancellationListener
from asynctasq.core.cancelled_attempts import CancelledAttempts, LateCancellations
from asynctasq.core.hooks import HookCaller
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.memory_driver import driver as memory_module
from asynctasq.tasks.cancellation import Cancellation
from asynctasq.tasks.metadata import TaskMetadata
from tests.mutants.planting import Mutant, planter

__all__ = ["CANCELLING"]

CANCELLING: list[Mutant] = []
_plant = planter(CANCELLING)


# -- the driver ------------------------------------------------------------------------------------


@_plant(MemoryDriver, "_cancel_running", "cancelled message is released", "what was cancelled while it ran runs again")
def _released(original: Any) -> Any:
    def cancel(self: Any, message_ids: Any) -> Any:
        held = {
            name: self._rows[name].message for name in message_ids if name in self._rows and self._rows[name].leased
        }
        cancelled = original(self, message_ids)
        with self._lock:
            self._store([message for name, message in held.items() if name in cancelled])
        return cancelled

    return cancel


@_plant(MemoryDriver, "_cancel_running", "reserved is not cancelled", "only what waits can be taken back")
def _waiting_only(original: Any) -> Any:
    def cancel(self: Any, message_ids: Any) -> Any:
        return original(self, [name for name in message_ids if name in self._rows and not self._rows[name].leased])

    return cancel


@_plant(MemoryDriver, "_cancel_running", "dead letter cancelled", "what failed is gone before anybody has looked at it")
def _dead_too(original: Any) -> Any:
    def cancel(self: Any, message_ids: Any) -> Any:
        for name in message_ids:
            if name in self._rows:
                self._rows[name].reason = None
        return original(self, message_ids)

    return cancel


@_plant(memory_module, "cancelled_mark", "mark without its token", "a worker can't tell it from a lost lease")
def _no_token(original: Any) -> Any:
    return lambda token: original("")


@_plant(memory_module, "cancels_of", "wakes nobody by its name", "a worker learns it when it renews its lease")
def _nobody(_: Any) -> Any:
    return lambda holder: f"\0{object()}"


# -- the worker ------------------------------------------------------------------------------------


def _all_of_them(_: Any) -> Any:
    async def cancelled_among(driver: Any, lost: Any, **limits: Any) -> Any:
        return frozenset(lease.message_id for lease in lost)

    return cancelled_among


_plant(leases_module, "cancelled_among", "lost is cancelled", "a lease that was taken over calls the hook")(
    _all_of_them
)
_plant(
    cancelled_attempts_module,
    "cancelled_among",
    "late is cancelled",
    "what another worker has done is called cancelled",
)(_all_of_them)


@_plant(CancellationListener, "start", "worker hears of nothing", "a worker learns it when it renews its lease")
def _deaf(_: Any) -> Any:
    return lambda self, on_news, *, name: None


@_plant(CancellationListener, "_listen", "worker hears once", "the second task runs on until its lease is renewed")
def _once(_: Any) -> Any:
    async def listen(self: Any, driver: Any, on_news: Any) -> None:
        if await driver.wait_cancelled(wait_s=float("inf")):
            on_news()

    return listen


@_plant(Worker, "_on_news", "lease under way is forgotten", "what was cancelled before it came runs until its renewal")
def _held_only(_: Any) -> Any:
    return lambda self: self._renewer.renew_all()


@_plant(LoopLeaseRenewer, "renew_all", "renewed when due", "a worker that was woken waits for the time of its renewal")
def _when_due(_: Any) -> Any:
    return lambda self: None


@_plant(LateCancellations, "check", "too late to hear of it", "what a finished attempt has done is not undone")
def _never_told(_: Any) -> Any:
    return lambda self, settlements, lost: None


@_plant(CancelledAttempts, "end", "hook of the interrupted forgotten", "what it left half done stays")
def _no_hook(_: Any) -> Any:
    async def end(self: Any, attempt: Any) -> None:
        return

    return end


@_plant(HookCaller, "cancelled", "cancelled() called twice", "what it undoes is undone twice")
def _twice(original: Any) -> Any:
    async def cancelled(self: Any, run: Any) -> None:
        await original(self, run)
        await original(self, run)

    return cancelled


# -- what is told ----------------------------------------------------------------------------------


@_plant(TaskMetadata, "is_cancelled", "flag never set", "a thread does not know that it is to end")
def _never(_: Any) -> Any:
    return property(lambda self: False)


@_plant(results_module, "_cancelled_before", "second answer is nothing", "a lost reply says that nothing was cancelled")
def _forgotten(_: Any) -> Any:
    async def cancelled_before(driver: Any, task_id: str) -> None:
        return None

    return cancelled_before


@_plant(results_module, "cancelled_token", "mark taken for a result", "status says that a cancelled task has completed")
def _a_result(_: Any) -> Any:
    return lambda kept: None


@_plant(results_module, "Cancellation", "queued and running mixed up", "nobody knows whether a worker had begun")
def _mixed_up(_: Any) -> Any:
    class Wrong:
        NOTHING, QUEUED, RUNNING = Cancellation.NOTHING, Cancellation.RUNNING, Cancellation.QUEUED

    return Wrong
