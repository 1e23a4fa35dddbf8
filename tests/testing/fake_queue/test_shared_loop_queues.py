"""A FakeQueue on the test's own loop: faults, several of them, and the rest of what a queue does."""

import asyncio
import contextvars
from typing import Any

import pytest

from asynctasq import AsyncTask, Retry, task
from asynctasq.testing import Crash, ExpireLease, FakeQueue, Faults, LoseReply, Stop
from tests.testing.fake_queue.shared_loop import Runs, code, in_the_world, run, seen

BOTH_LOOPS = True
pytestmark = pytest.mark.usefixtures("nothing_is_left")


# -- faults ----------------------------------------------------------------------------------------


class Works(AsyncTask[None]):
    max_attempts = 3

    async def execute(self) -> None:
        await in_the_world()
        await asyncio.sleep(1)
        seen.append(self.attempt)


@pytest.mark.parametrize(
    "fault",
    [Crash(at="before_settle"), LoseReply(at="settle"), Stop(at="mid_attempt"), ExpireLease(at="mid_attempt")],
    ids=str,
)
async def test_faults_by_hand_happen_on_a_real_loop(fault: Any) -> None:
    async with FakeQueue(faults=[fault]) as queue:
        await Works().dispatch()
        await queue.run_until_idle()

        queue.assert_completed(Works)
        assert sum(queue.faults.fired.values()) == 1


async def test_after_a_crash_the_task_runs_again_when_its_lease_is_over() -> None:
    async with FakeQueue(faults=[Crash(at="before_settle")], lease_s=30) as queue:
        task_id = await Works().dispatch()
        await queue.run_until_idle()

        assert queue.history(task_id).attempts[1].started_at_s >= 30
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("options", "name"),
    [({"seed": 5}, "seed="), ({"search": "random"}, "search="), ({"faults": Faults()}, r"faults=Faults\(...\)")],
    ids=["seed", "search", "faults"],
)
async def test_what_needs_a_simulation_says_so(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.* needs the loop of a simulation.*@simulate"):
        async with FakeQueue(**options):
            pass


# -- several of them -------------------------------------------------------------------------------


async def test_two_one_after_the_other_in_one_loop_have_clocks_of_their_own() -> None:
    assert await run(lambda: asyncio.sleep(100)) == 100
    assert await run(lambda: asyncio.sleep(7)) == 7


async def test_two_at_once_in_two_tasks_do_not_see_each_other() -> None:
    @task
    async def sleep(seconds: int) -> None:
        await asyncio.sleep(seconds)
        await in_the_world()

    async def one(seconds: int) -> float:
        async with FakeQueue() as queue:
            await sleep(seconds).dispatch()
            await queue.run_until_idle()
            queue.assert_completed(sleep, times=1)
            return queue.clock.elapsed.total_seconds()

    assert await asyncio.gather(one(10), one(3600)) == [10, 3600]


async def test_a_queue_of_a_plain_with_statement_runs_on_the_loop_that_awaits_it() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def note() -> None:
        loops.append(asyncio.get_running_loop())

    code.append(note)
    with FakeQueue() as queue:
        await Runs().dispatch()
        await queue.run_until_idle()

    assert loops == [asyncio.get_running_loop()]


async def test_the_fixture_runs_on_the_tests_loop_too(fake_queue: FakeQueue) -> None:
    async def note() -> object:
        return id(asyncio.get_running_loop())

    code.append(note)
    await Runs().dispatch()
    await fake_queue.run_until_idle()
    fake_queue.__exit__(None, None, None)  # before this module looks at what is left

    assert seen == [id(asyncio.get_running_loop())]


async def test_a_user_who_has_a_task_factory_of_his_own_keeps_it() -> None:
    loop, made = asyncio.get_running_loop(), []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    async def child() -> None:
        await asyncio.sleep(60)

    loop.set_task_factory(factory)
    try:
        assert await run(lambda: asyncio.create_task(child())) == 60
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)
    assert any("child" in name for name in made)


# -- the rest of what a queue does -----------------------------------------------------------------


async def test_snoozes_and_retries_by_hand_come_at_their_virtual_times() -> None:
    class Again(AsyncTask[None]):
        async def execute(self) -> None:
            await in_the_world()
            if self.attempt < 3:
                raise Retry(after=self.attempt * 86_400)

    async with FakeQueue() as queue:
        await Again().dispatch()
        await queue.run_until_idle()

        queue.assert_retried_at([86_400, 3 * 86_400])
        queue.assert_completed(Again)


async def test_advance_stops_at_its_instant_though_a_task_is_in_the_middle_of_a_sleep() -> None:
    code.append(lambda: asyncio.sleep(100, "slept"))
    async with FakeQueue() as queue:
        await Runs().dispatch()

        await queue.advance(seconds=40)
        assert (seen, queue.clock.elapsed.total_seconds()) == ([], 40)

        await queue.advance(seconds=60)
        assert (seen, queue.clock.elapsed.total_seconds()) == (["slept"], 100)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_context_variables_of_the_test_are_seen() -> None:
    async def read() -> str:
        return variable.get()

    variable.set("of the test")
    await run(read)

    assert seen == ["of the test"]
