"""Notices between processes that use one SQLite file: they wake who waits, and where there are none, polling does."""

import asyncio
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver, commit_notices, thread
from asynctasq.kernel.messages import Bury, DeadReason, Lease, Message
from tests.drivers.sqlite_driver.support import FAR_S
from tests.patience import SOON_S, until

STORE = """
import asyncio, sys
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.messages import Message

async def main():
    driver = SQLiteDriver(sys.argv[1])
    if not await driver.redrive_ids(["m"]):
        await driver.enqueue([Message(id="m", queue="q", body=b"x")])
    await driver.close()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def _no_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynctasq.drivers.sqlite_driver.driver.RECHECK_S", FAR_S)


def sockets(path: Path) -> list[Path]:
    folder = Path(commit_notices.notice_folder(str(path)))
    return list(folder.iterdir()) if folder.exists() else []


async def begin_wait(driver: SQLiteDriver) -> "asyncio.Task[list[Lease]]":
    """Return a reserve that waits."""
    waiting = asyncio.create_task(driver.reserve(["q"], limit=1, lease_s=30, wait_s=FAR_S))

    def waits() -> bool:
        session = driver._sessions.get_if_open()
        return session is not None and any(waiter._event._waiters for waiter in session.waiters)

    await until(waits, "a call waits")
    return waiting


async def store_elsewhere(path: Path) -> None:
    command = [sys.executable, "-c", STORE, str(path)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=SOON_S)


async def woken(waiting: "asyncio.Task[list[Lease]]") -> None:
    async with asyncio.timeout(SOON_S):
        assert [lease.message_id for lease in await waiting] == ["m"]


async def test_a_commit_of_another_process_wakes_who_never_polls(path: Path) -> None:
    driver = SQLiteDriver(path, poll_s=FAR_S)
    waiting = await begin_wait(driver)

    await store_elsewhere(path)

    await woken(waiting)
    await driver.close()
    assert sockets(path) == []


async def test_a_redrive_by_id_in_another_process_wakes_who_never_polls(path: Path) -> None:
    driver = SQLiteDriver(path, poll_s=FAR_S)
    await driver.enqueue([Message(id="m", queue="q", body=b"x")])
    [lease] = await driver.reserve(["q"], limit=1, lease_s=30)
    await driver.settle([(lease, Bury(reason=DeadReason.FAILED))])
    waiting = await begin_wait(driver)

    await store_elsewhere(path)

    await woken(waiting)
    await driver.close()


async def test_only_this_user_can_give_notice(path: Path) -> None:
    driver = SQLiteDriver(path)
    waiting = await begin_wait(driver)

    [own] = sockets(path)

    assert (stat.S_IMODE(own.stat().st_mode), stat.S_IMODE(own.parent.stat().st_mode)) == (0o600, 0o700)
    waiting.cancel()
    await driver.close()


async def test_the_socket_of_a_process_that_was_killed_is_removed_by_the_next_commit(path: Path) -> None:
    driver = SQLiteDriver(path)
    waiting = await begin_wait(driver)
    left = sockets(path)[0].parent / "left"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as killed:
        killed.bind(str(left))
    other = sockets(path)[0].parent / "a file"
    other.touch()

    await driver.enqueue([Message(id="m", queue="q", body=b"x")])

    await woken(waiting)
    await until(lambda: not left.exists(), "it is removed")
    assert other.exists(), "what is no socket is not ours"
    await driver.close()


@pytest.mark.parametrize("why", ["no such sockets", "a path too long", "a file in its place"])
async def test_without_notices_polling_finds_the_message(path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "no such sockets":
        monkeypatch.setattr(commit_notices, "POSSIBLE", False)
    elif why == "a path too long":
        path = path.parent / ("x" * 110) / "queue.db"
    else:
        Path(commit_notices.notice_folder(str(path))).touch()
    driver = SQLiteDriver(path, poll_s=0.01)
    waiting = await begin_wait(driver)

    await store_elsewhere(path)

    await woken(waiting)
    await driver.close()


async def test_a_transaction_that_is_still_open_has_who_waits_look_often(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "ACTIVE_S", 0.0)
    monkeypatch.setattr(thread, "POLL_S_IDLE", 0.5)
    driver = SQLiteDriver(path)
    waiting = await begin_wait(driver)
    monkeypatch.setattr(thread, "ACTIVE_S", FAR_S)
    session = driver._sessions.get_if_open()
    assert session is not None
    session._main._active_at = -FAR_S
    monkeypatch.setattr(thread, "POLL_S_IDLE", FAR_S)

    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        driver.enqueue_in_sync(own, [Message(id="m", queue="q", body=b"x")])
        await until(lambda: (session._main._active_at or 0) > 0, "the notice has arrived")
        own.execute("COMMIT")

    await woken(waiting)
    await driver.close()


async def test_waiting_again_and_again_leaves_no_descriptor_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        driver = SQLiteDriver(path)
        waiting = await begin_wait(driver)
        waiting.cancel()
        await asyncio.wait([waiting])
        await driver.close()

    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert sockets(path) == []
