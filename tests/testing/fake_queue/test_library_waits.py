"""How a task in a FakeQueue waits for a library that is told of its socket by an event."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.loop import shared

BOTH_LOOPS = True

LIBRARY = """
import asyncio

async def readable(fd, wait):
    loop, happened = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, happened.set)
    try:
        await wait(happened)
    finally:
        loop.remove_reader(fd)

async def by_event(happened):
    await happened.wait()

async def by_wait_for(happened):
    await asyncio.wait_for(happened.wait(), 60)

async def by_short_waits(happened):
    while not happened.is_set():
        try:
            await asyncio.wait_for(happened.wait(), 0.01)
        except TimeoutError:
            pass

async def by_task(happened):
    await asyncio.create_task(happened.wait())
"""
installed: dict[str, Any] = {}
# By its file it is an installed package.
exec(compile(LIBRARY, "/opt/site-packages/library/waiting.py", "exec"), installed)
code: list[Callable[[], Awaitable[Any]]] = []


class Asks(AsyncTask[None]):
    timeout = None
    max_attempts = 1

    async def execute(self) -> None:
        await code[-1]()


@pytest.mark.parametrize("how", ["by_event", "by_wait_for", "by_short_waits", "by_task"])
async def test_a_library_that_listens_to_its_socket_is_waited_for_in_real_time(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "GRACE_S", 0.03)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        code.append(lambda: installed["readable"](ours.fileno(), installed[how]))
        asyncio.get_running_loop().call_later(0.3, theirs.send, b"answer")
        async with FakeQueue() as queue:
            await Asks().dispatch()
            await queue.drain()

            queue.assert_completed(Asks)
            assert queue.clock.elapsed.total_seconds() == 0


@pytest.mark.parametrize("how", ["by_event", "by_wait_for", "by_task"])
async def test_a_library_that_waits_for_an_event_gets_a_while_of_real_time(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "GRACE_S", 5)
    happened = asyncio.Event()
    code.append(lambda: installed[how](happened))
    asyncio.get_running_loop().call_later(0.1, happened.set)
    async with FakeQueue() as queue:
        await Asks().dispatch()
        await queue.drain()

        queue.assert_completed(Asks)
        assert queue.clock.elapsed.total_seconds() == 0
