"""Executors and foreign threads under a simulation loop: inline and exact, or real while time stands still."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from asynctasq.testing.errors import Deadlock
from asynctasq.testing.loop import Limits, SimulationLoop
from asynctasq.testing.tape import Tape
from tests.patience import SOON_S, patient_s

GRACE_S = 2 * SOON_S


@pytest.fixture(params=["inline", "inline random", "real"])
def loop(request: pytest.FixtureRequest) -> SimulationLoop:
    match request.param:
        case "inline":
            return SimulationLoop()
        case "inline random":
            return SimulationLoop(Tape(5), search="random")
        case _:
            return SimulationLoop(real_executors=True)


@pytest.fixture
def real() -> SimulationLoop:
    return SimulationLoop(real_executors=True)


class Boom(Exception):
    pass


def boom() -> None:
    raise Boom


# -- both ways -------------------------------------------------------------------------------------


def test_to_thread_returns_results_and_errors(loop: SimulationLoop):
    async def main() -> int:
        with pytest.raises(Boom):
            await asyncio.to_thread(boom)
        return await asyncio.to_thread(pow, 2, 5)

    assert loop.run(main()) == 32
    assert loop.clock.elapsed == timedelta()


def test_run_in_executor_takes_arguments_and_an_executor_of_ones_own(loop: SimulationLoop):
    with ThreadPoolExecutor(1) as pool:

        async def main() -> list[int]:
            return [await loop.run_in_executor(pool, divmod, 7, 4), await loop.run_in_executor(None, pow, 2, 3)]

        assert loop.run(main()) == [(1, 3), 8]


def test_a_function_in_an_executor_sees_no_running_loop_and_may_run_one(loop: SimulationLoop):
    def function() -> str:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return asyncio.run(asyncio.sleep(0, "from another loop"))

    async def main() -> None:
        assert await asyncio.to_thread(function) == "from another loop"
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is not None

    loop.run(main())


def test_to_thread_carries_context_and_run_in_executor_does_not(loop: SimulationLoop):
    variable = contextvars.ContextVar("variable", default="default")

    async def main() -> list[str]:
        variable.set("set")
        return [await asyncio.to_thread(variable.get), await loop.run_in_executor(None, variable.get)]

    assert loop.run(main()) == ["set", "default"]


def test_a_function_cancelled_before_its_turn_does_not_run_inline():
    ran: list[int] = []

    async def main() -> None:
        loop.run_in_executor(None, ran.append, 1).cancel()
        await asyncio.sleep(1)

    loop = SimulationLoop()
    loop.run(main())

    assert ran == []


def test_stop_iteration_becomes_an_error_that_a_future_can_hold():
    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.to_thread(next, iter(()))

    SimulationLoop().run(main())


def test_a_keyboard_interrupt_inline_ends_the_run():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SimulationLoop().run(asyncio.to_thread(interrupt))


def test_inline_functions_are_steps_that_the_search_orders():
    def order(tape: Tape) -> tuple[int, ...]:
        seen: list[int] = []

        async def main() -> None:
            await asyncio.gather(*(asyncio.to_thread(seen.append, number) for number in range(4)))

        SimulationLoop(tape, search="random").run(main())
        return tuple(seen)

    assert order(Tape(0)) == (0, 1, 2, 3)
    assert len({order(Tape(seed)) for seed in range(1, 30)}) > 10


# -- anyio -----------------------------------------------------------------------------------------


def test_anyio_works_in_virtual_time(loop: SimulationLoop):
    async def main() -> bool:
        with anyio.move_on_after(60) as scope:
            await anyio.sleep(3_600)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 40)
        return scope.cancelled_caught

    assert loop.run(main()) is True
    assert loop.clock.elapsed == timedelta(seconds=100)


def test_virtual_time_stands_still_while_anyios_thread_works(loop: SimulationLoop):
    async def main() -> None:
        release = threading.Event()
        later = loop.call_later(10, release.set)
        async with asyncio.timeout(5):
            assert await anyio.to_thread.run_sync(partial(time.sleep, 0.05)) is None
        later.cancel()
        with pytest.raises(Boom):
            await anyio.to_thread.run_sync(boom)

    loop.run(main())

    assert loop.clock.elapsed == timedelta()


def test_anyios_thread_may_call_back_into_the_loop(loop: SimulationLoop):
    async def answer() -> float:
        await asyncio.sleep(0)
        return loop.time()

    def function() -> float:
        return anyio.from_thread.run(answer)

    async def main() -> float:
        return await anyio.to_thread.run_sync(function)

    assert loop.run(main()) == 0.0


def test_anyios_threads_end_with_the_run(loop: SimulationLoop):
    before = set(threading.enumerate())

    loop.run(anyio.to_thread.run_sync(threading.get_ident))

    for thread in set(threading.enumerate()) - before:
        thread.join(SOON_S)
        assert not thread.is_alive()


# -- real executors --------------------------------------------------------------------------------


def test_virtual_time_stands_still_while_a_real_thread_works(real: SimulationLoop):
    async def main() -> tuple[int, bool]:
        async with asyncio.timeout(9):
            await asyncio.to_thread(time.sleep, 0.1)
        return threading.get_ident(), await asyncio.to_thread(threading.get_ident) == threading.get_ident()

    _, same_thread = real.run(main())

    assert not same_thread
    assert real.clock.elapsed == timedelta()


def test_virtual_time_goes_on_after_the_threads_work(real: SimulationLoop):
    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01 * number) for number in range(4)))
        await asyncio.sleep(86_400)

    real.run(main())

    assert real.clock.elapsed == timedelta(days=1)


def test_a_future_of_a_pool_the_loop_knows_nothing_of_holds_time_too(real: SimulationLoop):
    with ThreadPoolExecutor(1) as pool:

        async def main() -> str:
            async with asyncio.timeout(5):
                return await asyncio.wrap_future(pool.submit(lambda: (time.sleep(0.1), "done")[1]))

        assert real.run(main()) == "done"

    assert real.clock.elapsed == timedelta()


def test_work_that_is_declared_holds_time(real: SimulationLoop):
    async def main() -> None:
        arrived = asyncio.Event()
        thread = threading.Thread(target=lambda: (time.sleep(0.1), real.call_soon_threadsafe(arrived.set)))
        with real.outside_work():
            thread.start()
            async with asyncio.timeout(5):
                await arrived.wait()
        thread.join()

    real.run(main())

    assert real.clock.elapsed == timedelta()


def test_cancelling_the_wait_leaves_the_thread_counted_until_it_ends(real: SimulationLoop):
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(SOON_S)
        ended.set()

    async def main() -> None:
        future = real.run_in_executor(None, work)
        await asyncio.sleep(0)
        future.cancel()
        await asyncio.sleep(0)
        release.set()
        await asyncio.sleep(60)
        assert ended.is_set()

    real.run(main())


def executor_threads() -> set[threading.Thread]:
    """Return those that are there now; a test before this one may have left some."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")}


def test_the_default_executor_is_shut_down_with_the_run(real: SimulationLoop):
    before = set(threading.enumerate())  # other loops of this process may have executors, too

    before = executor_threads()

    real.run(asyncio.to_thread(int))

    assert executor_threads() <= before


def test_asyncio_runner_shuts_the_default_executor_down(real: SimulationLoop):
    before = executor_threads()

    with asyncio.Runner(loop_factory=lambda: real) as runner:
        runner.run(asyncio.to_thread(int))

    assert executor_threads() <= before


# -- foreign threads -------------------------------------------------------------------------------


def call_from_thread(call: Callable[[], object], after_s: float) -> threading.Thread:
    def run() -> None:
        time.sleep(after_s)
        call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_thread_of_the_program_is_waited_for_before_a_deadlock_is_called(loop: SimulationLoop):
    async def main() -> str:
        event = asyncio.Event()
        thread = call_from_thread(lambda: loop.call_soon_threadsafe(event.set), 0.1)
        await event.wait()
        thread.join()
        return "arrived"

    assert loop.run(main()) == "arrived"


def test_grace_ends_where_no_thread_reports():
    loop = SimulationLoop(limits=Limits(grace_s=0.05))
    release = threading.Event()

    async def main() -> None:
        thread = threading.Thread(target=release.wait, args=(SOON_S,))
        thread.start()
        await asyncio.Event().wait()

    try:
        with pytest.raises(Deadlock):
            loop.run(main())
    finally:
        release.set()


def test_without_a_new_thread_a_deadlock_is_called_at_once():
    loop = SimulationLoop(limits=Limits(grace_s=GRACE_S))
    started = time.monotonic()

    with pytest.raises(Deadlock):
        loop.run(asyncio.Event().wait())

    assert time.monotonic() - started < GRACE_S / 2


def test_call_soon_threadsafe_from_the_loops_own_thread_is_an_ordinary_callback(loop: SimulationLoop):
    seen: list[int] = []

    async def main() -> None:
        loop.call_soon_threadsafe(seen.append, 1)
        loop.call_soon(seen.append, 2)
        await asyncio.sleep(0.1)

    loop.run(main())

    assert seen == [1, 2]


def test_what_arrives_before_the_loop_runs_is_not_lost(loop: SimulationLoop):
    seen: list[int] = []
    call_from_thread(lambda: loop.call_soon_threadsafe(seen.append, 1), 0).join()

    loop.run(asyncio.sleep(1))

    assert seen == [1]


def test_run_coroutine_threadsafe_works(loop: SimulationLoop):
    async def answer() -> int:
        await asyncio.sleep(5)
        return 42

    async def main() -> int:
        results: list[int] = []
        done = asyncio.Event()

        def ask() -> None:
            results.append(asyncio.run_coroutine_threadsafe(answer(), loop).result(10))
            loop.call_soon_threadsafe(done.set)

        thread = threading.Thread(target=ask)
        thread.start()
        await done.wait()
        thread.join()
        return results[0]

    assert loop.run(main()) == 42
    assert loop.clock.elapsed == timedelta(seconds=5)


def test_two_loops_in_two_threads_do_not_disturb_each_other():
    barrier = threading.Barrier(2)
    digests: dict[int, list[str]] = {1: [], 2: []}

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(asyncio.sleep(number % 3))
                await asyncio.to_thread(int)

    def run(number: int) -> None:
        barrier.wait(SOON_S)
        for seed in range(1, 40):
            loop = SimulationLoop(Tape(seed), search="random")
            loop.run(main())
            digests[number].append(loop.trace_digest())

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient_s(60))

    assert len(digests[1]) == 39
    assert digests[1] == digests[2]
