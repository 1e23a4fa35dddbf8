"""`@simulate`: what it runs, what it finds, how it tells, and that it tells the same everywhere."""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asynctasq.drivers.memory_driver.driver import MemoryRow
from asynctasq.kernel.messages import Lease
from asynctasq.tasks import AsyncTask
from asynctasq.testing import Crash, Duplicate, Faults, Simulation, SimulationFailed, simulate
from asynctasq.testing.engine.store import FakeStore
from asynctasq.testing.errors import TapeMismatch
from asynctasq.testing.simulation.run import RunOptions, run_program
from asynctasq.testing.simulation.settings import Settings, set_settings
from asynctasq.testing.simulation.simulation import DEFAULT_FAULTS, Explorer, explore
from asynctasq.testing.tape import Tape

SENT: Counter[int] = Counter()
BOOKED: set[int] = set()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    set_settings(Settings())


class Charge(AsyncTask[None]):
    """Charges twice when it dies between the charge and the end of the attempt."""

    n: int
    retry_delay = 5

    async def execute(self) -> None:
        SENT[self.n] += 1
        await asyncio.sleep(1)


class Book(AsyncTask[None]):
    """Idempotent: whatever happens, one booking."""

    n: int
    retry_delay = 5

    async def execute(self) -> None:
        await asyncio.sleep(1)
        BOOKED.add(self.n)


async def booking(sim: Simulation) -> None:
    BOOKED.clear()
    for n in range(3):
        await Book(n=n).dispatch()
    await sim.settle()
    assert {0, 1, 2} == BOOKED


async def charging(sim: Simulation) -> None:
    SENT.clear()
    for n in range(3):
        await Charge(n=n).dispatch()
    await sim.settle()
    assert set(SENT.values()) == {1}, SENT


def failure(program: Callable[..., Any], **choices: Any) -> SimulationFailed:
    with pytest.raises(SimulationFailed) as caught:
        simulate(**{"runs": 200, **choices})(program)()
    return caught.value


# -- running ---------------------------------------------------------------------------------------


@simulate(runs=150)
async def test_a_task_that_is_idempotent_survives_everything(sim: Simulation) -> None:
    await booking(sim)


class TestInAClass:
    @simulate(runs=5, faults=())
    async def test_methods_and_fixtures_work(self, sim: Simulation, tmp_path: Path) -> None:
        assert isinstance(self, TestInAClass)
        assert tmp_path.exists()
        assert sim.faults.fired == {}


def test_each_run_has_a_seed_of_its_own_and_the_first_is_0() -> None:
    seeds: list[int] = []

    async def program(sim: Simulation) -> None:
        seeds.append(sim.seed)

    simulate(runs=4, faults=())(program)()

    assert seeds == [0, 1, 2, 3]


def test_workers_run_from_the_beginning() -> None:
    async def program(sim: Simulation) -> None:
        await asyncio.sleep(1)  # they wait for work by now
        await Book(n=1).dispatch()
        await asyncio.sleep(1.5)
        assert sim.queue.timeline().count("complete") == 1

    simulate(runs=10, faults=())(program)()


def test_the_fixture_runs_a_program_too(sim: Callable[..., None]) -> None:
    with pytest.raises(SimulationFailed):
        sim(charging, runs=200)


def test_only_a_coroutine_function_with_a_sim_can_be_simulated() -> None:
    def plain(sim: Simulation) -> None: ...

    async def without() -> None: ...

    for function in (plain, without):
        with pytest.raises(TypeError, match="parameter `sim`"):
            simulate(function)  # type: ignore[type-var]


def test_chance_of_the_program_is_chance_of_the_run() -> None:
    def drawn() -> list[float]:
        numbers: list[float] = []

        async def program(sim: Simulation) -> None:
            numbers.append(sim.rng.random())

        simulate(runs=5, faults=())(program)()
        return numbers

    assert drawn() == drawn()
    assert len(set(drawn())) == 5


# -- promises --------------------------------------------------------------------------------------


def test_always_stops_the_run_at_the_moment_it_breaks() -> None:
    async def program(sim: Simulation) -> None:
        sim.always("few in the store", lambda: len(sim.queue.dispatched()) < 2)
        await Book(n=1).dispatch()
        await Book(n=2).dispatch()
        await asyncio.sleep(1e6)

    failed = failure(program, faults=())

    assert "always 'few in the store': no longer so at 0:00:00" in str(failed)
    assert "1000000" not in str(failed)


def test_eventually_must_come_true_in_time() -> None:
    async def program(sim: Simulation) -> None:
        BOOKED.clear()
        await Book(n=1).dispatch()
        sim.eventually("booked", lambda: 1 in BOOKED, within=0.5)
        await sim.settle()

    assert "eventually 'booked': not so within 0.5 virtual seconds" in str(failure(program, faults=()))


def test_eventually_must_have_come_true_at_the_end() -> None:
    async def program(sim: Simulation) -> None:
        sim.eventually("never", lambda: False, within=60)

    assert "had never been so" in str(failure(program, faults=()))


def test_eventually_is_content_with_once() -> None:
    async def program(sim: Simulation) -> None:
        BOOKED.clear()
        await Book(n=1).dispatch()
        sim.eventually("booked", lambda: 1 in BOOKED, within=1.5)
        await sim.settle()
        BOOKED.clear()
        await asyncio.sleep(10)

    simulate(runs=3, faults=())(program)()


def test_a_predicate_that_raises_fails_the_run_not_the_worker() -> None:
    async def program(sim: Simulation) -> None:
        sim.always("broken", lambda: bool(1 / 0))
        await sim.settle()

    failed = failure(program, faults=())

    assert isinstance(failed.__cause__, ZeroDivisionError)
    assert "raised by the predicate 'broken'" in str(failed)


def test_sometimes_fails_when_no_run_gets_there() -> None:
    async def program(sim: Simulation) -> None:
        sim.sometimes("often", sim.seed > 2)
        sim.sometimes("seed 99", sim.seed == 99)

    with pytest.raises(AssertionError, match=r"in 5 runs these never happened(.|\n)*sometimes 'seed 99'") as caught:
        simulate(runs=5, faults=())(program)()

    assert "often" not in str(caught.value)


def test_a_kind_of_fault_that_never_fires_fails() -> None:
    with pytest.raises(AssertionError, match="a fault of kind crash"):
        simulate(runs=5, faults=Faults(crash=1e-9))(booking)()

    simulate(runs=5, faults=Faults(crash=1e-9, must_fire=False))(booking)()


def test_faults_that_nobody_asked_for_by_name_need_not_all_strike() -> None:
    simulate(runs=10)(booking)()


def test_a_fault_by_hand_strikes_in_every_run() -> None:
    crashed: list[int] = []

    async def program(sim: Simulation) -> None:
        await booking(sim)
        crashed.append(sim.faults.fired["crash"])

    simulate(runs=5, faults=[Crash(at="before_settle")], search="fifo")(program)()

    assert crashed == [0, 0, 0, 0, 0] or crashed == [1] * 5


@simulate(runs=20, faults=())
async def test_settle_waits_for_all_that_happens_at_its_last_instant(sim: Simulation) -> None:
    BOOKED.clear()

    async def dispatch_late() -> None:
        await asyncio.sleep(11)  # when the first has ended
        for _ in range(20):
            await asyncio.sleep(0)
        await Book(n=2).dispatch()

    late = asyncio.create_task(dispatch_late())
    await Book(n=1).delay(10).dispatch()
    await sim.settle()

    assert late.done()
    assert {1, 2} == BOOKED


@simulate(runs=20, faults=())
async def test_two_may_wait_for_quiet_at_once(sim: Simulation) -> None:
    BOOKED.clear()
    await Book(n=1).delay(10).dispatch()

    await asyncio.gather(sim.settle(), sim.settle())

    assert {1} == BOOKED


@simulate(runs=20, faults=())
async def test_quiet_was_there_for_all_who_waited_though_one_of_them_goes_on(sim: Simulation) -> None:
    BOOKED.clear()

    async def settle_and_go_on() -> None:
        await sim.settle()
        await Book(n=2).dispatch()

    await Book(n=1).dispatch()
    await asyncio.gather(settle_and_go_on(), sim.settle())
    await sim.settle()

    assert {1, 2} == BOOKED


def test_what_is_left_at_the_end_of_settle_is_a_failure() -> None:
    class Restless(AsyncTask[None]):
        max_attempts = 1_000_000

        async def execute(self) -> None:
            raise ValueError

    async def program(sim: Simulation) -> None:
        await Restless().dispatch()
        await sim.settle(within=3600)

    assert "not idle after 3600 virtual seconds" in str(failure(program, faults=()))


# -- finding ---------------------------------------------------------------------------------------


def test_a_task_that_is_not_idempotent_is_found_shrunk_and_told() -> None:
    failed = failure(charging)
    text = str(failed)

    left = [entry for entry in failed.result.entries if entry[2]]
    assert len(left) <= 3
    assert f"shrunk to {len(left)} in" in text
    assert "simulate: seed" in text
    assert "started tests.testing.simulation.test_simulation:Charge" in text
    assert "Counter" in text
    assert isinstance(failed.__cause__, AssertionError)


def test_a_failure_replays_from_its_line() -> None:
    failed = failure(charging)
    line = str(failed).splitlines()[-1]
    node_id, _, tape = line.partition("pytest '")[2].partition("' --simulation-replay ")

    assert node_id.endswith("test_simulation.py::test_a_failure_replays_from_its_line")
    set_settings(Settings(replay=tape))
    with pytest.raises(SimulationFailed, match="the replay of") as caught:
        simulate(charging)()
    assert caught.value.result.timeline == failed.result.timeline


@pytest.mark.parametrize("label", ["schedule", r"w\d+ before_settle"])
def test_a_tape_that_no_longer_fits_is_told_of_whoever_draws_first(label: str) -> None:
    failure(charging, search="random")
    [path] = Path(".asynctasq/tapes").iterdir()
    tape = json.loads(path.read_text())
    named = [tape["labels"][index] for index, _, _ in tape["entries"]]
    first = next(n for n, name in enumerate(named) if re.match(label, name))
    tape["entries"][first][1] += 1
    path.write_text(json.dumps(tape))

    set_settings(Settings(replay=str(path)))
    with pytest.raises(SimulationFailed, match=f"at decision {first + 1} of") as caught:
        simulate(search="random")(charging)()

    assert "ending the unfinished tasks failed" not in str(caught.value)
    assert isinstance(caught.value.__cause__, TapeMismatch)
    del caught
    gc.collect()  # a coroutine that was not closed would be reported now


def test_a_seed_can_be_run_alone() -> None:
    seed = int(str(failure(charging)).split()[2])

    set_settings(Settings(seed=seed))
    assert f"seed {seed} fails (run 1 of 1)" in str(failure(charging))
    set_settings(Settings(runs=1))
    simulate(charging)()


def test_a_broken_store_breaks_an_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(self: FakeStore, lease: Lease) -> MemoryRow | None:
        row = self._rows.get(lease.message_id)
        return row if row is not None and row.leased else None  # whoever holds which token

    monkeypatch.setattr(FakeStore, "_held", held)

    assert "a stale token never wins" in str(failure(booking, runs=400))


def test_invariants_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynctasq.testing.simulation.run.check", lambda *args, **kwargs: [1 / 0])

    simulate(runs=2, faults=(), invariants=False)(booking)()


def test_an_error_that_nobody_awaits_fails_the_run() -> None:
    async def program(sim: Simulation) -> None:
        async def broken() -> None:
            raise KeyError("lost")

        asyncio.get_running_loop().create_task(broken())
        await asyncio.sleep(1)

    assert "errors that nobody awaited" in str(failure(program, faults=()))


# -- determinism -----------------------------------------------------------------------------------


def digests() -> list[str]:
    explorer = Explorer(booking, RunOptions(), name="booking")
    options = RunOptions(faults=DEFAULT_FAULTS)
    return [run_program(explorer.program(), options, Tape(seed), trace=True).digest() for seed in range(25)]


def test_the_same_seed_is_the_same_run_step_by_step() -> None:
    first = digests()

    assert first == digests()
    assert len(set(first)) == 25


DJANGO = "import django.conf; django.conf.settings.configure(); django.setup(); "


@pytest.mark.parametrize(("hash_seed", "before"), [("0", ""), ("1", ""), ("4711", DJANGO)], ids=["0", "1", "django"])
def test_other_processes_and_hash_seeds_run_the_same(hash_seed: str, before: str) -> None:
    root = Path(__file__).parents[3]
    program = f"{before}from tests.testing.simulation.test_simulation import digests; print(*digests())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == digests()


# -- many runs at once -----------------------------------------------------------------------------


def test_exploring_from_code_counts_what_was_seen() -> None:
    seen = explore(booking, runs=60, options=RunOptions(faults=[Duplicate(nth=2), DEFAULT_FAULTS]))

    assert seen.lifecycles == 180
    assert seen.fired["crash"] > 5
