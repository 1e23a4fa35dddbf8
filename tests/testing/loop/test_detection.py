"""A simulated run that cannot go on says why: deadlock, livelock, limits, and the real world refused."""

import asyncio
import contextlib
import signal

import pytest

from asynctasq.testing.errors import Deadlock, LimitExceeded, Livelock, RealWorldAccess, SimulationError
from asynctasq.testing.loop import Limits, SimulationLoop
from asynctasq.testing.tape import Tape

SEARCHES = ["fifo", "random", "pct"]


@pytest.fixture(params=SEARCHES)
def loop(request: pytest.FixtureRequest) -> SimulationLoop:
    seed = 0 if request.param == "fifo" else 5
    return SimulationLoop(Tape(seed), search=request.param, limits=Limits(stalled_steps_max=5_000))


# -- deadlock --------------------------------------------------------------------------------------


def test_a_deadlock_lists_who_awaits_what(loop: SimulationLoop):
    async def hold(first: asyncio.Lock, second: asyncio.Lock) -> None:
        async with first:
            await asyncio.sleep(1)
            async with second:
                pass

    async def main() -> None:
        one, other = asyncio.Lock(), asyncio.Lock()
        await asyncio.gather(
            asyncio.create_task(hold(one, other), name="ada"), asyncio.create_task(hold(other, one), name="bob")
        )

    with pytest.raises(Deadlock) as caught:
        loop.run(main())

    text = str(caught.value)
    lines = [line.strip() for line in text.splitlines()]
    assert "virtual time 0:00:01" in lines[0]
    assert f"seed {loop.tape.seed}" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["Task-1", "ada", "bob"]
    assert "main" in lines[1]
    assert "hold" in lines[2]
    assert "test_detection.py:" in lines[2]
    assert "Lock.acquire" in lines[2]
    assert loop.is_closed()


def test_a_deadlock_names_a_queue_an_event_a_task_and_a_future(loop: SimulationLoop):
    async def get(queue: asyncio.Queue[int]) -> None:
        await queue.get()

    async def main() -> None:
        event = asyncio.Event()
        tasks = [
            asyncio.create_task(get(asyncio.Queue()), name="on queue"),
            asyncio.create_task(event.wait(), name="on event"),
        ]
        await tasks[0]

    with pytest.raises(Deadlock) as caught:
        loop.run(main())

    text = str(caught.value)
    assert "awaits task on queue" in text
    assert "Queue.get" in text
    assert "Event.wait" in text


def test_a_deadlock_inside_an_async_generator_is_located(loop: SimulationLoop):
    async def endless():
        yield 1
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async for _ in endless():
            pass

    with pytest.raises(Deadlock, match=r"main.*test_detection|endless"):
        loop.run(main())


def test_a_deadlock_with_many_tasks_stays_readable(loop: SimulationLoop):
    async def main() -> None:
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(200)))

    with pytest.raises(Deadlock, match="and 171 more") as caught:
        loop.run(main())

    assert len(str(caught.value).splitlines()) == 32


def test_a_task_that_will_not_be_cancelled_is_a_deadlock_of_the_end(loop: SimulationLoop):
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def main() -> None:
        loop.leftover = asyncio.create_task(stubborn(), name="stubborn")  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    with pytest.raises(Deadlock, match="stubborn"):
        loop.run(main())


def test_an_infinite_sleep_is_no_timer(loop: SimulationLoop):
    with pytest.raises(Deadlock):
        loop.run(asyncio.sleep(float("inf")))


# -- livelock --------------------------------------------------------------------------------------


def test_a_livelock_shows_the_part_that_repeats():
    async def ping(event: asyncio.Event) -> None:
        while not event.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        event = asyncio.Event()
        await asyncio.gather(asyncio.create_task(ping(event), name="ada"), asyncio.create_task(ping(event), name="bob"))

    for trace in (False, True):
        loop = SimulationLoop(trace=trace, limits=Limits(stalled_steps_max=5_000))
        with pytest.raises(Livelock) as caught:
            loop.run(main())

        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert "these 2 steps repeat" in lines[0]
        assert sorted(line.split()[0] for line in lines[1:]) == ["ada", "bob"]
        assert "ping" in lines[1]


def test_a_livelock_without_repetition_counts_who_runs_most():
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(asyncio.create_task(spin(), name=f"spinner {number}") for number in range(3)))

    loop = SimulationLoop(Tape(3), search="random", limits=Limits(stalled_steps_max=5_000))
    with pytest.raises(Livelock, match=r"of the last 2048 steps\n  \d+ times spinner"):
        loop.run(main())


def test_callbacks_that_call_themselves_are_a_livelock(loop: SimulationLoop):
    def again() -> None:
        loop.call_soon(again)

    async def main() -> None:
        loop.call_soon(again)
        await asyncio.sleep(1)

    with pytest.raises(Livelock, match="again"):
        loop.run(main())


def test_a_long_burst_that_ends_is_no_livelock():
    async def main() -> None:
        for _ in range(4_900):
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        for _ in range(4_900):
            await asyncio.sleep(0)

    for trace in (False, True):
        SimulationLoop(trace=trace, limits=Limits(stalled_steps_max=5_000)).run(main())


def test_a_burst_that_ends_while_it_is_watched_is_no_livelock():
    async def main() -> None:
        for _ in range(5_500):
            await asyncio.sleep(0)
        await asyncio.sleep(1)

    for trace in (False, True):
        SimulationLoop(trace=trace, limits=Limits(stalled_steps_max=5_000)).run(main())


def test_a_task_that_yields_in_a_loop_does_not_starve_the_one_it_waits_for():
    async def main() -> None:
        done = asyncio.Event()

        async def finish() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            done.set()

        async def poll() -> None:
            while not done.is_set():
                await asyncio.sleep(0)

        await asyncio.gather(poll(), poll(), finish())

    for seed in range(200):
        SimulationLoop(Tape(seed), search="pct", limits=Limits(stalled_steps_max=5_000)).run(main())


# -- limits ----------------------------------------------------------------------------------------


def test_too_much_virtual_time_ends_the_run(loop: SimulationLoop):
    bounded = SimulationLoop(limits=Limits(virtual_s_max=3_600))

    async def main() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(LimitExceeded, match=r"1:00:00.*the next timer is at 1:01:00") as caught:
        bounded.run(main())

    assert "main" in str(caught.value)
    assert bounded.clock.elapsed.total_seconds() == 3_600
    loop.close()


def test_too_many_steps_end_the_run(loop: SimulationLoop):
    bounded = SimulationLoop(limits=Limits(steps_max=1_000))

    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(LimitExceeded, match="1000 steps"):
        bounded.run(main())
    loop.close()


def test_every_run_of_a_loop_has_the_whole_budget_of_steps():
    loop = SimulationLoop(limits=Limits(steps_max=1_000))

    async def main() -> None:
        for _ in range(250):
            await asyncio.sleep(1)

    for _ in range(5):
        loop.run_until_complete(main())

    loop.close()
    assert loop.steps > 2_000


@pytest.mark.parametrize("delay_s", [1e14, 1e300, 1.7e308])
def test_a_delay_beyond_all_dates_is_reported(loop: SimulationLoop, delay_s: float):
    with pytest.raises(LimitExceeded, match=r"the next timer is at \S+ s: allowed are 36500 days"):
        loop.run(asyncio.sleep(delay_s))


def test_time_without_limit_ends_somewhere_all_the_same():
    loop = SimulationLoop(Tape(5), search="random", limits=Limits(virtual_s_max=float("inf")))

    with pytest.raises(LimitExceeded, match=r"the next timer is at 1e\+300 s: allowed are inf s"):
        loop.run(asyncio.sleep(1e300))


def test_a_delay_that_is_no_number_is_refused(loop: SimulationLoop):
    async def main() -> None:
        for set_timer in (loop.call_later, loop.call_at):
            with pytest.raises(ValueError, match="Invalid delay: NaN"):
                set_timer(float("nan"), print)
        with pytest.raises(ValueError, match="Invalid delay: NaN"):
            await asyncio.sleep(float("nan"))

    loop.run(main())


def test_an_instant_before_all_time_is_now(loop: SimulationLoop):
    async def main() -> list[int]:
        seen: list[int] = []
        loop.call_later(float("-inf"), seen.append, 1)
        loop.call_at(-1e308, seen.append, 2)
        await asyncio.sleep(0.001)
        return seen

    assert loop.run(main()) == [1, 2]


class Unprintable(asyncio.Event):
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_a_report_survives_what_cannot_be_printed(loop: SimulationLoop):
    with pytest.raises(Deadlock, match=r"Unprintable\.wait of <Unprintable whose repr\(\) fails: RuntimeError>"):
        loop.run(Unprintable().wait())


def test_an_error_of_the_loops_own_ends_the_run():
    class Broken(SimulationLoop):
        def _next_timer(self):
            raise ZeroDivisionError

    with pytest.raises(SimulationError, match="itself failed: ZeroDivisionError"):
        Broken().run(asyncio.sleep(1))


# -- the real world --------------------------------------------------------------------------------


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _serve() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def _spawn() -> None:
    await asyncio.create_subprocess_exec("true")


async def _handle_signals() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)


async def _resolve() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)


@pytest.mark.parametrize(
    ("use", "advice"),
    [
        (_connect, "create_connection.*replace the client by a fake"),
        (_serve, "create_server.*replace the client by a fake"),
        (_spawn, "subprocess_exec.*replace the command by a fake"),
        (_handle_signals, "add_signal_handler.*call what the handler would call"),
        (_resolve, "getaddrinfo for 'localhost'.*replace the client by a fake"),
    ],
)
def test_the_real_world_is_refused_with_advice(loop: SimulationLoop, use, advice: str):
    with pytest.raises(RealWorldAccess, match=advice):
        loop.run(use())


def test_taking_off_what_could_not_be_put_on_is_harmless(loop: SimulationLoop):
    assert loop.remove_signal_handler(signal.SIGTERM) is False
    assert loop.remove_reader(1) is False
    assert loop.remove_writer(1) is False
    loop.close()


def test_only_a_traced_loop_has_a_digest():
    loop = SimulationLoop()

    with pytest.raises(ValueError, match="trace=True"):
        loop.trace_digest()

    loop.close()
