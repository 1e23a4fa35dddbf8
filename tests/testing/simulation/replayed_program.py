"""A simulation that fails, whose tape is kept; `python -m tests.testing.simulation.replayed_program` writes it anew.

Do that when the worker's steps have changed, so that the tape no longer fits, and look at the story it tells.
"""

import asyncio
from pathlib import Path

from asynctasq.tasks import AsyncTask
from asynctasq.testing.simulation import Simulation, SimulationFailed
from asynctasq.testing.simulation.run import RunOptions
from asynctasq.testing.simulation.simulation import DEFAULT_FAULTS, Explorer, explore

TAPE = Path(__file__).parent / "tapes" / "charged_twice.json"
STORY = TAPE.with_suffix(".txt")
OPTIONS = RunOptions(faults=DEFAULT_FAULTS)
CHARGED: list[int] = []


class Charge(AsyncTask[None]):
    """Is not idempotent."""

    retry_delay = 5

    def __init__(self, order: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.order = order

    async def execute(self) -> None:
        CHARGED.append(self.order)
        await asyncio.sleep(1)


async def charged_twice(sim: Simulation) -> None:
    """Fail as soon as an order is charged twice."""
    CHARGED.clear()
    for order in range(3):
        await Charge(order).dispatch()
    await sim.settle()
    assert sorted(CHARGED) == [0, 1, 2]


def story(failed: SimulationFailed) -> str:
    """Return what the failure says of decisions and events: all but the interpreter's own traceback."""
    decisions = [f"{label}: {value} of {n}" for label, n, value in failed.result.entries]
    return "\n".join([*decisions, failed.result.timeline])


def replayed(path: Path) -> SimulationFailed:
    """Return how the tape's run fails."""
    explorer = Explorer(charged_twice, OPTIONS, name=charged_twice.__name__)
    try:
        explorer.replay(explorer.program(), str(path))
    except SimulationFailed as failed:
        return failed
    raise AssertionError(f"the replay of {path} did not fail")


def main() -> None:
    """Find the first seed that fails, shrink it, keep its tape and its story."""
    try:
        explore(charged_twice, runs=500, first_seed=1, options=OPTIONS)
    except SimulationFailed as failed:
        [line] = [line for line in str(failed).splitlines() if line.startswith("to see it again")]
        Path(line.partition("replay='")[2].rstrip("'")).replace(TAPE)
        STORY.write_text(story(replayed(TAPE)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
