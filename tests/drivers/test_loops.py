"""One resource per event loop."""

import asyncio

import pytest

from asynctasq.drivers.loops import PerLoop


class Resource:
    def __init__(self) -> None:
        self.closed = False


def make(
    opened: list[Resource], gate: asyncio.Event | None = None, abandoned: list[Resource] | None = None
) -> PerLoop[Resource]:
    async def open_() -> Resource:
        if gate is not None:
            await gate.wait()
        opened.append(Resource())
        return opened[-1]

    async def close(resource: Resource) -> None:
        resource.closed = True

    return PerLoop(open_, close, None if abandoned is None else abandoned.append)


async def test_concurrent_first_calls_open_once() -> None:
    opened: list[Resource] = []
    per_loop = make(opened)

    first, second = await asyncio.gather(per_loop.get(), per_loop.get())

    assert first is second
    assert len(opened) == 1


def test_each_loop_has_its_own() -> None:
    opened: list[Resource] = []
    per_loop = make(opened)

    first, second = asyncio.run(per_loop.get()), asyncio.run(per_loop.get())

    assert first is not second


def test_what_a_closed_loop_left_is_abandoned_at_the_next_opening() -> None:
    opened: list[Resource] = []
    abandoned: list[Resource] = []
    per_loop = make(opened, abandoned=abandoned)
    kept = asyncio.new_event_loop()
    kept.run_until_complete(per_loop.get())
    kept.close()

    asyncio.run(per_loop.get())

    assert abandoned == opened[:1]


async def test_close_closes_and_a_later_call_opens_again() -> None:
    opened: list[Resource] = []
    per_loop = make(opened)
    await per_loop.close()
    await per_loop.get()

    await per_loop.close()

    assert [resource.closed for resource in opened] == [True]
    assert per_loop.get_if_open() is None
    await per_loop.get()
    assert len(opened) == 2


async def test_a_call_that_waited_while_it_was_closed_is_closed_by_the_next_close() -> None:
    opened: list[Resource] = []
    gate = asyncio.Event()
    per_loop = make(opened, gate)
    first, second = asyncio.ensure_future(per_loop.get()), asyncio.ensure_future(per_loop.get())
    await asyncio.sleep(0)
    first.cancel()
    closing = asyncio.ensure_future(per_loop.close())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait([first, second, closing])

    await per_loop.close()

    assert all(resource.closed for resource in opened)


async def test_a_failed_opening_is_tried_again() -> None:
    calls: list[int] = []

    async def open_() -> Resource:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("refused")
        return Resource()

    async def close(resource: Resource) -> None:
        resource.closed = True

    per_loop = PerLoop(open_, close)

    with pytest.raises(OSError, match="refused"):
        await per_loop.get()
    await per_loop.get()

    assert len(calls) == 2
