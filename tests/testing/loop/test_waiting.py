"""Threads and executor calls that wait for the simulation loop, and threads that the program starts itself."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from asgiref.sync import async_to_sync, sync_to_async

from asynctasq.testing.errors import Deadlock, Livelock
from asynctasq.testing.loop import Limits, SimulationLoop
from asynctasq.testing.tape import Tape
from tests.patience import SOON_S

Make = Callable[..., SimulationLoop]
MODES: dict[str, Callable[[], dict[str, Any]]] = {
    "inline": dict,
    "inline random": lambda: {"tape": Tape(5), "search": "random"},
    "inline pct": lambda: {"tape": Tape(9), "search": "pct"},
    "real": lambda: {"real_executors": True},
}


@pytest.fixture(params=MODES)
def loop(request: pytest.FixtureRequest) -> SimulationLoop:
    return SimulationLoop(**MODES[request.param](), limits=Limits(grace_s=0.3))


@pytest.fixture
def inline() -> SimulationLoop:
    return SimulationLoop(limits=Limits(grace_s=0.3))


@pytest.fixture
def real() -> SimulationLoop:
    return SimulationLoop(real_executors=True, limits=Limits(grace_s=0.3))


@pytest.fixture
def released() -> Generator[threading.Event]:
    """Stands for what never comes; set at the end, or a thread that waits for it would outlive the test."""
    event = threading.Event()
    yield event
    event.set()


def ask(loop: SimulationLoop, what: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> Any:
    return asyncio.run_coroutine_threadsafe(what, loop).result(timeout_s)


async def never() -> None:
    await asyncio.get_running_loop().create_future()


# -- calls that wait for their own loop --------------------------------------------------------------


def test_a_call_may_wait_for_a_coroutine_of_its_loop(loop: SimulationLoop):
    async def main() -> str:
        return await asyncio.to_thread(lambda: ask(loop, asyncio.sleep(3_600, "slept")))

    assert loop.run(main()) == "slept"
    assert loop.clock.elapsed == timedelta(hours=1)


def test_a_call_gets_the_error_of_its_coroutine(loop: SimulationLoop):
    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    async def main() -> None:
        error = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(fail(), loop).exception())
        assert isinstance(error, KeyError)
        with pytest.raises(KeyError, match="mine"):
            await asyncio.to_thread(lambda: ask(loop, fail()))

    loop.run(main())


def test_anyios_thread_may_wait_for_a_timer_of_the_loop(loop: SimulationLoop):
    async def main() -> None:
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 7))

    loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=7)


def test_async_to_sync_inside_sync_to_async_runs_in_the_loop(loop: SimulationLoop):
    async def inner() -> SimulationLoop:
        await asyncio.sleep(2)
        assert await sync_to_async(lambda: "back in the thread")() == "back in the thread"
        return asyncio.get_running_loop()  # type: ignore[return-value]

    async def main() -> object:
        return await sync_to_async(async_to_sync(inner))()

    assert loop.run(main()) is loop
    assert loop.clock.elapsed == timedelta(seconds=2)


def test_thread_sensitive_calls_that_wait_take_turns(loop: SimulationLoop):
    async def inner() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(*(sync_to_async(async_to_sync(inner))() for _ in range(3)))

    loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=3)


def test_other_tasks_run_on_time_while_a_call_waits(loop: SimulationLoop):
    async def tick(seen: list[float]) -> None:
        for _ in range(4):
            seen.append(loop.time())
            await asyncio.sleep(1)

    async def main() -> list[float]:
        seen: list[float] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(tick(seen))
            group.create_task(asyncio.to_thread(lambda: ask(loop, asyncio.sleep(2.5))))
            group.create_task(tick(seen))
        return seen

    assert loop.run(main()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_coroutine_may_itself_await_a_call_that_waits(loop: SimulationLoop):
    async def middle() -> int:
        await asyncio.sleep(1)
        return await asyncio.to_thread(lambda: ask(loop, asyncio.sleep(1, 5)))

    async def main() -> int:
        return await asyncio.to_thread(lambda: ask(loop, middle()))

    assert loop.run(main()) == 5
    assert loop.clock.elapsed == timedelta(seconds=2)


def test_a_call_that_hands_over_and_does_not_wait_goes_on_at_once(loop: SimulationLoop):
    seen: list[str] = []

    async def note() -> None:
        seen.append("coroutine")

    def hand_over() -> None:
        asyncio.run_coroutine_threadsafe(note(), loop)
        loop.call_soon_threadsafe(seen.append, "callback")

    async def main() -> None:
        await asyncio.to_thread(hand_over)
        await asyncio.sleep(1)

    loop.run(main())

    assert sorted(seen) == ["callback", "coroutine"]


def test_the_end_of_the_run_ends_a_call_that_waits(loop: SimulationLoop):
    async def main() -> str:
        asyncio.create_task(asyncio.to_thread(lambda: ask(loop, asyncio.sleep(1_000))))  # noqa: RUF006 - left behind
        await asyncio.sleep(3)
        return "ended"

    assert loop.run(main()) == "ended"
    assert loop.clock.elapsed == timedelta(seconds=3)


def test_a_call_that_waits_for_ever_is_named_as_a_deadlock(loop: SimulationLoop):
    def wait_for_ever() -> None:
        ask(loop, never())

    with pytest.raises(Deadlock, match=r"executor call .*wait_for_ever.*(?s:.*)await the coroutine instead"):
        loop.run(asyncio.to_thread(wait_for_ever))


def test_anyios_thread_that_waits_for_ever_is_named_as_a_deadlock(loop: SimulationLoop):
    with pytest.raises(Deadlock, match="AnyIO worker thread' waits for a coroutine that it submitted to this loop"):
        loop.run(anyio.to_thread.run_sync(lambda: anyio.from_thread.run(never)))


# -- inline ------------------------------------------------------------------------------------------


def test_inline_the_timeout_of_a_result_is_virtual(inline: SimulationLoop):
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(lambda: ask(inline, asyncio.sleep(60), 10.1234562))

    inline.run(main())

    assert inline.clock.elapsed == timedelta(seconds=10.123456)


@pytest.mark.parametrize("search", ["fifo", "random", "pct"])
def test_inline_runs_with_calls_that_wait_are_equal(search: Any):
    async def main(loop: SimulationLoop) -> None:
        async def answer(number: int) -> int:
            await asyncio.sleep(loop.tape.draw("delay", 3))
            return number

        for _ in range(3):
            await asyncio.gather(
                asyncio.to_thread(lambda: ask(loop, answer(1))), *(answer(number) for number in range(4))
            )

    def digest() -> str:
        loop = SimulationLoop(Tape(11), search=search, trace=True)
        loop.run(main(loop))
        return loop.trace_digest()

    assert digest() == digest()


def test_inline_a_call_below_another_one_that_waits_does_not_come_late(inline: SimulationLoop):
    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(partial(sleep_in_loop, second)) for second in (1, 10)))

    def sleep_in_loop(delay_s: float) -> None:
        ask(inline, asyncio.sleep(delay_s))

    with pytest.raises(Deadlock, match=r"sleep_in_loop .* could go on.*real_executors=True"):
        inline.run(main())

    assert inline.clock.elapsed == timedelta(seconds=1)


@pytest.mark.parametrize("wait", [futures.wait, lambda waiting: next(futures.as_completed(waiting))])
def test_inline_waiting_by_concurrent_futures_is_refused(inline: SimulationLoop, wait: Callable[[Any], Any]):
    async def main() -> None:
        with pytest.raises(Deadlock, match="call result"):
            await asyncio.to_thread(lambda: wait([asyncio.run_coroutine_threadsafe(asyncio.sleep(1), inline)]))

    inline.run(main())


def test_inline_a_livelock_inside_a_call_that_waits_ends_the_run():
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main(loop: SimulationLoop) -> None:
        try:
            await asyncio.to_thread(lambda: ask(loop, spin()))
        except Livelock:
            pytest.fail("the program must not see it")

    for trace in (False, True):
        loop = SimulationLoop(trace=trace, limits=Limits(stalled_steps_max=5_000))
        with pytest.raises(Livelock, match="spin"):
            loop.run(main(loop))


def test_inline_a_burst_of_steps_around_a_call_that_waits_is_no_livelock():
    async def burst() -> None:
        for _ in range(5_500):
            await asyncio.sleep(0)

    async def late() -> None:
        for _ in range(5_200):
            await asyncio.sleep(0)
        await asyncio.to_thread(lambda: ask(loop, asyncio.sleep(0, "answer")))
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(burst(), late())

    for trace in (False, True):
        loop = SimulationLoop(trace=trace, limits=Limits(stalled_steps_max=10_500))
        loop.run(main())


# -- real executors ----------------------------------------------------------------------------------


def test_time_stands_still_while_a_call_works_on_after_it_handed_over(real: SimulationLoop):
    def work() -> str:
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(1), real)
        time.sleep(0.1)
        before = real.time()
        future.result()
        return f"{before:.0f} {real.time():.0f}"

    async def main() -> str:
        async with asyncio.timeout(5):
            return await asyncio.to_thread(work)

    assert real.run(main()) == "0 1"


def test_time_stands_still_while_another_call_works(real: SimulationLoop):
    seen: list[float] = []

    def work() -> None:
        time.sleep(0.1)
        seen.append(real.time())

    async def main() -> None:
        await asyncio.gather(asyncio.to_thread(lambda: ask(real, asyncio.sleep(60))), asyncio.to_thread(work))

    real.run(main())

    assert seen == [0]


def test_a_call_behind_one_that_waits_holds_nothing(real: SimulationLoop):
    with ThreadPoolExecutor(1) as pool:

        async def main() -> None:
            first = real.run_in_executor(pool, lambda: ask(real, asyncio.sleep(3)))
            await asyncio.gather(first, real.run_in_executor(pool, int))

        real.run(main())

    assert real.clock.elapsed == timedelta(seconds=3)


def test_a_pool_the_loop_knows_nothing_of_may_wait_for_the_loop_too(real: SimulationLoop):
    with ThreadPoolExecutor(1) as pool:

        async def main() -> None:
            await asyncio.wrap_future(pool.submit(lambda: ask(real, asyncio.sleep(3))))

        real.run(main())

    assert real.clock.elapsed == timedelta(seconds=3)


def test_a_call_that_waits_for_what_a_timer_sets_goes_on_after_the_grace(
    real: SimulationLoop, caplog: pytest.LogCaptureFixture
):
    async def main() -> bool:
        event = threading.Event()
        real.call_later(5, event.set)
        return await asyncio.to_thread(event.wait)

    assert real.run(main()) is True
    assert real.clock.elapsed == timedelta(seconds=5)
    assert "virtual time goes on without executor call Event.wait" in caplog.text


def test_a_blocked_call_is_a_deadlock_that_names_it(real: SimulationLoop, released: threading.Event):
    with pytest.raises(Deadlock, match=r"executor call Event\.wait .* waits for another thread"):
        real.run(asyncio.to_thread(released.wait))


def test_a_call_that_computes_longer_than_the_grace_holds_time(real: SimulationLoop):
    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.to_thread(time.sleep, 0.7)

    real.run(main())

    assert real.clock.elapsed == timedelta()


# -- threads of the program --------------------------------------------------------------------------


def start(target: Callable[[], object], *, daemon: bool = False, name: str | None = None) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=daemon, name=name)
    thread.start()
    return thread


@pytest.mark.parametrize("mode", MODES)
def test_time_stands_still_while_a_thread_of_the_program_works(mode: str):
    loop = SimulationLoop(**MODES[mode](), limits=Limits(grace_s=2 * SOON_S))

    async def main() -> float:
        answered = asyncio.Event()
        thread = start(lambda: (time.sleep(0.15), loop.call_soon_threadsafe(answered.set)))
        async with asyncio.timeout(5):
            await answered.wait()
        thread.join()
        return loop.time()

    assert loop.run(main()) == 0


def test_time_stands_still_for_a_timer_thread_and_a_pool_of_the_program():
    inline = SimulationLoop(limits=Limits(grace_s=2 * SOON_S))

    async def main() -> None:
        answered = asyncio.Event()
        timer = threading.Timer(0.15, inline.call_soon_threadsafe, [answered.set])
        timer.start()
        with ThreadPoolExecutor(1) as pool:
            async with asyncio.timeout(5):
                await answered.wait()
                await asyncio.wrap_future(pool.submit(time.sleep, 0.15))
            await asyncio.sleep(60)
        timer.join()

    started = time.monotonic()
    inline.run(main())

    assert inline.clock.elapsed == timedelta(seconds=60)
    assert time.monotonic() - started < SOON_S


def test_a_thread_that_asks_the_loop_lets_time_go_on(loop: SimulationLoop):
    answers: list[str] = []

    async def main() -> None:
        thread = start(lambda: answers.append(ask(loop, asyncio.sleep(5, "slept"), 30)))
        while not answers:
            await asyncio.sleep(1)
        thread.join()

    loop.run(main())

    assert answers == ["slept"]
    assert loop.clock.elapsed <= timedelta(seconds=7)


def test_a_thread_that_lives_for_ever_holds_time_once_for_the_grace(
    inline: SimulationLoop, caplog: pytest.LogCaptureFixture
):
    ended: list[bool] = []

    def serve() -> None:
        while not ended:
            time.sleep(0.01)

    async def main() -> None:
        thread = start(serve, name="metrics")
        for _ in range(100):
            await asyncio.sleep(10)
        ended.append(True)
        thread.join()

    inline.run(main())

    assert inline.clock.elapsed == timedelta(seconds=1_000)
    assert caplog.text.count("virtual time goes on without thread 'metrics', which is at work") == 1


def test_idle_and_daemon_threads_hold_nothing(released: threading.Event):
    loop = SimulationLoop(limits=Limits(grace_s=60))
    with ThreadPoolExecutor(1) as pool:

        async def main() -> None:
            pool.submit(int).result()
            idle = start(released.wait)
            start(lambda: released.wait(SOON_S), daemon=True)
            await asyncio.sleep(60)
            released.set()
            idle.join()

        loop.run(main())

    assert loop.clock.elapsed == timedelta(seconds=60)


def test_a_deadlock_names_the_thread_that_did_not_report(inline: SimulationLoop, released: threading.Event):
    async def main() -> None:
        start(lambda: released.wait(SOON_S), name="mine")
        await never()

    with pytest.raises(Deadlock, match=r"Limits\.grace_s(?s:.*)thread 'mine' is at work(?s:.*)outside_work") as caught:
        inline.run(main())

    assert "no thread is at work" not in str(caught.value)
