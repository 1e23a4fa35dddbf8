"""The virtual clock against a plain model: exact microseconds, forward only."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from asynctasq.testing.clock import VirtualClock
from asynctasq.testing.loop import SimulationLoop

MICROSECOND = timedelta(microseconds=1)
steps = st.lists(st.integers(0, 10**13), max_size=20)


@given(steps)
def test_steps_add_up_exactly(steps_us: list[int]):
    clock = VirtualClock()

    for step_us in steps_us:
        clock.advance(MICROSECOND * step_us)

    assert clock.elapsed_us == sum(steps_us)
    assert round((clock.now() - clock.epoch.timestamp()) * 10**6) == round(clock.monotonic() * 10**6)


@given(steps, st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))
def test_now_as_a_float_still_tells_microseconds_in_this_century(steps_us: list[int], epoch: datetime):
    epoch = epoch.replace(tzinfo=UTC)
    clock = VirtualClock(epoch)

    for step_us in steps_us[:5]:
        clock.advance(MICROSECOND * step_us)

    assert datetime.fromtimestamp(0, UTC) + timedelta(microseconds=round(clock.now() * 10**6)) == clock.utc()


@given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)))
def test_jumping_to_an_instant_arrives_there(when: datetime):
    when = when.replace(tzinfo=UTC)
    clock = VirtualClock()

    clock.jump_to(when)

    assert clock.utc() == when


@given(st.lists(st.integers(0, 4 * 10**12), min_size=1, max_size=20))
def test_timers_fire_in_order_at_their_very_microsecond(delays_us: list[int]):
    loop = SimulationLoop()
    fired: list[tuple[int, int]] = []

    async def main() -> None:
        for number, delay_us in enumerate(delays_us):
            loop.call_later(delay_us / 10**6, lambda number=number: fired.append((loop.clock.elapsed_us, number)))
        last = loop.create_future()
        loop.call_later(max(delays_us) / 10**6, last.set_result, None)
        await last

    loop.run(main())

    assert fired == sorted((delay_us, number) for number, delay_us in enumerate(delays_us))


@given(st.integers(0, 3 * 10**15), st.integers(1, 10**12))
def test_a_deadline_made_by_adding_to_the_loops_time_is_never_early_and_never_late(start_us: int, delay_us: int):
    clock = VirtualClock()
    clock.move_to_us(start_us)
    loop = SimulationLoop(clock=clock)

    async def main() -> None:
        reached = loop.create_future()
        loop.call_at(loop.time() + delay_us / 10**6, reached.set_result, None)
        await reached

    loop.run(main())

    assert clock.elapsed_us == start_us + delay_us
