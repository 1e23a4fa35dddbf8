"""A driver whose calls fail as a plan says: around the store of a simulation, or around a real backend."""

import asyncio
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import coroutine
from typing import Any, NoReturn, Protocol, Self, cast

from asynctasq.codec.envelope import decode_envelope
from asynctasq.drivers.base import Capabilities, Driver, Notifies, ReservesReleased, Settlements
from asynctasq.errors import CodecError, ConfigError, DriverUnavailable
from asynctasq.kernel.messages import Depth, Lease, Message, Release
from asynctasq.testing.faults.kinds import FaultChoice, Faults
from asynctasq.testing.faults.passthrough import PassThrough
from asynctasq.testing.faults.plan import FaultPlan, FiredFault, Phase, PointName, Subject
from asynctasq.testing.faults.points import SIMULATED_POINTS
from asynctasq.testing.tape import Tape

__all__ = ["FaultyDriver"]


RECORDED_DELAY_S = 1.0
"""A call that takes so long is recorded as a fault."""


class FaultHost(Protocol):
    """The simulation around a faulty driver: it can kill the worker, and keeps the ledger."""

    def crash_at_call(self, worker: str, point: str) -> None:
        """Kill the worker."""
        ...

    def record_fault(self, worker: str, text: str) -> None:
        """Record a fault that was not a crash."""
        ...

    def is_stopping(self, worker: str) -> bool:
        """Say whether the worker was asked to stop."""
        ...

    def record_effect(
        self, worker: str, settlements: Settlements, lost: AbstractSet[str], leases: Sequence[Lease], lease_s: float
    ) -> None:
        """Record what the store has just done."""
        ...

    def record_extended(self, worker: str, leases: Sequence[Lease], lost: AbstractSet[str], lease_s: float) -> None:
        """Record which leases the store has just renewed."""
        ...


class FaultyDriver(PassThrough, ReservesReleased, Driver, Notifies):
    """Wrap `inner`; its calls are delayed, fail and lose replies as `faults` says, by the seed given there.

    `faults.fired` counts what happened, `faults.stop()` ends it. On an ordinary event loop latency is real time.
    A plan with crashes needs `on_crash`, which must not return: for a worker process of its own,
    `lambda: os.kill(os.getpid(), signal.SIGKILL)`. What only a simulation can do to a worker is refused.

    `async with FaultyDriver(...) as driver:` opens and closes it. `close`, in the thread that made it, fails if a fault
    that must fire never did, unless another error is being raised: in a `finally` it hides none. A worker closes its
    driver, too. `must_fire=False`, or `faults.account_for = False`, turns this check off; a FaultPlan that was passed
    in is checked by whoever made it.
    """

    def __init__(
        self,
        inner: Driver,
        faults: FaultChoice | FaultPlan,
        *,
        name: str = "driver",
        on_crash: Callable[[], object] | None = None,
        host: FaultHost | None = None,
    ) -> None:
        self.inner = inner
        self.name = name
        self.faults = faults if isinstance(faults, FaultPlan) else FaultPlan(faults, Tape(_seed_of(faults)))
        self.capabilities: Capabilities = inner.capabilities
        self._host = host
        self._on_crash = on_crash
        self._accounts = host is None and not isinstance(faults, FaultPlan)
        self._made_in = threading.get_ident()
        if host is None:
            self._refuse_what_needs_a_simulation()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        raise ConfigError(
            f"a FaultyDriver wraps a driver, FaultyDriver(driver, Faults(...)); {url!r} {options} is none"
        )

    def __str__(self) -> str:
        return str(self.inner)

    @property
    def clock_offset(self) -> float:
        return self.inner.clock_offset

    @clock_offset.setter
    def clock_offset(self, seconds: float) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - inner's own
        self.inner.clock_offset = seconds

    @property
    def holder(self) -> str:
        return self.inner.holder

    @holder.setter
    def holder(self, name: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - inner's own
        self.inner.holder = name

    def _refuse_what_needs_a_simulation(self) -> None:
        for kind in ("duplicate", "lease_expiry", "stop", "clock_skew"):
            if self.faults.includes(kind):
                raise ConfigError(f"{kind}: only a simulation can do that to a worker; use FakeQueue or @simulate")
        for fault in self.faults.by_hand:
            if fault.at in SIMULATED_POINTS:
                raise ConfigError(f"{fault}: no driver call reveals that point; use FakeQueue or @simulate")
        if self.faults.includes("crash") and self._on_crash is None:
            raise ConfigError("a plan with crashes around a real driver needs on_crash=, which must end the process")

    # -- the contract ----------------------------------------------------------------------------

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        """Close the inner driver.

        Raises: AssertionError for a fault that must fire and never did, if nothing else went wrong.
        """
        await self.inner.close()
        # The lease thread of a worker closes its own connection, and an error there would reach nobody.
        if self._accounts and threading.get_ident() == self._made_in and sys.exception() is None:
            self.faults.check_fired()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def enqueue(self, messages: Sequence[Message]) -> list[str]:
        def names() -> Iterable[PointName]:
            return [("enqueue", [(_task_of(message.body), 1) for message in messages])]

        await self._at_point("enqueue", "before", names)
        new = await self.inner.enqueue(messages)
        await self._at_point("enqueue", "after", names)
        return new

    async def reserve(self, queues: Sequence[str], *, limit: int, lease_s: float, wait_s: float = 0) -> list[Lease]:
        await self._at_point("reserve", "before", lambda: [("reserve", [])])
        leases = await self.inner.reserve(queues, limit=limit, lease_s=lease_s, wait_s=wait_s)
        if self._host is not None:
            self._host.record_effect(self.name, (), frozenset(), leases, lease_s)
        try:
            await self._at_point("reserve", "after", lambda: _after((), leases, reserves=True))
        except asyncio.CancelledError:  # a cancelled reserve takes nothing
            await self.inner.settle([(lease, Release(counted=False)) for lease in leases])
            raise
        return leases

    async def reserve_released(self, leases: Sequence[Lease], *, lease_s: float) -> list[Lease]:
        inner = cast(
            "ReservesReleased", self._checked("ReservesReleased", kept=bool(self.capabilities.reserves_released))
        )
        await self._at_point("reserve", "before", lambda: [("reserve", [])])
        granted = await inner.reserve_released(leases, lease_s=lease_s)
        if self._host is not None:
            self._host.record_effect(self.name, (), frozenset(), granted, lease_s)
        await self._at_point("reserve", "after", lambda: _after((), granted, reserves=True))
        return granted

    async def extend(self, leases: Sequence[Lease], *, lease_s: float) -> AbstractSet[str]:
        def names() -> Iterable[PointName]:
            return [("extend", _subjects(leases))]

        await self._at_point("extend", "before", names)
        lost = await self.inner.extend(leases, lease_s=lease_s)
        if self._host is not None:
            self._host.record_extended(self.name, leases, lost, lease_s)
        await self._at_point("extend", "after", names)
        return lost

    async def settle(self, settlements: Settlements) -> AbstractSet[str]:
        await self._at_point("settle", "before", lambda: _before(settlements, reserves=False))
        lost = await self.inner.settle(settlements)
        if self._host is not None:
            self._host.record_effect(self.name, settlements, lost, (), 0.0)
        await self._at_point("settle", "after", lambda: _after(settlements, (), reserves=False))
        return lost

    async def turn(
        self, settlements: Settlements, queues: Sequence[str], *, limit: int, lease_s: float
    ) -> tuple[AbstractSet[str], list[Lease]]:
        reserves = limit > 0
        await self._at_point("turn", "before", lambda: [("turn", []), *_before(settlements, reserves=reserves)])
        lost, leases = await self.inner.turn(settlements, queues, limit=limit, lease_s=lease_s)
        if self._host is not None:
            self._host.record_effect(self.name, settlements, lost, leases, lease_s)
        await self._at_point("turn", "after", lambda: [("turn", []), *_after(settlements, leases, reserves=reserves)])
        return lost, leases

    async def wait_visible(self, queues: Sequence[str], *, wait_s: float) -> bool:
        await self._at_point("wait", "before", lambda: [("wait", [])])
        seen = await cast("Notifies", self.inner).wait_visible(queues, wait_s=wait_s)
        await self._at_point("wait", "after", lambda: [("wait", [])])
        return seen

    async def cancel_running(self, message_ids: Sequence[str]) -> Mapping[str, str]:
        await self._at_point("cancel", "before", lambda: [("cancel", [])])
        cancelled = await super().cancel_running(message_ids)
        await self._at_point("cancel", "after", lambda: [("cancel", [])])
        return cancelled

    async def depth(self, queue: str) -> Depth:
        return await self.inner.depth(queue)

    async def redrive(self, queue: str, *, limit: int) -> int:
        return await self.inner.redrive(queue, limit=limit)

    # -- faults ----------------------------------------------------------------------------------

    async def _at_point(self, call: str, phase: Phase, names: Callable[[], Iterable[PointName]]) -> None:
        """Suspend once, and apply the fault that is to happen here."""
        if self.faults.stopped:
            return

        def named() -> list[PointName]:
            found = [(f"{name}:{phase}" if ":" not in name else name, about) for name, about in names()]
            bare = [(name, about) for name, about in names()]
            stopping = self._host is not None and self._host.is_stopping(self.name)
            return [*bare, *found, *([("during_shutdown", [])] if stopping else [])]

        fault = self.faults.at_call(self.name, call, phase, named)
        if fault is None:
            await _suspend()
        else:
            await self._apply(fault, f"{call}:{phase}")

    async def _apply(self, fault: FiredFault, point: str) -> None:
        match fault.kind:
            case "crash":
                await self._crash(point)
            case "fail_before" | "fail_after":
                self._note(f"{fault.kind} at {point}")
                effect = "had no effect" if fault.kind == "fail_before" else "took effect"
                raise DriverUnavailable(f"simulated fault: the call failed at {point} and {effect}")
            case "lost_reply":
                self._note(f"{fault.kind} at {point}")
                await asyncio.sleep(self.faults.reply_timeout_s)
                raise DriverUnavailable(f"simulated fault: the call took effect and its reply was lost at {point}")
            case _:
                assert fault.seconds is not None, "a delay has a length"
                if fault.kind != "slow" or fault.seconds >= RECORDED_DELAY_S:
                    self._note(f"{point} takes {fault.seconds:g} s")
                await asyncio.sleep(fault.seconds)

    async def _crash(self, point: str) -> NoReturn:
        if self._host is not None:
            self._host.crash_at_call(self.name, point)
            while True:  # no task of a dead worker goes on
                await asyncio.get_running_loop().create_future()
        assert self._on_crash is not None, "checked when it was made"
        self._on_crash()
        raise AssertionError("on_crash returned; it must end the process")

    def _note(self, text: str) -> None:
        if self._host is not None:
            self._host.record_fault(self.name, text)


@coroutine
def _suspend() -> Generator[None, None, None]:
    """Let others run; cheaper than a sleep of no time."""
    yield


def _seed_of(faults: FaultChoice) -> int:
    chosen = faults if isinstance(faults, Sequence) else [faults]
    return next((fault.seed for fault in chosen if isinstance(fault, Faults)), 0)


def _before(settlements: Settlements, *, reserves: bool) -> list[PointName]:
    found: list[PointName] = [("reserve", [])] if reserves else []
    if settlements:
        found.append(("settle", _subjects([lease for lease, _ in settlements])))
        returned = [
            lease for lease, end in settlements if isinstance(end, Release) and not (end.counted or end.crashed)
        ]
        if returned:
            found.append(("in_hand_back", _subjects(returned)))
    return found


def _after(settlements: Settlements, leases: Sequence[Lease], *, reserves: bool) -> list[PointName]:
    found: list[PointName] = []
    if reserves:
        found.append(("reserve", _subjects(leases)))
    if leases:
        found.append(("after_reserve", _subjects(leases)))
    if settlements:
        settled = _subjects([lease for lease, _ in settlements])
        found += [("settle", settled), ("after_settle", settled)]
    return found


def _subjects(leases: Sequence[Lease]) -> list[Subject]:
    return [(_task_of(lease.body), lease.attempt) for lease in leases]


def _task_of(body: bytes) -> str:
    try:
        return decode_envelope(body).task
    except CodecError:
        return ""
