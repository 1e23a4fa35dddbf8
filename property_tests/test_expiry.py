"""No attempt starts at or after its message's expiry, and none expires before, whatever the workers' clocks say."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from asynctasq import AsyncTask, Snooze
from asynctasq.kernel.decide import is_expired
from asynctasq.kernel.ledger import Entry, Kind, check
from asynctasq.kernel.messages import MICROSECONDS, Lease, microseconds
from asynctasq.testing import Crash, FakeQueue, SkewClock
from tests.effort import examples

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no finding."""

CENTURY_US = 100 * 366 * 86_400 * MICROSECONDS
RESOLUTION_S = 0.5e-6
"""Of instants in a ledger, floats of seconds since the epoch."""

instants_us = st.integers(0, 4_000_000_000 * MICROSECONDS)
durations_s = st.sampled_from([0.1, 1, 20, 29.999999, 30, 59.999999, 60, 60.000001, 86_400]) | st.floats(1e-9, 1e9)
SHORT_S = [1, 19.999999, 20, 20.000001, 40, 60]


def lease_of(enqueued_us: int, age_us: int, lease_s: float) -> Lease:
    """Return a lease that was granted for `lease_s` when its message was so old."""
    ends_us = enqueued_us + age_us + microseconds(lease_s)
    return Lease(
        message_id="m",
        queue="q",
        body=b"",
        token="1",
        attempt=1,
        crashes=0,
        enqueued_at=enqueued_us / MICROSECONDS,
        expires_at=ends_us / MICROSECONDS,
    )


@STEADY
@given(instants_us, st.integers(0, CENTURY_US), st.floats(1e-3, 3600), durations_s)
@example(enqueued_us=1_750_000_000_100_000, age_us=59_999_999, lease_s=30.0, expires_s=60)
@example(enqueued_us=1_750_000_000_100_000, age_us=60_000_000, lease_s=30.0, expires_s=60)
def test_a_lease_is_judged_to_the_microsecond(enqueued_us: int, age_us: int, lease_s: float, expires_s: float) -> None:
    lease = lease_of(enqueued_us, age_us, lease_s)

    expired = is_expired(lease, lease_s=lease_s, held_s=0.0, expires_s=expires_s)

    assert expired is (age_us >= max(1, microseconds(expires_s)))


@STEADY
@given(instants_us, st.sampled_from([0.1, 1, 30]), durations_s, st.floats(0, 1e6))
def test_the_time_that_a_worker_has_had_the_lease_counts(
    enqueued_us: int, lease_s: float, expires_s: float, held_s: float
) -> None:
    lease = lease_of(enqueued_us, 0, lease_s)

    expired = is_expired(lease, lease_s=lease_s, held_s=held_s, expires_s=expires_s)

    assert expired or held_s < expires_s + 1e-6
    assert not expired or held_s >= expires_s - 1e-6


class Ages(AsyncTask[None]):
    """Does as its script says, an act for each run, and then succeeds."""

    max_attempts = 99
    queue = "ages"

    def __init__(self, script: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = script

    async def execute(self) -> None:
        runs = RUNS[self.task_id] = RUNS[self.task_id] + 1
        act = self.script[runs - 1] if runs <= len(self.script) else "succeed"
        if act == "fail":
            raise ConnectionError
        if act == "snooze":
            raise Snooze(20)


RUNS: Counter[str] = Counter()

plans = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 19.999999, 30]),
        st.sampled_from(SHORT_S),
        st.sampled_from([0, 1, 20, 19.999999]),
        st.lists(st.sampled_from(["fail", "snooze"]), max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(STEADY, max_examples=examples(60))
@given(
    plans=plans,
    skews_s=st.tuples(*(st.sampled_from([-7200, -20, -1e-6, 1e-6, 20, 7200]) for _ in range(2))),
    waits_s=st.sampled_from([0, 1, 20, 60]),
    lease_s=st.sampled_from([10, 30, 30.0000005]),
    crashes=st.booleans(),
)
def test_nothing_starts_late_and_nothing_expires_early(
    plans: list[tuple[float, float, float, list[str]]],
    skews_s: tuple[float, ...],
    waits_s: float,
    lease_s: float,
    crashes: bool,
) -> None:
    RUNS.clear()
    faults: list[Any] = [
        SkewClock(worker=f"w{n}", seconds=skew_s, must_fire=False) for n, skew_s in enumerate(skews_s, start=1)
    ]
    if crashes:
        faults.append(Crash(at="mid_attempt", task=Ages, must_fire=False))
    expiries: dict[str, float] = {}
    with FakeQueue(workers=2, faults=faults, lease_s=lease_s) as queue:
        for delay_s, expires_s, retry_s, script in plans:
            if delay_s < expires_s:
                built = Ages(script).delay(delay_s).retry_after(retry_s).with_options(expires=expires_s)
                expiries[built.dispatch_sync()] = expires_s
        waiting = queue._engine.waits.until_clock(queue.clock.monotonic() + waits_s)
        queue._engine.run_sync(waiting)

        queue.run_until_idle_sync()

        ledger = queue.ledger
    assert check(ledger) == []
    for task_id, expires_s in expiries.items():
        judge([entry for entry in ledger if entry.message_id == task_id], expires_s)


def judge(entries: list[Entry], expires_s: float) -> None:
    """Compare what became of one message with its age."""
    [dispatched] = [entry.at for entry in entries if entry.kind is Kind.DISPATCHED]
    for entry in entries:
        age_s = entry.at - dispatched
        if entry.kind is Kind.STARTED:
            assert age_s < expires_s - RESOLUTION_S, f"attempt {entry.attempt} started {age_s} s old"
        if entry.kind is Kind.SETTLED and entry.detail == "bury: expired":
            event("expired")
            assert age_s > expires_s - RESOLUTION_S, f"expired {age_s} s old"
    last = entries[-1]
    assert last.kind is Kind.SETTLED
    assert last.detail in ("complete", "bury: expired")
