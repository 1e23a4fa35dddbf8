"""Run an operation written as a generator, which yields what to execute and is sent the results; does no I/O itself.

The same operation so runs on a connection of ours, on the caller's, and in synchronous code.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar

__all__ = ["run_steps", "run_steps_async"]

T = TypeVar("T")
Request = TypeVar("Request")
Reply = TypeVar("Reply")


def run_steps(steps: Generator[Request, Reply, T], execute: Callable[[Request], Reply]) -> T:
    """Run the steps with a function that executes one of them; return what the generator returns."""
    try:
        request = next(steps)
        while True:
            request = steps.send(execute(request))
    except StopIteration as end:
        value: T = end.value
        return value


async def run_steps_async(steps: Generator[Request, Reply, T], execute: Callable[[Request], Awaitable[Reply]]) -> T:
    """Do `run_steps` where executing one step is awaited."""
    try:
        request = next(steps)
        while True:
            request = steps.send(await execute(request))
    except StopIteration as end:
        value: T = end.value
        return value
