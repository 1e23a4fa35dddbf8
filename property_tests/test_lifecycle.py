"""The lifecycle: memory driver and kernel rules, used as the worker uses them, against a model that knows neither."""

import ast
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, invariant, multiple, precondition

from asynctasq.core import attempt as worker_side  # where the worker finds the rules, and where defects are planted
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.decide import (
    Crashed,
    Failed,
    Interrupted,
    Outcome,
    Rejected,
    RetryRequested,
    Snoozed,
    Succeeded,
    Unrunnable,
)
from asynctasq.kernel.lifecycle import Event, next_state
from asynctasq.kernel.messages import MICROSECONDS, Bury, DeadReason, ErrorRecord, Lease, Message, Settlement, State
from asynctasq.kernel.retry import Delays, Exponential, Fixed, RetryPolicy
from asynctasq.testing.loop import SimulationLoop
from property_tests import plain_model
from property_tests.plain_model import PlainModel, ceil_us, is_asked, sequel, verdict
from property_tests.reached import MeasuredMachine, explore, goes_red, step
from tests.mutants.planting import planted
from tests.mutants.table import MUTANTS

QUEUES = ("high", "low")
OFFSET_S = 3600
"""The driver's clock is so far ahead of this process's."""
SECOND_NS = 10**9

waits_ns = st.sampled_from([0, 0, SECOND_NS, 5 * SECOND_NS, 60 * SECOND_NS, 12_345_678_100, 100, 86_400 * SECOND_NS])
leases_s = st.sampled_from([1, 30, 600])
retry_waits = st.one_of(
    st.tuples(st.just("fixed"), waits_ns),
    st.tuples(st.just("list"), st.lists(waits_ns, min_size=1, max_size=1)),
    st.tuples(st.just("list"), st.lists(waits_ns, min_size=2, max_size=2)),
    st.tuples(st.sampled_from(["growing", "jittered"]), st.just(4 * SECOND_NS), st.just(6 * SECOND_NS)),
)
policies = st.fixed_dictionaries(
    {"max_attempts": st.sampled_from([0, 1, 2, 3, 3, 4, 4]), "max_crashes": st.integers(1, 3), "waits": retry_waits}
)
outcomes = st.sampled_from(
    [
        *("raised", "returned", "refused", "asked again", "rejected", "snoozed", "interrupted", "child died"),
        "unrunnable",
    ]
)
some_alive = precondition(lambda self: bool(self.model.messages))
some_to_run = precondition(lambda self: any(one["reason"] is None for one in self.model.messages.values()))
some_dead = precondition(lambda self: any(one["reason"] is not None for one in self.model.messages.values()))
Held = tuple[Lease, dict[str, Any], dict[str, Any]]
"""A lease, the same as the model has it, and what the message says of its retries."""


def _policy(waits: tuple[Any, ...]) -> RetryPolicy:
    match waits:
        case ("fixed", wait_ns):
            return Fixed(delay_s=wait_ns / SECOND_NS)
        case ("list", each_ns):
            return Delays(delays_s=tuple(wait_ns / SECOND_NS for wait_ns in each_ns))
        case (kind, base_ns, cap_ns):
            return Exponential(base_s=base_ns / SECOND_NS, cap_s=cap_ns / SECOND_NS, jitter=kind == "jittered")
    raise AssertionError(waits)


def _outcome(name: str, wait_ns: int | None, error: ErrorRecord, result: tuple[int, bytes] | None) -> Outcome:
    match name:
        case "returned":
            ttl_us, data = result or (0, None)
            return Succeeded(result=data, result_ttl_s=ttl_us / MICROSECONDS)
        case "raised" | "refused":
            return Failed(error=error)
        case "asked again":
            return RetryRequested(error=error, after_s=None if wait_ns is None else wait_ns / SECOND_NS)
        case "snoozed":
            assert wait_ns is not None
            return Snoozed(delay_s=wait_ns / SECOND_NS)
        case "rejected":
            return Rejected(error=error)
        case "interrupted":
            return Interrupted()
        case "child died":
            return Crashed(error=error)
        case _:
            return Unrunnable(reason=DeadReason.UNKNOWN_TASK, error=error)


class Lifecycle(MeasuredMachine):
    """One driver, some messages, and workers that are only hands: they start, end and lose attempts as chance says."""

    branches = frozenset(
        {
            *(
                "runs once: max_attempts 0",
                "runs once: max_attempts 1",
                "retried",
                "retried at once",
                "no attempt left",
            ),
            *("last wait of a list repeated", "wait at its cap", "jittered", "refused to retry", "asked again in time"),
            *("asked again after the last attempt", "rejected", "snoozed", "handed back", "unrunnable"),
            *(
                "child died, again",
                "child died too often",
                "given up after lost leases",
                "result kept",
                "result expired",
            ),
            *("stale token refused", "settled twice", "settled late", "lease taken over", "settled a batch"),
            *(
                "started in time",
                "started at the very end of the lease",
                "extended",
                "extended late",
                "extended in vain",
            ),
            *("due at this very microsecond", "one microsecond early", "waited and got it", "waited in vain"),
            *("second queue", "limit reached", "id still taken", "id used again", "turned over at once", "followed up"),
            *("redriven", "redriven in part", "ran again after its redrive", "cancelled while scheduled"),
            *(
                "cancelled while ready",
                "cancelled after a lost lease",
                "not cancelled: reserved",
                "dead letter discarded",
            ),
            *("not discarded: alive", "purged"),
        }
    )
    ids: ClassVar[Bundle[str]] = Bundle("ids")
    leases: ClassVar[Bundle[Held]] = Bundle("leases")
    """Not settled yet, as far as their holders know."""
    spent: ClassVar[Bundle[Held]] = Bundle("spent")

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulationLoop()
        self.driver = MemoryDriver(clock=self.loop.clock, clock_offset=OFFSET_S)
        self.model = PlainModel()
        self.rng = Random(1)
        self.made = 0
        self.ended = 0
        self.redriven: set[str] = set()

    def teardown(self) -> None:
        self.loop.close()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    def instant(self, us: int) -> float:
        """Return what the driver calls so many microseconds since the start."""
        epoch_us = round((self.loop.clock.epoch.timestamp() + OFFSET_S) * MICROSECONDS)
        return (epoch_us + us) / MICROSECONDS

    # -- storing ---------------------------------------------------------------------------------

    @initialize(target=ids, each=st.lists(st.tuples(st.sampled_from(QUEUES), policies), min_size=1, max_size=3))
    def begin(self, each: list[tuple[str, dict[str, Any]]]) -> Any:
        return multiple(*(self.enqueue_one(queue, 0, policy) for queue, policy in each))

    @step(target=ids, queue=st.sampled_from(QUEUES), wait_ns=waits_ns, policy=policies)
    def enqueue(self, queue: str, wait_ns: int, policy: dict[str, Any]) -> str:
        return self.enqueue_one(queue, wait_ns, policy)

    def enqueue_one(self, queue: str, wait_ns: int, policy: dict[str, Any]) -> str:
        self.made += 1
        name = f"m{self.made}"
        assert self.store(name, queue, wait_ns, policy) == [name]
        return name

    @step(name=ids, queue=st.sampled_from(QUEUES), wait_ns=waits_ns, policy=policies)
    def enqueue_again(self, name: str, queue: str, wait_ns: int, policy: dict[str, Any]) -> None:
        new = self.store(name, queue, wait_ns, policy)
        self.reach("id used again" if new else "id still taken")

    def store(self, name: str, queue: str, wait_ns: int, policy: dict[str, Any]) -> list[str]:
        body = f"{name} in {queue}".encode()
        new = self.model.enqueue(name, queue, wait_ns, policy, body)
        stored = self.run(self.driver.enqueue([Message(id=name, queue=queue, body=body, delay_s=wait_ns / SECOND_NS)]))
        assert stored == ([name] if new else [])
        return stored

    # -- reserving -------------------------------------------------------------------------------

    @step(target=leases, queues=st.permutations(QUEUES), limit=st.integers(1, 3), lease_s=leases_s)
    @some_to_run
    def reserve(self, queues: list[str], limit: int, lease_s: int) -> Any:
        got = self.run(self.driver.reserve(queues, limit=limit, lease_s=lease_s))
        return multiple(*self.granted(queues, limit, lease_s, got))

    @step(target=leases, queue=st.sampled_from(QUEUES), lease_s=leases_s, wait_s=st.sampled_from([1, 60, 3600]))
    @some_to_run
    def wait_for_work(self, queue: str, lease_s: int, wait_s: int) -> Any:
        due, before = self.model.next_due([queue]), self.model.now
        latest = before + wait_s * MICROSECONDS
        found = due is not None and due <= latest
        got = self.run(self.driver.reserve([queue], limit=1, lease_s=lease_s, wait_s=wait_s))
        self.model.move_to(max(before, due) if found else latest)
        assert self.loop.clock.elapsed_us == self.model.now
        self.reach("waited and got it", found and due > before)
        self.reach("waited in vain", not found)
        return multiple(*self.granted([queue], 1, lease_s, got))

    def granted(self, queues: list[str], limit: int, lease_s: int, got: list[Lease]) -> list[Held]:
        """Compare what was leased with the model's; return both, and what each message says of its retries."""
        for name in [name for queue in queues for name in self.model.waiting(queue)]:
            message = self.model.messages[name]
            self.reach("due at this very microsecond", 0 < message["due"] == self.model.now)
            self.reach("one microsecond early", message["due"] == self.model.now + 1)
            self.reach("lease taken over", bool(message["holder"]) and message["due"] <= self.model.now)
        grants = self.model.reserve(queues, limit, lease_s * MICROSECONDS)
        wanted = [
            (
                *(one["name"], one["queue"], one["body"], one["attempt"], one["crashes"]),
                *(self.instant(one["enqueued"]), self.instant(one["until"])),
            )
            for one in grants
        ]
        seen = [
            (one.message_id, one.queue, one.body, one.attempt, one.crashes, one.enqueued_at, one.expires_at)
            for one in got
        ]
        assert seen == wanted
        assert len({lease.token for lease in got}) == len(got)
        self.reach("limit reached", len(got) == limit)
        self.reach("second queue", len(queues) > 1 and any(lease.queue == queues[1] for lease in got))
        self.reach("ran again after its redrive", any(grant["name"] in self.redriven for grant in grants))
        policies = [self.model.messages[grant["name"]]["policy"] for grant in grants]
        return list(zip(got, grants, policies, strict=True))

    # -- attempts --------------------------------------------------------------------------------

    @step(held=leases, at_the_end=st.booleans())
    def start(self, held: Held, at_the_end: bool) -> None:
        """Begin only now with what was leased some time ago."""
        _, grant, policy = held
        if at_the_end:
            self.move_to(max(self.model.now, grant["until"]))
        found = self.screen(grant, policy, self.model.now)
        assert found == verdict(grant, policy, self.model.now)
        self.reach("started in time", found == "run")
        self.reach("started at the very end of the lease", self.model.now == grant["until"])

    def screen(self, grant: dict[str, Any], policy: dict[str, Any], now_us: int) -> str:
        screened = worker_side.screen(
            crashes=grant["crashes"],
            max_crashes=policy["max_crashes"],
            deadline=grant["until"] / MICROSECONDS,
            now=now_us / MICROSECONDS,
        )
        return str(screened.value)

    @step(
        target=spent,
        held=consumes(leases),
        outcome=outcomes,
        wait_ns=waits_ns,
        after=st.booleans(),
        ttl_s=st.sampled_from([None, 1, 3600]),
    )
    def end(self, held: Held, outcome: str, wait_ns: int, after: bool, ttl_s: int | None) -> Held:
        lease, settlement, apply = self.ending(held, outcome, wait_ns if after or outcome == "snoozed" else None, ttl_s)
        lost = self.run(self.driver.settle([(lease, settlement)]))
        assert lost == (set() if apply() else {lease.message_id})
        return held

    @step(held=spent, outcome=outcomes, also_extend=st.booleans())
    def end_again(self, held: Held, outcome: str, also_extend: bool) -> None:
        lease, settlement, apply = self.ending(held, outcome, 0, None)
        assert self.run(self.driver.settle([(lease, settlement)])) == {lease.message_id}
        assert not apply()
        if also_extend:
            self.extend_one(held, 30)

    @step(
        target=ids,
        held=consumes(leases),
        queue=st.sampled_from(QUEUES),
        policy=policies,
        again=st.booleans(),
        ttl_s=st.sampled_from([1, 3600]),
    )
    def end_and_follow_up(self, held: Held, queue: str, policy: dict[str, Any], again: bool, ttl_s: int) -> Any:
        lease, settlement, apply = self.ending(held, "returned", None, ttl_s)
        wait_ns = 5 * SECOND_NS
        self.made += 1
        name = lease.message_id if again else f"m{self.made}"
        body = f"{name} in {queue}".encode()
        follow_up = Message(id=name, queue=queue, body=body, delay_s=wait_ns / SECOND_NS)
        lost = self.run(self.driver.settle([(lease, replace(settlement, follow_ups=(follow_up,)))]))
        counted = apply()
        assert lost == (set() if counted else {lease.message_id})
        if counted:
            self.reach("followed up")
            self.model.enqueue(name, queue, wait_ns, policy, body)
        return name if counted and not again else multiple()

    @step(
        order=st.permutations(QUEUES),
        each=st.lists(outcomes, min_size=3, max_size=3) | outcomes.map(lambda one: [one] * 3),
    )
    @some_to_run
    def run_a_batch(self, order: list[str], each: list[str]) -> None:
        """Reserve several and end them in one call."""
        got = self.run(self.driver.reserve(order, limit=3, lease_s=30))
        helds = self.granted(order, 3, 30, got)
        endings = [self.ending(held, outcome, 0, None) for held, outcome in zip(helds, each, strict=False)]
        lost = self.run(self.driver.settle([(lease, settlement) for lease, settlement, _ in endings]))
        assert lost == set()
        for _, _, apply in endings:
            assert apply()
        self.reach("settled a batch", len(endings) > 1)

    @step(target=leases, held=consumes(leases), times=st.integers(1, 3))
    def raise_and_come_back(self, held: Held, times: int) -> Any:
        """Fail, and run again as soon as may be: what leads to the last attempts."""
        queue, latest = held[0].queue, [held]
        others: list[Held] = []
        for _ in range(times):
            lease, settlement, apply = self.ending(latest[0], "raised", None, None)
            lost = self.run(self.driver.settle([(lease, settlement)]))
            assert lost == (set() if apply() else {lease.message_id})
            self.move_to(max(self.model.now, self.model.next_due([queue]) or 0))
            got = self.granted([queue], 3, 30, self.run(self.driver.reserve([queue], limit=3, lease_s=30)))
            latest = [one for one in got if one[0].message_id == lease.message_id]
            others += [one for one in got if one[0].message_id != lease.message_id]
            if not latest:
                break
        return multiple(*others, *latest)

    @step(
        target=leases, held=consumes(leases), outcome=outcomes, queues=st.permutations(QUEUES), limit=st.integers(0, 2)
    )
    def turn(self, held: Held, outcome: str, queues: list[str], limit: int) -> Any:
        lease, settlement, apply = self.ending(held, outcome, 0, None)
        lost, got = self.run(self.driver.turn([(lease, settlement)], queues, limit=limit, lease_s=30))
        assert lost == (set() if apply() else {lease.message_id})
        self.reach("turned over at once", any(one.message_id == lease.message_id for one in got))
        return multiple(*self.granted(queues, limit, 30, got)) if limit else multiple()

    def ending(self, held: Held, outcome: str, wait_ns: int | None, ttl_s: int | None) -> tuple[Lease, Settlement, Any]:
        """Decide as the worker does; return what to settle and what makes the model do the same."""
        lease, grant, policy = held
        wait_ns = wait_ns if outcome in ("asked again", "snoozed") else None  # nobody else asks for a delay
        self.ended += 1
        error = ErrorRecord(type="E", message=f"number {self.ended}")
        result = None if ttl_s is None or outcome != "returned" else (ttl_s * MICROSECONDS, error.message.encode())
        settlement: Settlement
        if self.screen(grant, policy, grant["from"]) in ("give up", "bury"):
            outcome, settlement = "given up", Bury(reason=DeadReason.CRASHED, error=error)
        else:
            settlement = self.decide(grant, policy, outcome, _outcome(outcome, wait_ns, error, result))
        expected = sequel(outcome, wait_ns, grant, policy)
        wait_us = expected.get("most", 0)
        if wait_us and not expected["least"]:
            wait_us = ceil_us(round(getattr(settlement, "delay_s", 0) * SECOND_NS))
            assert 0 <= wait_us <= expected["most"]

        def apply() -> bool:
            self.note_settling(grant)
            counted = self.model.settle(grant, expected, wait_us=wait_us, error=error.message, result=result)
            if counted:
                self.note_end(grant, policy, outcome, wait_ns, expected, result is not None)
            return counted

        return lease, settlement, apply

    def decide(self, grant: dict[str, Any], policy: dict[str, Any], name: str, outcome: Outcome) -> Settlement:
        attempt, crashes = grant["attempt"], grant["crashes"]
        asked = worker_side.asks_should_retry(outcome, attempt=attempt, max_attempts=policy["max_attempts"])
        assert asked == is_asked(name, grant, policy)
        if asked and isinstance(outcome, Failed):
            outcome = replace(outcome, wants_retry=name == "raised")
        rules = worker_side.Rules(
            max_attempts=policy["max_attempts"], retry=_policy(policy["waits"]), max_crashes=policy["max_crashes"]
        )
        return worker_side.decide(outcome, attempt=attempt, crashes=crashes, rules=rules, rng=self.rng)

    def note_settling(self, grant: dict[str, Any]) -> None:
        message = self.model.messages.get(grant["name"])
        held = self.model.holds(grant)
        self.reach("stale token refused", message is not None and bool(message["holder"]) and not held)
        self.reach("settled twice", message is not None and not message["holder"])
        self.reach("settled late", held and self.model.now >= grant["until"])

    def note_end(
        self,
        grant: dict[str, Any],
        policy: dict[str, Any],
        outcome: str,
        wait_ns: int | None,
        expected: dict[str, Any],
        kept: bool,
    ) -> None:
        retried = outcome in ("raised", "asked again") and expected["event"] != "BURY"
        failed = outcome == "raised" and expected["event"] == "BURY"
        kind, *given = policy["waits"]
        by_policy = retried and wait_ns is None
        reached = {
            "runs once: max_attempts 0": failed and policy["max_attempts"] == 0,
            "runs once: max_attempts 1": failed and policy["max_attempts"] == 1,
            "no attempt left": failed and policy["max_attempts"] > 1,
            "retried": retried and expected["most"] > 0,
            "retried at once": retried and expected["most"] == 0,
            "last wait of a list repeated": by_policy and kind == "list" and grant["attempt"] > len(given[0]),
            "wait at its cap": by_policy and kind in ("growing", "jittered") and grant["attempt"] > 1,
            "jittered": by_policy and kind == "jittered",
            "refused to retry": outcome == "refused" and grant["attempt"] < policy["max_attempts"],
            "asked again in time": outcome == "asked again" and retried and wait_ns is not None,
            "asked again after the last attempt": outcome == "asked again" and not retried,
            "rejected": outcome == "rejected",
            "snoozed": outcome == "snoozed",
            "handed back": outcome == "interrupted",
            "unrunnable": outcome == "unrunnable",
            "child died, again": outcome == "child died" and expected["event"] != "BURY",
            "child died too often": outcome == "child died" and expected["event"] == "BURY",
            "given up after lost leases": outcome == "given up",
            "result kept": kept,
        }
        for branch, condition in reached.items():
            self.reach(branch, condition)

    @step(held=leases, lease_s=leases_s)
    def extend(self, held: Held, lease_s: int) -> None:
        self.extend_one(held, lease_s)

    def extend_one(self, held: Held, lease_s: int) -> None:
        lease, grant, _ = held
        late = self.model.now >= grant["until"]
        lost = self.run(self.driver.extend([lease], lease_s=lease_s))
        extended = self.model.extend(grant, lease_s * MICROSECONDS)
        assert lost == (set() if extended else {lease.message_id})
        self.reach("extended" if extended and not late else "extended late" if extended else "extended in vain")

    # -- time ------------------------------------------------------------------------------------

    @step(wait_us=st.sampled_from([1, MICROSECONDS, 30 * MICROSECONDS, 3600 * MICROSECONDS, 86_400 * MICROSECONDS]))
    @some_alive
    def advance(self, wait_us: int) -> None:
        self.move_to(self.model.now + wait_us)

    @step(name=ids, beside_us=st.sampled_from([-1, 0, 0, 1]))
    def advance_to_the_edge(self, name: str, beside_us: int) -> None:
        """Go to where a message comes due or its lease ends, or to the microsecond before or after."""
        message = self.model.messages.get(name)
        if message is not None and message["due"] + beside_us > self.model.now:
            self.move_to(message["due"] + beside_us)

    def move_to(self, now_us: int) -> None:
        self.model.move_to(now_us)
        self.loop.clock.move_to_us(now_us)

    # -- the operator ----------------------------------------------------------------------------

    @step(queue=st.sampled_from(QUEUES), limit=st.sampled_from([1, 1, 2, 9]))
    @some_dead
    def redrive(self, queue: str, limit: int) -> None:
        dead = {name for name, one in self.model.messages.items() if one["queue"] == queue and one["reason"]}
        count = self.run(self.driver.redrive(queue, limit=limit))
        assert count == self.model.redrive(queue, limit) == min(limit, len(dead))
        self.redriven |= {name for name in dead if self.model.messages[name]["reason"] is None}
        self.reach("redriven", count > 0)
        self.reach("redriven in part", 0 < count < len(dead))

    @step(name=ids, late=st.booleans())
    def cancel(self, name: str, late: bool) -> None:
        message = self.model.messages.get(name)
        if late and message is not None and message["holder"]:
            self.move_to(max(self.model.now, message["due"]))
        state = None if message is None else self.model.state(message)
        lost = message is not None and bool(message["holder"])
        removed = self.run(self.driver.cancel([name, "nobody"]))
        assert removed == set(self.model.remove([name], ["scheduled", "ready"]))
        self.reach("cancelled while scheduled", state == "scheduled")
        self.reach("cancelled while ready", state == "ready" and not lost)
        self.reach("cancelled after a lost lease", state == "ready" and lost)
        self.reach("not cancelled: reserved", state == "reserved")

    @step(name=ids)
    @some_dead
    def discard(self, name: str) -> None:
        alive = name in self.model.messages
        removed = self.run(self.driver.discard([name]))
        assert removed == set(self.model.remove([name], ["dead"]))
        self.reach("dead letter discarded", bool(removed))
        self.reach("not discarded: alive", alive and not removed)

    @step(queue=st.sampled_from(QUEUES), really=st.integers(0, 4))
    @some_to_run
    def purge(self, queue: str, really: int) -> None:
        if really:
            return
        names = [name for name, one in self.model.messages.items() if one["queue"] == queue]
        count = self.run(self.driver.purge(queue))
        assert count == len(self.model.remove(names, ["scheduled", "ready"]))
        self.reach("purged", count > 0)

    # -- what always holds -----------------------------------------------------------------------

    @invariant()
    def everything_is_where_the_model_has_it(self) -> None:
        self.run(self.look())

    async def look(self) -> None:
        model = self.model
        for queue in QUEUES:
            wanted = [
                (
                    *(
                        name,
                        one["body"],
                        model.state(one),
                        one["attempts"],
                        one["crashes"],
                        one["reason"],
                        one["error"],
                    ),
                    *(self.instant(one["enqueued"]), self.instant(one["due"])),
                )
                for name, one in model.messages.items()
                if one["queue"] == queue
            ]
            seen = [
                (
                    *(one.id, one.body, one.state.value, one.attempts, one.crashes),
                    *(one.reason and one.reason.value, one.error and one.error.message),
                    *(one.enqueued_at, one.visible_at),
                )
                for one in (await self.driver.list_messages(queue)).messages
            ]
            assert seen == wanted
            depth = await self.driver.depth(queue)
            age_us = model.oldest_age_us(queue)
            assert (depth.ready, depth.scheduled, depth.reserved, depth.dead) == model.counts(queue)
            assert depth.oldest_age_s == (None if age_us is None else age_us / MICROSECONDS)
        for name in model.results:
            assert await self.driver.fetch_result(name) == model.result(name)
            self.reach("result expired", model.result(name) is None)

    @invariant()
    def every_step_is_one_of_the_table(self) -> None:
        for before, event, after in self.model.moves:
            assert next_state(State(before), Event[event]) is State(after)
        self.model.moves.clear()


EXAMPLES, STEPS = 300, 50


def test_every_message_lives_as_the_plain_model_says() -> None:
    explore(Lifecycle, examples=EXAMPLES, steps=STEPS)


def test_the_model_knows_nothing_of_the_product() -> None:
    tree = ast.parse(Path(plain_model.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name for node in imports for name in (getattr(node, "module", None), *(a.name for a in node.names))}

    assert not [name for name in modules if name and name.startswith("asynctasq")]


@pytest.mark.parametrize(
    "name",
    [
        "token not compared",
        "early by a microsecond",
        "attempt counted twice",
        "expired lease not counted as a crash",
        "redrive keeps attempts",
    ],
)
def test_a_planted_defect_turns_the_machine_red(name: str) -> None:
    with planted(MUTANTS[name]):
        error = goes_red(Lifecycle, examples=EXAMPLES, steps=STEPS)

    assert isinstance(error, AssertionError), MUTANTS[name].breaks
