"""What a conformance test works with: a driver in an empty store, its clock, and short calls and checks."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from asynctasq.drivers.base import Driver, Inspectable, KeepsResults, Notifies, Transactional
from asynctasq.drivers.capabilities import Capabilities
from asynctasq.kernel.messages import Depth, Lease, Message, Settlement, StoredMessage
from asynctasq.kernel.priority import NORMAL, Priority
from asynctasq.testing.conformance.harness import DriverHarness, NotPossible
from asynctasq.testing.patience import patient_s

__all__ = ["LONG_S", "Q", "StoreUnderTest", "UnderClaimed", "ids", "keyed_batch", "message"]

Q = "work"
"""The queue most tests use."""
LONG_S = 600.0
"""A lease longer than any test."""
PATIENCE_S = patient_s(10)
"""How long an eventually consistent backend may take to show what is stored."""

T = TypeVar("T")


class UnderClaimed(Exception):
    """Raised by a test that finds something working that the driver does not claim."""


def message(
    message_id: str,
    *,
    queue: str = Q,
    body: bytes | None = None,
    delay_s: float = 0.0,
    priority: Priority = NORMAL,
) -> Message:
    """Return a message whose body is its id, unless given."""
    body = message_id.encode() if body is None else body
    return Message(id=message_id, queue=queue, body=body, delay_s=delay_s, priority=priority)


def keyed_batch(names: str, *, queue: str = Q) -> list[Message]:
    """Return messages such as "a1 a2 b1", whose first letters are their fair keys."""
    return [replace(message(name, queue=queue), fair_key=name[0]) for name in names.split()]


def ids(items: Iterable[Lease | Message | StoredMessage]) -> list[str]:
    """Return the message ids of leases, messages or stored messages, in their order."""
    return [item.message_id if isinstance(item, Lease) else item.id for item in items]


@dataclass(slots=True)
class StoreUnderTest:
    """One test's store. `driver` is the first driver on it; all drivers made here are closed at the end."""

    harness: DriverHarness
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    """Runs a coroutine in the test's loop, for the few tests that are not coroutines."""
    notes: dict[str, str] = field(default_factory=dict[str, str])
    """Facts for the report."""
    drivers: list[Driver] = field(default_factory=list[Driver])

    @property
    def driver(self) -> Driver:
        """The first driver on the store."""
        return self.drivers[0] if self.drivers else self.create()

    @property
    def capabilities(self) -> Capabilities:
        """What the driver claims."""
        return self.driver.capabilities

    @property
    def virtual(self) -> bool:
        """Whether the driver's clock can be moved."""
        return bool(self.capabilities.clock_offset)

    @property
    def exact(self) -> bool:
        """Whether what was stored shows at once, in one call."""
        return self.capabilities.exact_depth.level == "yes"

    @property
    def brief_s(self) -> float:
        """A lease that a test lets expire, with `expire`."""
        return 60.0 if self.virtual else patient_s(2.0)

    def create(self) -> Driver:
        """Return a further driver on the store."""
        driver = self.harness.create()
        if all(driver is not known for known in self.drivers):
            self.drivers.append(driver)
        return driver

    def other(self) -> Driver:
        """Return a second driver on the store, as another process would have.

        Raises: NotPossible if only one instance sees a message.
        """
        first = self.driver
        second = self.create()
        if second is first:
            raise NotPossible("there is only one driver instance that sees these messages")
        return second

    def sized(self, count: int) -> int:
        """Return `count` scaled to the backend's pace, at least 2."""
        return max(2, round(count * getattr(self.harness, "pace", 1.0)))

    # -- time --------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Move the driver's clock, or let real time pass where it can't be moved.

        Raises: NotPossible for more than some seconds of real time.
        """
        if self.virtual:
            self.harness.advance(seconds)
        elif seconds <= patient_s(4):
            await asyncio.sleep(seconds)
        else:
            raise NotPossible("the driver's clock can't be moved, and waiting would take too long")

    async def expire(self) -> None:
        """Let leases of `brief_s` expire."""
        await self.advance(self.brief_s + (0 if self.virtual else 0.2))

    # -- storing and taking ------------------------------------------------------------------------

    async def put(self, *names: str, queue: str = Q, delay_s: float = 0.0, priority: Priority = NORMAL) -> None:
        """Store messages by their ids; all of them must be new."""
        made = [message(name, queue=queue, delay_s=delay_s, priority=priority) for name in names]
        assert await self.driver.enqueue(made) == [*names]

    async def take(
        self, limit: int = 1, *queues: str, lease_s: float = LONG_S, driver: Driver | None = None
    ) -> list[Lease]:
        """Reserve up to `limit`: in one call, or in as many as an eventually consistent backend needs."""
        wanted = queues or (Q,)
        driver = driver or self.driver
        if self.exact:
            return await driver.reserve(wanted, limit=limit, lease_s=lease_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        leases: list[Lease] = []
        while len(leases) < limit and loop.time() < deadline:
            leases += await driver.reserve(wanted, limit=limit - len(leases), lease_s=lease_s, wait_s=1)
        return leases

    async def take_one(self, *queues: str, lease_s: float = LONG_S, driver: Driver | None = None) -> Lease:
        """Reserve exactly one, which must be there."""
        leases = await self.take(1, *queues, lease_s=lease_s, driver=driver)
        assert len(leases) == 1, f"one message was visible in {queues or (Q,)}, reserve returned {leases}"
        return leases[0]

    async def lease(self, name: str, *, lease_s: float = LONG_S) -> Lease:
        """Store one message and reserve it."""
        await self.put(name)
        return await self.take_one(lease_s=lease_s)

    async def assert_nothing_visible(self, *queues: str) -> None:
        """Check that there is nothing to reserve."""
        leases = await self.driver.reserve(queues or (Q,), limit=100, lease_s=LONG_S)
        assert leases == [], f"nothing may be visible, reserve returned {ids(leases)}"

    async def settle(self, *settlements: tuple[Lease, Settlement]) -> None:
        """Settle; all leases must still be ours."""
        lost = await self.driver.settle(settlements)
        assert lost == set(), f"these leases were ours, settle called them lost: {sorted(lost)}"

    async def assert_depth(
        self, *, ready: int = 0, scheduled: int = 0, reserved: int = 0, dead: int = 0, queue: str = Q
    ) -> None:
        """Check the counts of a queue, at once or, for approximate counts, within some seconds."""
        wanted = (ready, scheduled, reserved, dead)
        counts = _counts(await self.driver.depth(queue))
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while counts != wanted and not self.exact and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.2)
            counts = _counts(await self.driver.depth(queue))
        assert counts == wanted, f"(ready, scheduled, reserved, dead) of {queue!r} are {counts}, not {wanted}"

    # -- optional protocols ------------------------------------------------------------------------

    def inspectable(self) -> Inspectable:
        """Return the driver as what it claims to be."""
        driver = self.driver
        assert isinstance(driver, Inspectable), _lacks(driver, Inspectable.__name__)
        return driver

    def notifies(self) -> Notifies:
        """Return the driver as what it claims to be."""
        driver = self.driver
        assert isinstance(driver, Notifies), _lacks(driver, Notifies.__name__)
        return driver

    def keeps_results(self) -> KeepsResults:
        """Return the driver as what it claims to be."""
        driver = self.driver
        assert isinstance(driver, KeepsResults), _lacks(driver, KeepsResults.__name__)
        return driver

    def transactional(self) -> Transactional:
        """Return the driver as what it claims to be."""
        driver = self.driver
        assert isinstance(driver, Transactional), _lacks(driver, Transactional.__name__)
        return driver


def _lacks(driver: Driver, protocol: str) -> str:
    return f"{type(driver).__name__} claims {protocol} and lacks a method of it"


def _counts(depth: Depth) -> tuple[int, int, int, int]:
    return depth.ready, depth.scheduled, depth.reserved, depth.dead


async def together(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Run the calls at once; the first exception is raised after all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    values: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        values.append(result)
    return values


def repeated(items: Sequence[str]) -> Collection[str]:
    """Return those that occur more than once."""
    return sorted({item for item in items if items.count(item) > 1})
