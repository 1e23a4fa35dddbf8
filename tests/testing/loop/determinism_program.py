"""A program with many ways to go, run once for a seed and a search; prints what it did as digests.

Run by `test_determinism.py` in other processes, with other hash seeds and other Pythons.
"""

import asyncio
import sys
from typing import cast

from asynctasq.testing.loop import Search, SimulationLoop
from asynctasq.testing.tape import Tape


async def worker(name: str, queue: "asyncio.Queue[int]", log: list[str], tape: Tape) -> None:
    while True:
        item = await queue.get()
        try:
            await asyncio.sleep(tape.uniform_us("latency", 0, 3) / 1_000)
            log.append(f"{name}:{item}")
            if tape.chance("crash", 0.05):
                raise RuntimeError(name)
        finally:
            queue.task_done()


async def produce(queue: "asyncio.Queue[int]", count: int) -> None:
    for number in range(count):
        await queue.put(number)
        await asyncio.sleep(0)


async def supervised(name: str, queue: "asyncio.Queue[int]", log: list[str], tape: Tape) -> None:
    for attempt in range(100):
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(worker(f"{name}.{attempt}.{number}", queue, log, tape))
        except* RuntimeError as group_error:
            log.append(",".join(str(error) for error in group_error.exceptions))


async def ticker(log: list[str], condition: asyncio.Condition) -> None:
    async for number in ticks():
        async with condition:
            condition.notify_all()
        log.append(f"tick {number}")


async def ticks():
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(0.002)


async def main(log: list[str], tape: Tape) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=4)
    condition = asyncio.Condition()
    background = [asyncio.create_task(supervised(name, queue, log, tape)) for name in ("a", "b")]
    background.append(asyncio.create_task(ticker(log, condition)))
    await asyncio.gather(*(produce(queue, 8) for _ in range(3)))
    await asyncio.to_thread(log.append, "inline")
    try:
        async with asyncio.timeout(0.005):
            async with condition:
                await condition.wait_for(lambda: False)
    except TimeoutError:
        log.append("timed out")
    done, _ = await asyncio.wait([asyncio.create_task(queue.join()), *background], return_when="FIRST_COMPLETED")
    log.append(f"{len(done)} done")
    # Before 3.13 a task group loses a cancellation that meets the failure of a child: let the last failure pass.
    await asyncio.sleep(0.01)
    for task in background:
        task.cancel()
    # Iterating a set of tasks is what library code never does; here it shows that ours are ordered.
    for task in set(background):
        log.append(f"{task.get_name()} {task.done()}")


def run(seed: int, search: Search) -> tuple[str, str, list[str]]:
    """Return the digests of trace and tape, and the log."""
    tape, log = Tape(seed), list[str]()
    loop = SimulationLoop(tape, search=search, trace=True)
    loop.run(main(log, tape))
    return loop.trace_digest(), tape.digest(), log


if __name__ == "__main__":
    for given in sys.argv[2:]:
        trace, drawn, said = run(int(given), cast("Search", sys.argv[1]))
        print(given, trace, drawn, "|".join(said))
