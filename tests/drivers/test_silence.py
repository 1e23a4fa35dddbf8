"""How long calls may go unanswered, and which sockets the operating system watches."""

import asyncio
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from asynctasq.drivers.silence import RAISED_S, SILENCE_S, AnswerLimit, is_brief, keep_alive, keepalive_options
from asynctasq.kernel.messages import Message

LONGEST_S = st.floats(min_value=0.01, max_value=600)


@given(longest_s=LONGEST_S, late=st.integers(min_value=0, max_value=12), now=st.floats(min_value=0, max_value=1e6))
def test_a_limit_doubles_with_each_late_call_up_to_the_longest(longest_s: float, late: int, now: float) -> None:
    limit = AnswerLimit(longest_s)

    for _ in range(late):
        limit.note_late(limit.seconds(now, brief=True), now)

    assert limit.seconds(now, brief=True) == min(longest_s, SILENCE_S * 2**late)
    assert limit.seconds(now, brief=False) == longest_s
    assert limit.seconds(now + RAISED_S + 1, brief=True) == min(longest_s, SILENCE_S)


@given(calls=st.integers(min_value=1, max_value=50))
def test_calls_that_are_late_together_double_it_once(calls: int) -> None:
    limit = AnswerLimit(600)
    given_up_after = [limit.seconds(0, brief=True) for _ in range(calls)]

    for seconds in given_up_after:
        limit.note_late(seconds, 0)

    assert limit.seconds(0, brief=True) == 2 * SILENCE_S


def test_storing_much_is_not_brief() -> None:
    small, large = Message(id="m", queue="q", body=b"x"), Message(id="m", queue="q", body=b"x" * 1_000_001)

    assert is_brief([small] * 5_000)
    assert not is_brief([small] * 5_001)
    assert not is_brief([large])


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_the_operating_system_watches_a_connection() -> None:
    async with await asyncio.start_server(until_end, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        own = writer.transport.get_extra_info("socket")

        keep_alive(writer.transport)

        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = keepalive_options()
        assert {option: own.getsockopt(socket.IPPROTO_TCP, option) for option in options} == options
        writer.close()
        await writer.wait_closed()


async def test_a_socket_that_is_a_file_is_left_alone(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(until_end, tmp_path / "s"):
        _, writer = await asyncio.open_unix_connection(tmp_path / "s")

        keep_alive(writer.transport)

        assert writer.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        writer.close()
        await writer.wait_closed()
