"""What only the SQLite driver has: its addresses, its file, full disks and locks, its thread, results."""

import asyncio
import gc
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.drivers.sqlite_driver.schema import SCHEMA_VERSION
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import ConfigError, DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Complete
from tests.drivers.sqlite_driver.support import FAR_S, connection_of, message, reserve, write_lock
from tests.patience import SOON_S, wait_until

EARLIER_THREADS: set[threading.Thread] = set()
"""Threads of drivers that other tests of this process left to the garbage collector."""


@pytest.fixture(autouse=True)
def remember_earlier_threads() -> None:
    EARLIER_THREADS.clear()
    EARLIER_THREADS.update(threading.enumerate())


def threads() -> list[threading.Thread]:
    """Return the driver threads that this test started."""
    return [each for each in threading.enumerate() if each.name == "asynctasq-sqlite" and each not in EARLIER_THREADS]


# -- addresses and options -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///queue.db", Path("queue.db")),
        ("sqlite:///data/my%20queue.db", Path("data/my queue.db")),
        ("sqlite:////tmp/q/queue.db?durability=normal", Path("/tmp/q/queue.db")),
        ("sqlite://", Path(".asynctasq/queue.db")),
        ("sqlite", Path(".asynctasq/queue.db")),
    ],
)
def test_an_address_names_a_file(url: str, expected: Path) -> None:
    driver = create_driver(url)

    assert str(driver) == f"sqlite file {expected.absolute()}"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite://data/queue.db", "three slashes"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///q.db?durabilty=full", "did you mean 'durability'"),
        ("sqlite:///q.db?durability=none", "'full' or 'normal'"),
        ("sqlite:///q.db?poll_s=0", "poll_s"),
        ("sqlite:///q.db?busy_timeout_s=-1", "busy_timeout_s"),
        ("sqlite:///q.db?busy_timeout_s=long", "must be a float"),
        ("sqlite:///q.db?body_bytes_max=-1", "body_bytes_max"),
        ("sqlite:///q.db?max_page_count=0", "max_page_count"),
        ("sqlite:///q%00.db", "zero byte"),
    ],
)
def test_a_wrong_address_is_refused_in_words(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        create_driver(url)


async def test_a_later_change_of_folder_does_not_move_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    driver = SQLiteDriver("deep/folder/queue.db")
    monkeypatch.chdir("/")

    await driver.open()
    await driver.close()

    assert (tmp_path / "deep/folder/queue.db").exists()


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
async def test_durability_decides_how_commits_reach_the_disk(path: Path, durability: str, synchronous: int) -> None:
    driver = SQLiteDriver(path, durability=durability)
    await driver.open()
    connection = connection_of(driver)

    pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert pragmas == ["wal", synchronous]
    assert str(driver.capabilities.durable).startswith("yes" if durability == "full" else "partial")
    await driver.close()


# -- the file ------------------------------------------------------------------------------------


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriverMisconfigured, match="is a directory"):
        await SQLiteDriver(tmp_path).open()


async def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DriverMisconfigured, match="can't be made"):
        await SQLiteDriver(tmp_path / "file" / "queue.db").open()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"dear diary, " * 500)

    with pytest.raises(DriverMisconfigured, match="not a SQLite database"):
        await SQLiteDriver(path).enqueue([message(1)])

    assert path.read_bytes() == b"dear diary, " * 500
    assert not threads()


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """Return a folder that other users may enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.mark.parametrize("read_only", ["file", "folder"])
def test_what_is_read_only_is_refused(open_to_all: Path, read_only: str) -> None:
    path = open_to_all / "queue.db"
    asyncio.run(_open_and_close(SQLiteDriver(path)))
    path.chmod(0o444 if read_only == "file" else 0o666)
    open_to_all.chmod(0o777 if read_only == "file" else 0o555)
    program = f"""
import asyncio, os, sys
from asynctasq.drivers.sqlite_driver import SQLiteDriver
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    asyncio.run(SQLiteDriver({str(path)!r}).open())
except Exception as error:
    print(type(error).__name__, error)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("DriverMisconfigured")
    assert "read-only" in done.stdout


async def _open_and_close(driver: SQLiteDriver) -> None:
    await driver.open()
    await driver.close()


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await _open_and_close(SQLiteDriver(path))
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(DriverMisconfigured, match="newer asynctasq"):
        await SQLiteDriver(path).open()


async def test_a_file_of_ours_is_stamped(path: Path) -> None:
    await _open_and_close(SQLiteDriver(path))

    with closing(sqlite3.connect(path)) as other:
        stamps = [other.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert stamps == [0x61545131, SCHEMA_VERSION]


async def test_the_applications_own_file_keeps_its_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as application:
        application.executescript("CREATE TABLE account (id); PRAGMA user_version = 57; PRAGMA application_id = 99")
    driver = SQLiteDriver(path)

    assert await driver.enqueue([message(1)]) == ["m1"]

    await driver.close()
    with closing(sqlite3.connect(path)) as application:
        assert application.execute("PRAGMA user_version").fetchone() == (57,)
        assert application.execute("PRAGMA application_id").fetchone() == (99,)


async def test_a_newer_schema_in_the_applications_own_file_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as application:
        application.execute("CREATE TABLE account (id)")
    await _open_and_close(SQLiteDriver(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute("UPDATE asynctasq_schema SET version = version + 1")

    with pytest.raises(DriverMisconfigured, match="newer asynctasq"):
        await SQLiteDriver(path).open()


def test_many_processes_may_open_a_new_file_at_once(path: Path) -> None:
    program = f"""
import asyncio, sys
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.messages import Message
async def main():
    driver = SQLiteDriver({str(path)!r})
    sys.stdin.read(1)
    print(await driver.enqueue([Message(id=sys.argv[1], queue="mail", body=b"")]))
    await driver.close()
asyncio.run(main())
"""
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(6)
    ]

    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"!")
        child.stdin.flush()
    outputs = [child.communicate()[0] for child in children]

    assert sorted(outputs) == [f"['{n}']\n".encode() for n in range(6)]


async def test_a_file_that_was_removed_is_made_again(driver: SQLiteDriver, path: Path) -> None:
    await driver.enqueue([message(1)])
    for each in path.parent.iterdir():
        each.unlink()

    assert await driver.enqueue([message(1)]) == ["m1"]

    other = SQLiteDriver(path)
    assert [lease.message_id for lease in await reserve(other)] == ["m1"]
    await other.close()


async def test_close_leaves_one_file_and_no_thread(path: Path) -> None:
    driver = SQLiteDriver(path)
    await driver.enqueue([message(n) for n in range(1000)])

    await driver.close()

    assert [each.name for each in path.parent.iterdir()] == ["queue.db"]
    assert not threads()


# -- a full disk, a locked file ------------------------------------------------------------------


async def fill(driver: SQLiteDriver) -> int:
    """Enqueue until the file is full; return how many messages it holds."""
    with pytest.raises(DriverError, match="no space left"):
        for number in range(1000):
            await driver.enqueue([message(number, body=b"x" * 3000)])
    return (await driver.depth("mail")).ready


async def test_a_full_disk_loses_nothing_and_heals(path: Path) -> None:
    driver = SQLiteDriver(path, max_page_count=60)
    held = await fill(driver)

    leases = await reserve(driver, 1000)
    lost = await driver.settle([(lease, Complete()) for lease in leases])

    assert (len(leases), lost) == (held, set())
    assert await driver.enqueue([message(5000, body=b"x" * 3000)]) == ["m5000"]
    await driver.close()


async def test_a_batch_that_does_not_fit_is_not_stored_at_all(path: Path) -> None:
    driver = SQLiteDriver(path, max_page_count=60)

    with pytest.raises(DriverError, match="no space left"):
        await driver.enqueue([message(number, body=b"x" * 3000) for number in range(100)])

    assert (await driver.depth("mail")).ready == 0
    await driver.close()


async def test_an_operation_that_fails_spares_those_in_the_same_transaction(path: Path) -> None:
    driver = SQLiteDriver(path, max_page_count=60)
    await driver.enqueue([message(1), message(2)])
    leases = await reserve(driver)
    with write_lock(path):
        others = [
            asyncio.create_task(driver.enqueue([message(3)])),
            asyncio.create_task(driver.enqueue([message(n, body=b"x" * 3000) for n in range(100, 200)])),
            asyncio.create_task(driver.settle([(lease, Complete()) for lease in leases])),
        ]
        await asyncio.sleep(0)  # all three are on their way to the thread, which waits for the lock

    results = await asyncio.gather(*others, return_exceptions=True)

    assert isinstance(results.pop(1), DriverError)
    assert results == [["m3"], set()]
    assert (await driver.depth("mail")).ready == 1
    await driver.close()


async def test_operations_that_wait_together_share_a_commit(driver: SQLiteDriver, path: Path) -> None:
    await driver.open()
    commits: list[str] = []
    connection_of(driver).set_trace_callback(commits.append)

    with write_lock(path):
        tasks = [asyncio.create_task(driver.enqueue([message(number)])) for number in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert commits.count("COMMIT") <= 2  # the first may have gone to the thread alone
    assert (await driver.depth("mail")).ready == 50


async def test_a_queue_without_levels_and_fair_keys_is_claimed_without_a_look_for_their_lines(
    driver: SQLiteDriver,
) -> None:
    await driver.enqueue([message(number) for number in range(6)])
    leases = await driver.reserve(["mail"], limit=3, lease_s=FAR_S)
    seen: list[str] = []
    connection_of(driver).set_trace_callback(seen.append)

    _, more = await driver.turn([(lease, Complete()) for lease in leases], ["mail"], limit=3, lease_s=FAR_S)

    assert len(more) == 3
    assert [text.split()[0] for text in seen] == ["BEGIN", "SELECT", "DELETE", "SELECT", "UPDATE", "COMMIT"]
    await driver.close()


async def test_a_file_locked_for_too_long_is_unavailable_and_then_works(path: Path) -> None:
    driver = SQLiteDriver(path, busy_timeout_s=0.05)
    await driver.open()

    with write_lock(path), pytest.raises(DriverUnavailable, match="locked"):
        await driver.enqueue([message(1)])

    assert await driver.enqueue([message(1)]) == ["m1"]
    await driver.close()


async def test_polling_does_not_need_the_lock(driver: SQLiteDriver, path: Path) -> None:
    await driver.enqueue([message(1, delay_s=FAR_S)])

    with write_lock(path):
        assert await reserve(driver) == []
        assert (await driver.depth("mail")).scheduled == 1


async def test_close_is_bounded_while_the_file_is_locked(path: Path) -> None:
    driver = SQLiteDriver(path, busy_timeout_s=FAR_S)
    await driver.open()
    with write_lock(path):
        stuck = asyncio.create_task(driver.enqueue([message(1)]))
        await asyncio.sleep(0)

        async with asyncio.timeout(SOON_S):
            await driver.close()

    with pytest.raises(DriverUnavailable, match="locked"):
        await stuck
    assert not threads()


# -- threads and loops ---------------------------------------------------------------------------


def test_several_runs_of_a_loop_without_close_leave_no_thread(path: Path) -> None:
    driver = SQLiteDriver(path)

    for number in range(3):
        assert asyncio.run(driver.enqueue([message(number)])) == [f"m{number}"]
    assert len(threads()) <= 2  # the last one, and perhaps one that is ending

    del driver

    def no_thread() -> bool:
        gc.collect()  # again, as the thread may have held the last operation at that moment
        return not threads()

    wait_until(no_thread, "no thread is left")


def test_an_unclosed_driver_does_not_hold_up_the_end_of_the_process(path: Path) -> None:
    program = (
        "import asyncio\nfrom asynctasq.drivers.sqlite_driver import SQLiteDriver as D\n"
        f"driver = D({str(path)!r})\nasyncio.run(driver.open())"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], timeout=SOON_S, capture_output=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert [each.name for each in path.parent.iterdir()] == ["queue.db"]


async def test_cancelling_open_leaves_no_thread(path: Path) -> None:
    driver = SQLiteDriver(path)
    task = asyncio.create_task(driver.open())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    for thread in threads():
        thread.join(SOON_S)

    assert not threads()


# -- results -------------------------------------------------------------------------------------


async def test_expired_results_are_removed_when_fetched(driver: SQLiteDriver) -> None:
    await driver.enqueue([message(n) for n in range(150)])
    leases = await reserve(driver, 150)
    await driver.settle([(lease, Complete(result=b"r", result_ttl_s=60)) for lease in leases])
    assert await driver.fetch_result("m0") == b"r"
    driver.clock_offset += 61

    assert await driver.fetch_result("m0") is None

    assert connection_of(driver).execute("SELECT count(*) FROM asynctasq_result").fetchone() == (50,)


async def test_storing_results_removes_more_expired_ones_than_it_adds(driver: SQLiteDriver) -> None:
    for round_ in range(5):
        await driver.enqueue([message(1000 * round_ + n) for n in range(100)])
        leases = await reserve(driver)
        await driver.settle([(lease, Complete(result=b"r", result_ttl_s=60)) for lease in leases])
        driver.clock_offset += 61

    assert connection_of(driver).execute("SELECT count(*) FROM asynctasq_result").fetchone() == (100,)
