"""The wall clock of the code under test follows the virtual clock, through freezegun."""

import asyncio
import builtins
import datetime as dt
import time
from datetime import UTC, timedelta

import pytest

from asynctasq.errors import MissingExtra
from asynctasq.testing.clock import EPOCH, VirtualClock, frozen_to
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.tape import Tape


def wall() -> dt.datetime:
    return dt.datetime.now(UTC)


def test_now_and_time_follow_the_loop_from_jump_to_jump():
    loop = SimulationLoop()

    async def main() -> None:
        assert wall() == EPOCH
        for hours in range(1, 5):
            await asyncio.sleep(3_600.25)
            assert wall() == EPOCH + timedelta(seconds=3_600.25) * hours
            assert time.time() == loop.clock.now()

    with frozen_to(loop.clock):
        loop.run(main())


def test_a_clock_that_has_moved_before_is_shown_as_it_is():
    clock = VirtualClock()
    clock.advance(days=3)

    with frozen_to(clock):
        assert wall() == EPOCH + timedelta(days=3)
        clock.advance(seconds=1)
        assert wall() == EPOCH + timedelta(days=3, seconds=1)


def test_real_time_is_back_afterwards_even_after_an_error():
    clock = VirtualClock()

    with pytest.raises(ValueError, match="mine"), frozen_to(clock):
        raise ValueError("mine")
    clock.advance(days=1)

    assert wall().year > 2020
    assert dt.datetime.__name__ == "datetime"


def test_the_trace_is_the_same_frozen_or_not():
    async def main() -> None:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(asyncio.sleep(number))

    def digest() -> str:
        loop = SimulationLoop(Tape(3), search="random")
        loop.run(main())
        return loop.trace_digest()

    plain = digest()
    with frozen_to(VirtualClock()):
        assert digest() == plain


async def test_an_ordinary_loop_keeps_real_time_meanwhile():
    clock = VirtualClock()

    with frozen_to(clock):
        async with asyncio.timeout(10):
            await asyncio.sleep(0.01)
        assert wall() == EPOCH


def test_a_missing_freezegun_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    real_import = builtins.__import__

    def importing(name: str, *args, **kwargs):
        if name == "freezegun":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)

    with pytest.raises(MissingExtra, match=r"asynctasq\[testing\]"), frozen_to(VirtualClock()):
        pass
