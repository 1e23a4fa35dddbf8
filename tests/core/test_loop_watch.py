"""What another thread finds out about an event loop: whether it runs, and what blocks it."""

import asyncio
import threading

import pytest

from asynctasq.core.loop_watch import LoopWatch

REPORT_AFTER_S = 5.0


class HandClock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def check_in_thread(watch: LoopWatch) -> None:
    """Check from a thread of its own while the loop is blocked by this call."""
    thread = threading.Thread(target=watch.check, kwargs={"report_after_s": REPORT_AFTER_S})
    thread.start()
    thread.join()


async def loop_turns(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_loop_that_runs_is_not_blocked_however_seldom_it_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    watch = LoopWatch(clock)
    for _ in range(3):
        check_in_thread(watch)
        await loop_turns()
        clock.seconds += 10 * REPORT_AFTER_S  # the thread waits for a backend that does not answer

        assert watch.blocked_s == 0

    check_in_thread(watch)
    assert caplog.text == ""


async def test_a_blocked_loop_is_reported_once_with_its_task_and_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    watch = LoopWatch(clock)

    async def blocks() -> None:
        for _ in range(4):
            check_in_thread(watch)
            clock.seconds += 2.0
        assert watch.blocked_s == 8.0

    await asyncio.create_task(blocks(), name="the guilty one")
    await loop_turns()

    (record,) = caplog.records
    assert "has not run for 6.0 s: the guilty one blocks it" in record.getMessage()
    assert "in check_in_thread" in record.getMessage()
    assert watch.blocked_s == 0


async def test_the_next_blockage_is_reported_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    watch = LoopWatch(clock)
    for _ in range(2):
        for _ in range(2):
            check_in_thread(watch)
            clock.seconds += 2 * REPORT_AFTER_S
        await loop_turns()

    assert len(caplog.records) == 2


def test_a_closed_loop_is_an_error() -> None:
    async def make() -> LoopWatch:
        return LoopWatch(HandClock())

    watch = asyncio.run(make())

    with pytest.raises(RuntimeError):
        watch.check(report_after_s=REPORT_AFTER_S)
