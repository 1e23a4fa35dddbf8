"""The driver against a plain model: drawn calls, one after another, whose answers and effects must be the model's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import InvalidQueueName
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Bury,
    Complete,
    DeadReason,
    ErrorRecord,
    Lease,
    Message,
    Release,
    Settlement,
    State,
)
from asynctasq.testing import Simulation
from property_tests.plain_model import Grant, PlainModel
from tests.mutants.oracle import begin, want

STEPS: Final = 60
QUEUES: Final = ("high", "low")
DELAYS_NS: Final = (0, 0, 1_000_000_000, 60_000_000_000, 12_345_678_100)
LEASES_S: Final = (1, 30, 600)
PAUSES_US: Final = (1_000_000, 1, 29_999_999, 60_000_000)
LISTED: Final = (State.DEAD, State.READY, State.SCHEDULED, State.RESERVED)
LIVING: Final = [State.SCHEDULED.value, State.READY.value]


@dataclass(frozen=True, slots=True)
class Both:
    """The driver and the model, and what is known of them."""

    sim: Simulation
    driver: MemoryDriver
    base_us: int
    model: PlainModel = field(default_factory=PlainModel)
    names: list[str] = field(default_factory=list[str])
    leases: list[tuple[Lease, Grant]] = field(default_factory=list[tuple[Lease, Grant]])
    queues: list[str] = field(default_factory=list[str])
    kinds: list[type[Settlement]] = field(default_factory=list[type[Settlement]])

    def at(self, due_us: int) -> float:
        """Return an instant of the model as the driver tells it."""
        return (self.base_us + due_us) / MICROSECONDS

    def look(self) -> None:
        """Let the model's time be the driver's."""
        self.model.move_to(round(self.sim.clock.now() * MICROSECONDS) - self.base_us)

    def pick(self, values: Sequence[Any]) -> Any:
        """Choose one; the first is the dull one."""
        return values[int(self.sim.rng.random() * len(values))]

    def message(self, after: str | None = None) -> tuple[Message, int]:
        """Return a message to store and its delay, now and then with an id that was there, or that of `after`."""
        again = self.names and self.pick((False, False, False, True))
        name = (after or self.pick(self.names)) if again else f"m{len(self.names)}"
        if not again:
            self.names.append(name)
        delay_ns = self.pick(DELAYS_NS)
        return Message(id=name, queue=self.pick(self.queues), body=name.encode(), delay_s=delay_ns / 1e9), delay_ns

    def store(self, message: Message, delay_ns: int) -> bool:
        """Store it in the model."""
        return self.model.enqueue(message.id, message.queue, delay_ns, {}, message.body)

    def some_leases(self) -> list[tuple[Lease, Grant]]:
        """Return up to three of the leases ever given, mostly late ones."""
        count = min(len(self.leases), self.pick((1, 2, 3)))
        late = self.leases[-4:]
        return [self.pick(self.pick((late, late, self.leases))) for _ in range(count)]


async def stored(sim: Simulation) -> None:
    """Draw calls; after each, all that an operator can see must be as in the model."""
    driver = MemoryDriver(clock=sim.clock)
    both = Both(sim, driver, round(sim.clock.now() * MICROSECONDS))
    # Each run has a liking of its own: what takes much of one kind would else be rare in every run.
    both.queues.extend(both.pick((QUEUES, ("low",))))
    both.kinds.extend(both.pick(((Complete, Release, Release, Bury), (Release, Bury), (Bury,), (Complete, Release))))
    calls = (None, *CALLS, *[both.pick(CALLS)] * 4)
    for step in range(STEPS):
        begin(sim, f"step {step}")
        call = both.pick(calls)
        if call is None:  # the dull choice, so that a run that fails can be made small
            continue
        both.look()
        await call(both)
        both.look()
        await _compare(both)
    await driver.close()


async def _enqueue(both: Both) -> None:
    pairs = [both.message() for _ in range(both.pick((1, 2, 3)))]
    if both.pick((False, False, False, True)):
        await _enqueue_badly(both, [message for message, _ in pairs])
    expected = [message.id for message, delay_ns in pairs if both.store(message, delay_ns)]
    new = await both.driver.enqueue([message for message, _ in pairs])
    want(new == expected, "enqueue", f"{new} are new, not {expected}")


async def _enqueue_badly(both: Both, messages: Sequence[Message]) -> None:
    """Let one message of a batch be refused: none is stored."""
    try:
        await both.driver.enqueue([*messages, Message(id="bad", queue="no name", body=b"")])
    except InvalidQueueName:
        await _compare(both)
        return
    want(False, "enqueue", "a queue that has no name was taken")


async def _pause(both: Both) -> None:
    await asyncio.sleep(both.pick(PAUSES_US) / MICROSECONDS)


async def _pause_until_due(both: Both) -> None:
    """Wait for the next due time, or for the microsecond before."""
    due_us = both.model.next_due(QUEUES)
    if due_us is not None and due_us > both.model.now:
        await asyncio.sleep((due_us - both.model.now - both.pick((0, 1))) / MICROSECONDS)


async def _reserve(both: Both) -> None:
    queues, limit, lease_s = both.pick((QUEUES, ("low", "high"), ("low",))), both.pick((1, 2, 5)), both.pick(LEASES_S)
    grants = both.model.reserve(queues, limit, lease_s * MICROSECONDS)
    _granted(both, await both.driver.reserve(queues, limit=limit, lease_s=lease_s), grants)


def _granted(both: Both, leases: Sequence[Lease], grants: Sequence[Grant]) -> None:
    told = [(one.message_id, one.queue, one.body, one.attempt, one.crashes) for one in leases]
    expected = [(one["name"], one["queue"], one["body"], one["attempt"], one["crashes"]) for one in grants]
    want(told == expected, "reserve", f"gave {told}, not {expected}")
    instants = [(one.enqueued_at, one.expires_at) for one in leases]
    wanted = [(both.at(one["enqueued"]), both.at(one["until"])) for one in grants]
    want(instants == wanted, "reserve", f"enqueued and expiring at {instants}, not {wanted}")
    used = {lease.token for lease, _ in both.leases}
    want(used.isdisjoint(one.token for one in leases), "reserve", "a token came again")
    both.leases.extend(zip(leases, grants, strict=True))


async def _extend(both: Both) -> None:
    some, lease_s = both.some_leases(), both.pick(LEASES_S)
    expected = {grant["name"] for _, grant in some if not both.model.extend(grant, lease_s * MICROSECONDS)}
    lost = await both.driver.extend([lease for lease, _ in some], lease_s=lease_s)
    want(lost == expected, "extend", f"lost {lost}, not {expected}")


async def _settle(both: Both) -> None:
    batch, expected = _drawn_batch(both)
    lost = await both.driver.settle(batch)
    want(lost == expected, "settle", f"lost {lost}, not {expected}")


async def _turn(both: Both) -> None:
    batch, expected = _drawn_batch(both)
    limit = both.pick((0, 1, 3))
    grants = both.model.reserve(QUEUES, limit, 30 * MICROSECONDS)
    lost, leases = await both.driver.turn(batch, QUEUES, limit=limit, lease_s=30)
    want(lost == expected, "settle", f"lost {lost}, not {expected}")
    _granted(both, leases, grants)


def _drawn_batch(both: Both) -> tuple[list[tuple[Lease, Settlement]], set[str]]:
    """Draw settlements and settle them in the model; return them and what is lost."""
    batch: list[tuple[Lease, Settlement]] = []
    lost: set[str] = set()
    for lease, grant in both.some_leases():
        follow_ups = [both.message(after) for after in both.pick(((), (), (None,), (grant["name"], None)))]
        settlement, end, more = _drawn_end(both, tuple(message for message, _ in follow_ups))
        batch.append((lease, settlement))
        if not both.model.settle(grant, end, **more):
            lost.add(grant["name"])
            continue
        for message, delay_ns in follow_ups:
            both.store(message, delay_ns)
    return batch, lost


def _drawn_end(both: Both, follow_ups: tuple[Message, ...]) -> tuple[Settlement, dict[str, Any], dict[str, Any]]:
    """Return a settlement, and what it is to the model."""
    kind, counted, crashed = both.pick(both.kinds), both.pick((True, False)), both.pick((0, 1))
    if kind is Complete:
        kept, ttl_s = both.pick((None, b"result")), both.pick((60, 1))
        settlement = Complete(result=kept, result_ttl_s=ttl_s, follow_ups=follow_ups)
        result = None if kept is None else (ttl_s * MICROSECONDS, kept)
        return settlement, {"event": "COMPLETE"}, {"wait_us": 0, "error": "", "result": result}
    text = both.pick(("", "why", "why not"))
    error = ErrorRecord(type="E", message=text) if text or kind is Bury else None
    given: dict[str, Any] = {"counted": counted, "crashed": bool(crashed), "error": error, "follow_ups": follow_ups}
    end = {"attempts": int(counted), "crashes": crashed, "error": error is not None}
    if kind is Bury:
        reason = both.pick(tuple(DeadReason))
        return Bury(reason=reason, **given), {"event": "BURY", "reason": reason, **end}, {"wait_us": 0, "error": text}
    delay_ns = both.pick(DELAYS_NS)
    wait_us = -(-delay_ns // 1000)
    return Release(delay_s=delay_ns / 1e9, **given), {"event": "RELEASE", **end}, {"wait_us": wait_us, "error": text}


async def _redrive(both: Both) -> None:
    queue, limit = both.pick(both.queues), both.pick((1, 2))
    expected = both.model.redrive(queue, limit)
    count = await both.driver.redrive(queue, limit=limit)
    want(count == expected, "redrive", f"{count} came back, not {expected}")


async def _cancel(both: Both) -> None:
    some = {both.pick(both.names) for _ in range(3) if both.names}
    names, dead = sorted(some), both.pick((False, True))
    expected = both.model.remove(names, [State.DEAD.value] if dead else LIVING)
    gone = await (both.driver.discard(names) if dead else both.driver.cancel(names))
    want(gone == set(expected), "cancel", f"{sorted(gone)} are gone, not {sorted(expected)}")


async def _purge(both: Both) -> None:
    queue = both.pick(both.queues)
    names = [name for name, one in both.model.messages.items() if one["queue"] == queue]
    expected = len(both.model.remove(names, LIVING))
    count = await both.driver.purge(queue)
    want(count == expected, "purge", f"{count} are gone, not {expected}")


async def _wait(both: Both) -> None:
    """Wait while another call is made: the wait ends when something is visible, to the microsecond, or in time."""
    queues, wait_s = both.pick((QUEUES, ("low", "high"), ("low",))), both.pick((300, 5))
    loop = asyncio.get_running_loop()
    began_us, until_us = both.model.now, both.model.now + wait_s * MICROSECONDS

    async def timed() -> tuple[bool, int]:
        seen = await both.driver.wait_visible(queues, wait_s=wait_s)
        return seen, round(both.sim.clock.now() * MICROSECONDS) - both.base_us

    due_us = both.model.next_due(queues)
    waiting = loop.create_task(timed())
    for _ in range(3):
        await asyncio.sleep(0)
    if due_us is None or due_us > began_us:
        await both.pick((_enqueue, _settle, _redrive, _extend))(both)
        due_us = both.model.next_due(queues)
    seen, ended_us = await waiting
    expected = due_us is not None and due_us <= until_us
    wanted_us = max(due_us, began_us) if due_us is not None and expected else until_us
    want(abs(ended_us - wanted_us) <= 1, "wait", f"ended {ended_us - began_us} us on, not {wanted_us - began_us}")
    want(seen == expected, "wait", f"says {seen}, not {expected}")


async def _compare(both: Both) -> None:
    """Compare what an operator sees: every message, the counts, the results."""
    for queue in QUEUES:
        depth = await both.driver.depth(queue)
        counts = (depth.ready, depth.scheduled, depth.reserved, depth.dead)
        want(counts == both.model.counts(queue), "depth", f"{queue}: {counts}, not {both.model.counts(queue)}")
        age_us = both.model.oldest_age_us(queue)
        oldest_s = None if age_us is None else age_us / MICROSECONDS
        want(depth.oldest_age_s == oldest_s, "depth", f"{queue}: {depth.oldest_age_s} s old, not {oldest_s}")
        await _compare_listing(both, queue, both.pick((None, None, *LISTED)), both.pick((100, 1, 2, 3)))
    there, wanted = await both.driver.queues(), sorted({one["queue"] for one in both.model.messages.values()})
    want(there == wanted, "queues", f"{there} hold messages, not {wanted}")
    for name in both.names:
        await _compare_one(both, name)


async def _compare_listing(both: Both, queue: str, state: State | None, limit: int) -> None:
    """Turn the pages of a queue: each is full but the last, and together they are all that is in that state."""
    listed: list[str] = []
    cursor: str | None = None
    while True:
        page = await both.driver.list_messages(queue, state=state, limit=limit, cursor=cursor)
        listed += [one.id for one in page.messages]
        full = len(page.messages) == limit if page.cursor else len(page.messages) <= limit
        want(full, "list", f"{queue}: a page has {len(page.messages)} of {limit} messages")
        if (cursor := page.cursor) is None:
            break
    arrived = [
        name
        for name, one in both.model.messages.items()
        if one["queue"] == queue and (state is None or both.model.state(one) == state.value)
    ]
    want(listed == arrived, "list", f"{queue}, {state}, by {limit}: {listed}, not {arrived}")


async def _compare_one(both: Both, name: str) -> None:
    found, one = await both.driver.find(name), both.model.messages.get(name)
    told: Any = found and (found.queue, found.state.value, found.attempts, found.crashes, found.reason)
    expected: Any = one and (one["queue"], both.model.state(one), one["attempts"], one["crashes"], one["reason"])
    want(told == expected, "find", f"{name} is {told}, not {expected}")
    if found is not None and one is not None:
        instants, wanted = (found.enqueued_at, found.visible_at), (both.at(one["enqueued"]), both.at(one["due"]))
        want(instants == wanted, "find", f"{name} enqueued and visible at {instants}, not {wanted}")
        text = None if found.error is None else found.error.message
        want(text == one["error"], "find", f"{name} failed with {text!r}, not {one['error']!r}")
    result, kept = await both.driver.fetch_result(name), both.model.result(name)
    want(result == kept, "results", f"{name} returned {result!r}, not {kept!r}")


CALLS: Final[Sequence[Callable[[Both], Awaitable[None]]]] = (
    *(_enqueue, _reserve, _reserve, _settle, _settle, _turn, _extend, _pause, _pause_until_due),
    *(_redrive, _cancel, _purge, _wait),
)
