"""The simulation loop runs what asyncio offers, in virtual time and in asyncio's order."""

import asyncio
import contextlib
import contextvars
import gc
import warnings
from datetime import timedelta
from typing import Any

import pytest

from asynctasq.testing.errors import UnhandledErrors
from asynctasq.testing.loop import Limits, SimulationLoop
from asynctasq.testing.tape import Tape

MODES: dict[str, dict[str, Any]] = {
    "in order": {},
    "in order, traced": {"trace": True},
    "random": {"search": "random"},
    "by priority": {"search": "pct"},
}


@pytest.fixture(params=MODES, ids=MODES.keys())
def loop(request: pytest.FixtureRequest):
    options = MODES[request.param]
    loop = SimulationLoop(Tape(5 if "search" in options else 0), **options)
    yield loop
    if not loop.is_closed():
        loop.close()


def elapsed() -> timedelta:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop)
    return loop.clock.elapsed


def test_sleeping_a_year_takes_no_time(loop: SimulationLoop):
    async def main() -> timedelta:
        await asyncio.sleep(365 * 86_400)
        return elapsed()

    assert loop.run(main()) == timedelta(days=365)


def test_loop_time_and_clock_agree_to_the_microsecond(loop: SimulationLoop):
    async def main() -> None:
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        assert loop.time() == loop.clock.monotonic() == 0.3

    loop.run(main())


def test_what_sleeps_shorter_wakes_first(loop: SimulationLoop):
    woken: list[float] = []

    async def sleeper(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append(delay_s)

    async def main() -> None:
        await asyncio.gather(*(sleeper(delay_s) for delay_s in (3, 1, 2, 0.5)))

    loop.run(main())

    assert woken == [0.5, 1, 2, 3]


def test_timers_of_one_instant_run_in_the_order_they_were_set(loop: SimulationLoop):
    seen: list[int] = []

    async def main() -> None:
        for number in range(50):
            loop.call_later(1, seen.append, number)
        await asyncio.sleep(2)

    loop.run(main())

    assert seen == list(range(50))


def test_plain_callbacks_keep_their_order(loop: SimulationLoop):
    seen: list[int] = []

    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(5)]
        for number in range(20):
            loop.call_soon(seen.append, number)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.1)

    loop.run(main())

    assert seen == list(range(20))


def test_a_cancelled_callback_and_a_cancelled_timer_do_not_run(loop: SimulationLoop):
    seen: list[str] = []

    async def main() -> None:
        loop.call_soon(seen.append, "soon").cancel()
        timer = loop.call_later(1, seen.append, "later")
        assert timer.when() == 1
        timer.cancel()
        timer.cancel()
        assert timer.cancelled()
        await asyncio.sleep(2)

    loop.run(main())

    assert seen == []


def test_a_cancelled_last_timer_moves_no_time(loop: SimulationLoop):
    async def main() -> None:
        async with asyncio.timeout(1_000):
            await asyncio.sleep(1)

    loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=1)


def test_many_cancelled_timers_do_not_pile_up(loop: SimulationLoop):
    async def main() -> int:
        for _ in range(5_000):
            async with asyncio.timeout(1_000):
                await asyncio.sleep(0.001)
        return len(loop._heap)

    assert loop.run(main()) < 300


def test_a_timer_in_the_past_runs_soon_and_an_infinite_one_never(loop: SimulationLoop):
    seen: list[str] = []

    async def main() -> None:
        await asyncio.sleep(5)
        loop.call_at(1, seen.append, "past")
        loop.call_later(float("inf"), seen.append, "never")
        await asyncio.sleep(0.000_001)
        assert seen == ["past"]
        await asyncio.sleep(86_400 * 365)

    loop.run(main())

    assert seen == ["past"]


def test_a_clock_moved_by_the_program_fires_what_came_due_even_while_others_are_busy(loop: SimulationLoop):
    async def main() -> None:
        reached = asyncio.Event()
        loop.call_later(60, reached.set)
        loop.clock.advance(minutes=1)
        while not reached.is_set():
            await asyncio.sleep(0)
        assert elapsed() == timedelta(minutes=1)

    loop.run(main())


def test_timeouts_expire_at_their_instant(loop: SimulationLoop):
    async def main() -> timedelta:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.sleep(8)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(8), 7)
        assert await asyncio.wait_for(asyncio.sleep(1, "in time"), 7) == "in time"
        return elapsed()

    assert loop.run(main()) == timedelta(seconds=15)


def test_queues_locks_events_conditions_and_barriers_work(loop: SimulationLoop):
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        lock, start, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
        condition, barrier = asyncio.Condition(), asyncio.Barrier(3)
        got: list[int] = []

        async def consume() -> None:
            await start.wait()
            async with semaphore, lock, condition:
                condition.notify_all()
            await barrier.wait()
            for _ in range(5):
                got.append(await queue.get())
                queue.task_done()

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(consume())
            group.create_task(asyncio.sleep(1)).add_done_callback(lambda _: start.set())
            for number in range(15):
                await queue.put(number)
            await queue.join()
        return got

    assert sorted(loop.run(main())) == list(range(15))


def test_a_failing_child_cancels_its_group(loop: SimulationLoop):
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError("child")

    async def main() -> timedelta:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(fail())
        assert [str(error) for error in caught.value.exceptions] == ["child"]
        return elapsed()

    assert loop.run(main()) == timedelta(seconds=1)


def test_context_variables_follow_tasks_and_callbacks(loop: SimulationLoop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    async def main() -> None:
        variable.set("inside")
        loop.call_soon(lambda: seen.append(variable.get()))
        loop.call_later(1, lambda: seen.append(variable.get()))
        other = contextvars.Context()
        loop.call_soon(lambda: seen.append(variable.get()), context=other)
        await asyncio.create_task(asyncio.sleep(2))

    loop.run(main())

    assert seen == ["inside", "outside", "inside"]
    assert variable.get() == "outside"


def test_the_result_and_the_error_of_main_come_out(loop: SimulationLoop):
    async def fail() -> None:
        await asyncio.sleep(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        loop.run(fail())

    assert loop.is_closed()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_inside_a_task_ends_the_run(loop: SimulationLoop, error: type[BaseException]):
    async def leave() -> None:
        raise error

    async def main() -> None:
        task = asyncio.create_task(leave())
        await asyncio.wait([task])

    with pytest.raises(error):
        loop.run(main())

    assert loop.is_closed()


def test_leftovers_are_cancelled_in_the_order_they_were_made(loop: SimulationLoop):
    ended: list[int] = []

    async def wait(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def main() -> None:
        started = [asyncio.create_task(wait(number)) for number in range(30)]
        await asyncio.sleep(1)
        assert len(started) == 30

    loop.run(main())

    assert sorted(ended) == list(range(30))
    if loop._step_runner is None or loop.tape.seed == 0:
        assert ended == list(range(30))


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_never_started_is_cancelled_quietly_at_the_end(fails: bool, request: pytest.FixtureRequest):
    async def main() -> None:
        left.append(asyncio.create_task(asyncio.sleep(1_000)))
        if fails:
            raise ZeroDivisionError

    left: list[asyncio.Task[None]] = []
    gc.collect()
    gc.freeze()  # what other tests left is not looked at again forty times
    request.addfinalizer(gc.unfreeze)
    for seed in range(20):
        loop = SimulationLoop(Tape(seed), search="random" if seed else "fifo")
        with warnings.catch_warnings(record=True, action="always") as warned:
            with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
                loop.run(main())
            assert left.pop().cancelled()
            del loop
            gc.collect()

        assert [str(each.message) for each in warned if "never awaited" in str(each.message)] == []


def test_leftovers_may_take_virtual_time_to_end(loop: SimulationLoop):
    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3)

    async def main() -> None:
        loop.leftover = asyncio.create_task(slow_to_end())  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=4)


def test_generators_left_open_are_closed_in_the_order_they_began(loop: SimulationLoop):
    closed: list[int] = []

    async def numbers(name: int):
        try:
            while True:
                yield name
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    open_ones = [numbers(name) for name in range(10)]

    async def main() -> None:
        for generator in reversed(open_ones):
            await anext(generator)

    loop.run(main())

    assert closed == list(reversed(range(10)))


def test_a_dropped_generator_is_closed_by_the_loop(loop: SimulationLoop):
    closed: list[str] = []

    async def numbers():
        try:
            yield 1
        finally:
            closed.append("closed")

    async def main() -> None:
        async for _ in numbers():
            break
        gc.collect()
        await asyncio.sleep(0.1)
        assert closed == ["closed"]

    loop.run(main())


def test_errors_that_nobody_awaits_fail_the_run(loop: SimulationLoop):
    async def fail() -> None:
        raise ValueError("lost")

    async def main() -> str:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(1)
        assert task.done()
        del task
        gc.collect()
        return "fine"

    with pytest.raises(UnhandledErrors, match="lost") as caught:
        loop.run(main())

    assert isinstance(caught.value.__cause__, ValueError)
    assert len(caught.value.contexts) == 1


def test_errors_in_callbacks_do_not_stop_others_and_fail_the_run(loop: SimulationLoop):
    seen: list[int] = []

    def fail() -> None:
        raise ValueError("callback")

    async def main() -> None:
        loop.call_soon(fail)
        loop.call_soon(seen.append, 1)
        await asyncio.sleep(1)
        assert seen == [1]

    with pytest.raises(UnhandledErrors, match="callback"):
        loop.run(main())


def test_an_exception_handler_of_the_program_is_used(loop: SimulationLoop):
    handled: list[Any] = []

    async def main() -> None:
        loop.set_exception_handler(lambda _, context: handled.append(context["exception"]))
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop.run(main())

    assert [type(error) for error in handled] == [ZeroDivisionError]


def test_an_error_while_leftovers_are_cancelled_fails_the_run(loop: SimulationLoop):
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("in finally")

    async def main() -> None:
        loop.leftover = asyncio.create_task(stubborn(), name="stubborn")  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    with pytest.raises(UnhandledErrors, match=r"stubborn failed while it was cancelled.*in finally"):
        loop.run(main())


def test_call_at_instant_end_waits_for_all_of_this_instant_and_moves_no_time(loop: SimulationLoop):
    seen: list[str] = []

    async def work() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        seen.append("worked")

    async def main() -> None:
        loop.worker = asyncio.ensure_future(work())  # type: ignore[attr-defined]
        rested = asyncio.Event()
        loop.call_later(1, seen.append, "a second later")
        loop.call_at_instant_end(rested.set)
        await rested.wait()
        seen.append("rested")
        assert elapsed() == timedelta()
        await asyncio.sleep(2)

    loop.run(main())

    assert seen == ["worked", "rested", "a second later"]


def test_a_loop_runs_several_times_and_keeps_its_tasks_meanwhile(loop: SimulationLoop):
    seen: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(10)
            seen.append(loop.time())

    async def start() -> None:
        loop.ticker = asyncio.create_task(tick())  # type: ignore[attr-defined]

    loop.run_until_complete(start())
    loop.run_until_complete(asyncio.sleep(25))
    assert seen == [10, 20]
    loop.run_until_complete(asyncio.sleep(6))
    loop.run(asyncio.sleep(0))

    assert seen == [10, 20, 30]


def test_stop_ends_run_forever_and_it_can_go_on(loop: SimulationLoop):
    seen: list[str] = []
    loop.call_later(5, loop.stop)
    loop.call_later(6, seen.append, "six")

    loop.run_forever()
    assert loop.time() == 5
    loop.run_until_complete(asyncio.sleep(2))
    loop.close()

    assert seen == ["six"]


def test_asyncio_runner_takes_it_as_a_factory(loop: SimulationLoop):
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.sleep(3_600))

    assert loop.clock.elapsed == timedelta(hours=1)
    assert loop.is_closed()


def test_a_closed_loop_refuses_work(loop: SimulationLoop):
    loop.close()

    for use in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.call_at_instant_end(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.run_in_executor(None, print),
        loop.run_forever,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_a_running_loop_cannot_be_run_again(loop: SimulationLoop):
    async def main() -> None:
        again = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(again)
        again.close()

    loop.run(main())


def test_run_inside_itself_and_after_its_end_is_refused(loop: SimulationLoop):
    async def main() -> None:
        with pytest.raises(RuntimeError, match="once at a time"):
            loop.run(asyncio.sleep(1))
        await asyncio.sleep(1)

    loop.run(main())

    with pytest.raises(RuntimeError, match="once at a time"):
        loop.run(asyncio.sleep(1))


def test_asyncios_debug_mode_is_no_hindrance(loop: SimulationLoop):
    async def main() -> None:
        loop.set_debug(True)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
            loop.call_soon(int).cancel()
            loop.call_later(1, int).cancel()
            await asyncio.to_thread(int)

    loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=1)


def test_steps_are_counted_up_to_the_limit():
    loop = SimulationLoop(limits=Limits(stalled_steps_max=1_000))

    async def main() -> None:
        for _ in range(900):
            await asyncio.sleep(0)
        await asyncio.sleep(1)

    loop.run(main())

    assert 900 <= loop.steps < 920


def test_waiting_for_the_rest_of_a_deadline_ends_however_floats_add_up() -> None:
    async def waits() -> None:
        loop = asyncio.get_running_loop()
        loop.clock.move_to_us(1_000_008)  # 1.000008 + 1 is a little more than 2.000008
        deadline = loop.time() + 1
        while (left := deadline - loop.time()) > 0:
            await asyncio.sleep(left)

    loop = SimulationLoop()
    loop.run(waits())

    assert loop.clock.elapsed_us - 2_000_008 in (0, 1)
