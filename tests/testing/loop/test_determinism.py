"""The same seed gives the same run, byte for byte: again, in other processes, and on other Pythons."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.testing.loop import Search, SimulationLoop
from asynctasq.testing.tape import Tape
from tests.patience import patient_s
from tests.testing.loop import determinism_program

PROGRAM = Path(determinism_program.__file__)
ROOT = PROGRAM.parents[3]
SEARCHES: list[Search] = ["fifo", "random", "pct", "mix"]
SEEDS = [0, *range(1, 26)]


def expected(search: Search) -> str:
    lines = []
    for seed in SEEDS:
        trace, drawn, said = determinism_program.run(seed, search)
        lines.append(f"{seed} {trace} {drawn} {'|'.join(said)}")
    return "\n".join(lines)


def in_another_process(search: Search, hash_seed: str, python: str = sys.executable) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [python, str(PROGRAM), search, *map(str, SEEDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=patient_s(120))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("search", SEARCHES)
def test_a_second_run_is_the_same(search: Search):
    assert expected(search) == expected(search)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_other_processes_and_hash_seeds_run_the_same(search: Search, hash_seed: str):
    assert in_another_process(search, hash_seed) == expected(search)


def other_pythons() -> list[str]:
    """Return interpreters of other versions, named in ASYNCTASQ_PYTHONS or installed by pyenv."""
    if named := os.environ.get("ASYNCTASQ_PYTHONS"):
        return named.split(os.pathsep)
    found: dict[str, str] = {}
    for path in sorted((Path.home() / ".pyenv/versions").glob("3.1[1-3].*/bin/python")):
        version = ".".join(path.parents[1].name.split(".")[:2])
        if version != f"{sys.version_info[0]}.{sys.version_info[1]}":
            found[version] = str(path)
    return list(found.values())


@pytest.mark.skipif(not other_pythons(), reason="no other Python here; name some in ASYNCTASQ_PYTHONS")
@pytest.mark.parametrize("search", SEARCHES)
def test_other_pythons_run_the_same(search: Search):
    for python in other_pythons():
        assert in_another_process(search, "7", python) == expected(search), python


def test_seeds_differ():
    digests = {determinism_program.run(seed, "random")[0] for seed in SEEDS}

    assert len(digests) == len(SEEDS)


@pytest.mark.parametrize("search", ["random", "pct", "mix"])
def test_seed_zero_is_first_come_first_served(search: Search):
    trace, _, said = determinism_program.run(0, search)

    assert (trace, said) == (determinism_program.run(0, "fifo")[0], determinism_program.run(0, "fifo")[2])


def test_first_come_first_served_is_asyncios_own_order():
    async def main() -> list[str]:
        log: list[str] = []
        lock, event = asyncio.Lock(), asyncio.Event()

        async def work(name: str) -> None:
            for step in range(3):
                async with lock:
                    log.append(f"{name}{step}")
                    await asyncio.sleep(0)
                log.append(f"{name}.")
            event.set()

        async def watch() -> None:
            await event.wait()
            log.append("event")

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(work(name)).add_done_callback(lambda _: log.append("done"))
                asyncio.get_running_loop().call_soon(log.append, "callback")
            group.create_task(watch())
        return log

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        theirs = runner.run(main())

    assert SimulationLoop().run(main()) == theirs
    assert SimulationLoop(trace=True).run(main()) == theirs
    assert SimulationLoop(Tape(0), search="random").run(main()) == theirs


def test_a_recorded_run_replays_strictly():
    for search in SEARCHES:
        for seed in range(1, 6):
            recorded = Tape(seed)
            log: list[str] = []
            loop = SimulationLoop(recorded, search=search, trace=True)
            loop.run(determinism_program.main(log, recorded))

            tape = Tape.replay(recorded.entries, strict=True, seed=seed)
            again: list[str] = []
            replayed = SimulationLoop(tape, search=search, trace=True)
            replayed.run(determinism_program.main(again, tape))
            tape.finish()

            assert again == log
            assert replayed.trace_digest() == loop.trace_digest()
