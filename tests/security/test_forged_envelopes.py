"""What `dispatch` would refuse, a forged body can't bring either; and no listener of the ledger ends a worker."""

import logging
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.codec.envelope import PLAIN_PREFIX, decode_envelope, encode_envelope
from asynctasq.codec.typed_msgpack import packb
from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DELAY_S_MAX, UndecodableBody, UnserializableValue
from asynctasq.kernel.envelope import COUNT_MAX, MAX_CRASHES_DEFAULT, MAX_CRASHES_MOST, TASK_NAME_CHARS_MAX, Envelope
from asynctasq.kernel.ledger import Entry
from asynctasq.kernel.retry import Fixed, delay_before_next
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from asynctasq.tasks.options import RETRY_STRATEGIES, max_crashes_of, retry_policy, seconds

RAN: list[int] = []
TOO_LONG_S = math.nextafter(DELAY_S_MAX, math.inf)


class Counts(AsyncTask[None]):
    def __init__(self, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    async def execute(self) -> None:
        RAN.append(self.number)


class Zeros:
    def random(self) -> float:
        return 0.0


def body(
    task: object = "tasks:Boom",
    max_attempts: object = 3,
    retry: object = 1.0,
    dispatched_at: object = 1.0,
    timeout: object = None,
    keep_result: object = None,
    max_crashes: object = MAX_CRASHES_DEFAULT,
) -> bytes:
    return PLAIN_PREFIX + packb([task, b"\x80", max_attempts, retry, dispatched_at, timeout, keep_result, max_crashes])


@pytest.mark.parametrize(
    "forged",
    [
        body(retry=1e18),
        body(retry=TOO_LONG_S),
        body(retry=2**63),
        body(retry=[1, 1e18, 2.0, 60.0, True]),
        body(retry=[1, 1.0, 2.0, 1e18, False]),
        body(retry=[2, 1.0, 1e18]),
        body(timeout=1e18),
        body(timeout=0),
        body(keep_result=1e18),
        body(keep_result=0.0),
        body(max_crashes=0),
        body(task="x" * 5_000_000),
    ],
)
def test_what_dispatch_refuses_is_undecodable(forged: bytes) -> None:
    with pytest.raises(UndecodableBody) as caught:
        decode_envelope(forged)

    assert len(str(caught.value)) < 300


def test_the_bounds_of_dispatch_are_accepted() -> None:
    envelope = decode_envelope(
        body("x" * TASK_NAME_CHARS_MAX, COUNT_MAX, DELAY_S_MAX, 1.0, DELAY_S_MAX, DELAY_S_MAX, MAX_CRASHES_MOST)
    )

    assert (envelope.timeout_s, envelope.keep_result_s, envelope.retry) == (
        DELAY_S_MAX,
        DELAY_S_MAX,
        Fixed(delay_s=DELAY_S_MAX),
    )


def test_a_name_that_no_worker_would_take_is_refused_at_dispatch() -> None:
    name = "m:" + "x" * TASK_NAME_CHARS_MAX
    envelope = Envelope(task=name, arguments=b"\x80", max_attempts=1, retry=Fixed(delay_s=1.0), dispatched_at=1.0)

    with pytest.raises(UnserializableValue, match="the limit is 500; rename"):
        encode_envelope(envelope)


numbers = st.floats() | st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, 60.0, DELAY_S_MAX, TOO_LONG_S])


def dispatchable(call: object, *arguments: object, **named: object) -> bool:
    try:
        call(*arguments, **named)  # type: ignore[operator] # pyright: ignore[reportCallIssue] - one of ours
    except ValueError:
        return False
    return True


@settings(max_examples=300)
@given(retry=numbers | st.lists(numbers, min_size=1, max_size=3), timeout=numbers, kept=numbers, crashes=numbers)
def test_a_body_is_read_only_if_its_settings_could_have_been_dispatched(
    retry: float | list[float], timeout: float, kept: float, crashes: float
) -> None:
    wire = [2, *retry] if isinstance(retry, list) else retry
    allowed = (
        dispatchable(retry_policy, retry, RETRY_STRATEGIES[0], None)
        and dispatchable(seconds, timeout, "timeout", above_zero=True)
        and dispatchable(seconds, kept, "keep_result", above_zero=True)
        and dispatchable(max_crashes_of, crashes)
    )

    try:
        envelope = decode_envelope(body(retry=wire, timeout=timeout, keep_result=kept, max_crashes=crashes))
    except UndecodableBody:
        assert not allowed
    else:
        assert allowed
        assert 0 <= delay_before_next(envelope.retry, attempt=COUNT_MAX, rng=Zeros()) <= DELAY_S_MAX


@settings(max_examples=300)
@given(base=numbers, factor=numbers, cap=numbers, attempt=st.integers(1, COUNT_MAX))
def test_no_policy_that_is_read_gives_a_delay_beyond_the_limit(
    base: float, factor: float, cap: float, attempt: int
) -> None:
    try:
        envelope = decode_envelope(body(retry=[1, base, factor, cap, False]))
    except UndecodableBody:
        return

    assert 0 <= delay_before_next(envelope.retry, attempt=attempt, rng=Zeros()) <= DELAY_S_MAX


@pytest.mark.parametrize("error", [OverflowError, BrokenPipeError, SystemExit, KeyboardInterrupt])
async def test_a_listener_that_raises_ends_neither_worker_nor_task(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Entry] = []

    def listener(entry: Entry) -> None:
        heard.append(entry)
        raise error("Python int too large")

    RAN.clear()
    driver = MemoryDriver()
    await Queue(driver).dispatch([Counts(number) for number in range(40)])
    settings = WorkerSettings(application=Application(), handle_signals=False, burst=True)

    with caplog.at_level(logging.ERROR):
        await Worker(driver, settings=settings, runtime=ProductionRuntime(record=listener)).start()

    assert sorted(RAN) == list(range(40))
    assert (await driver.depth("default")).ready == 0
    assert len(heard) > 100
    assert 1 <= len(caplog.records) <= 10, "told when it begins and ever more rarely after that"
