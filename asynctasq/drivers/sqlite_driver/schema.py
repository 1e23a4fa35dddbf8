"""The SQLite file: its schema, how it is opened and checked, and what its errors mean; knows no operation."""

import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from asynctasq.clock import SystemClock
from asynctasq.drivers.sql.steps import run_steps
from asynctasq.drivers.sqlite_driver.files import make_file, make_folder, refuse_other_owners
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import microseconds

__all__ = [
    "APPLICATION_ID",
    "HOLDS_KEY",
    "RANKED",
    "SCHEMA_VERSION",
    "SQLiteFile",
    "Step",
    "Steps",
    "driver_error",
    "ensure_schema",
    "instant_after",
    "is_locked",
    "mapped_errors",
    "open_connection",
    "primary_code",
    "run_on",
]

T = TypeVar("T")
Row = tuple[Any, ...]

APPLICATION_ID = 0x61545131
"""`aTQ1`: lets `file(1)` and other tools recognise a file of ours."""
SCHEMA_VERSION = 4
DELAY_S_MAX = 1e12
SQLITE_VERSION_MIN = (3, 35, 0)
LOCK_SLICE_S = 0.2
CHECKPOINT_PAGES = 8000
CACHE_KIB = 16_000
WAL_BYTES_KEPT = 64 * 1024 * 1024

# One timestamp, `visible_us`, serves delay, retry and lease. `arrival` is never used twice (AUTOINCREMENT), so a token
# made from it fences even when a message with the same id is enqueued again after this one was removed. `token` starts
# where its width does not grow for the next hundred reserves: a row whose size stays is overwritten in place.
# The index of due work holds `arrival` and `leased`, so that reserve walks it in order and depth never reads a row.
SCHEMA = (
    """CREATE TABLE asynctasq_message (
        arrival INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        queue TEXT NOT NULL,
        visible_us INTEGER NOT NULL,
        enqueued_us INTEGER NOT NULL,
        leased INTEGER NOT NULL DEFAULT 0,
        token INTEGER NOT NULL DEFAULT 2,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        death INTEGER,
        reason TEXT,
        error TEXT,
        body BLOB NOT NULL
    )""",
    """CREATE INDEX asynctasq_message_due ON asynctasq_message (queue, visible_us, arrival, leased)
       WHERE death IS NULL""",
    "CREATE INDEX asynctasq_message_dead ON asynctasq_message (queue, death, visible_us) WHERE death IS NOT NULL",
    """CREATE TABLE asynctasq_result (
        id TEXT PRIMARY KEY, expires_us INTEGER NOT NULL, body BLOB NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX asynctasq_result_expiry ON asynctasq_result (expires_us)",
    "CREATE TABLE asynctasq_schema (version INTEGER NOT NULL)",
)
# Whether a row holds its key follows from the row: a dead letter does not, nor one that says "started" and was
# reserved, so that `token` is not 2 any more. No statement has to free a key.
HOLDS_KEY = "unique_key IS NOT NULL AND death IS NULL AND (unique_started = 0 OR token = 2)"
# Whether a row waits by rank follows from the row, too. A fair key is stored with no other row.
RANKED = "fair_key IS NOT NULL AND token = 2"
UPGRADES = {
    2: (
        "ALTER TABLE asynctasq_message ADD COLUMN reserved_us INTEGER",
        "ALTER TABLE asynctasq_message ADD COLUMN reserved_by TEXT",
        "ALTER TABLE asynctasq_message ADD COLUMN progress TEXT",
    ),
    3: (
        "ALTER TABLE asynctasq_message ADD COLUMN unique_key TEXT",
        "ALTER TABLE asynctasq_message ADD COLUMN unique_started INTEGER",
        f"CREATE UNIQUE INDEX asynctasq_message_unique ON asynctasq_message (unique_key) WHERE {HOLDS_KEY}",
    ),
    4: (
        "ALTER TABLE asynctasq_message ADD COLUMN fair_key TEXT",
        f"CREATE INDEX asynctasq_message_fair ON asynctasq_message (queue, fair_key, visible_us) WHERE {RANKED}",
    ),
}
"""What brings the tables of `SCHEMA`, version 1, to each later version, at no cost however many rows there are."""


# -- statements ----------------------------------------------------------------------------------


class Step(NamedTuple):
    """One statement; `many` runs it once for each of the parameters."""

    sql: str
    params: Sequence[Any] | Iterable[Sequence[Any]] = ()
    many: bool = False


Steps = Generator[Step, list[Row], T]
"""An operation as statements that its caller executes: it yields a `Step` and is sent the rows."""


def instant_after(now_us: int, delay_s: float) -> int:
    """Return an instant that an integer of SQLite holds."""
    return now_us + microseconds(min(delay_s, DELAY_S_MAX))


def run_on(steps: Steps[T], cursor: sqlite3.Cursor) -> T:
    """Run an operation on a cursor that returns plain tuples."""

    def execute(step: Step) -> list[Row]:
        if step.many:
            cursor.executemany(step.sql, step.params)
            return []
        return cursor.execute(step.sql, step.params).fetchall()  # type: ignore[arg-type]  # not many: one sequence

    return run_steps(steps, execute)


def ensure_schema(where: str) -> Steps[None]:
    """Create our tables if the file lacks them, upgrade older ones, refuse newer ones; inside a write transaction.

    The version that counts is the row of `asynctasq_schema`. `user_version` and `application_id` repeat it in a
    file that holds nothing but our tables; a file that is the application's own keeps its values.
    """
    version, ours_alone, tables = yield from _read_state()
    if version > SCHEMA_VERSION:
        raise DriverMisconfigured(
            f"{where} was written by a newer asynctasq (schema {version}, this version knows {SCHEMA_VERSION}); "
            "upgrade asynctasq, or use another file"
        )
    if version == SCHEMA_VERSION:
        return
    made = [] if version else [*SCHEMA]
    for later in range(max(version, 1) + 1, SCHEMA_VERSION + 1):
        made += UPGRADES[later]
    for statement in made:
        yield Step(statement)
    yield Step("INSERT INTO asynctasq_schema VALUES (?)", (SCHEMA_VERSION,))
    if ours_alone and (version or not tables):
        yield Step(f"PRAGMA application_id = {APPLICATION_ID}")
        yield Step(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _read_state() -> Steps[tuple[int, bool, bool]]:
    """Return the schema's version (0 for none), whether all tables are ours, and whether there are any."""
    names = [name for (name,) in (yield Step("SELECT name FROM sqlite_master WHERE type = 'table'"))]
    ours_alone = all(name.startswith(("asynctasq_", "sqlite_")) for name in names)
    version = 0
    if "asynctasq_schema" in names:
        version = (yield Step("SELECT max(version) FROM asynctasq_schema"))[0][0] or 0
    if ours_alone and (yield Step("PRAGMA application_id"))[0][0] == APPLICATION_ID:
        version = max(version, (yield Step("PRAGMA user_version"))[0][0])
    return version, ours_alone, bool(names)


# -- errors --------------------------------------------------------------------------------------


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 where the library gives none (misuse of the module)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_locked(error: BaseException) -> bool:
    """Say whether another connection held the file's lock, so that a repetition may succeed."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def mapped_errors(where: str) -> Generator[None, None, None]:
    """Turn every exception of sqlite3 into a `DriverError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise driver_error(error, where) from error


def driver_error(error: sqlite3.Error, where: str) -> DriverError:
    """Return the error of ours for one of sqlite3."""
    match primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return DriverUnavailable(
                f"{where} is locked by another connection ({error}); end its transaction, or raise busy_timeout_s. "
                "A transaction that reads first and writes later must start with BEGIN IMMEDIATE"
            )
        case sqlite3.SQLITE_IOERR:
            return DriverUnavailable(f"{where} can't be read or written ({error}); check the disk")
        case sqlite3.SQLITE_FULL:
            return DriverError(
                f"{where} has no space left ({error}); nothing was stored. Free space, or raise max_page_count"
            )
        case sqlite3.SQLITE_CANTOPEN:
            return DriverMisconfigured(f"{where} can't be opened ({error}); check that its folder is writable")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return DriverMisconfigured(f"{where} is read-only ({error}); make the file and its folder writable")
        case sqlite3.SQLITE_NOTADB:
            return DriverMisconfigured(f"{where} is not a SQLite database ({error}); name another file")
        case sqlite3.SQLITE_CORRUPT:
            return DriverError(f"{where} is damaged ({error}); restore it, or save what is left with sqlite3 .recover")
        case _:
            return DriverError(f"{where} refused the operation: {type(error).__name__}: {error}")


# -- opening -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteFile:
    """Which file, and how to open it."""

    path: str
    durable_commits: bool
    busy_timeout_s: float
    max_page_count: int | None

    def __str__(self) -> str:
        return f"sqlite file {self.path}"

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode, which differ once another file has replaced this one; None if there is no file."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def open_connection(file: SQLiteFile) -> sqlite3.Connection:
    """Return a connection in WAL mode whose schema is there; creates folder, file and schema as needed.

    Safe when many processes do it at once. Raises the sqlite3 errors unmapped, and DriverMisconfigured.
    """
    _check_path(file)
    clock = SystemClock()
    deadline = clock.monotonic() + file.busy_timeout_s
    while True:
        connection = sqlite3.connect(
            file.path, timeout=min(LOCK_SLICE_S, file.busy_timeout_s), isolation_level=None, check_same_thread=False
        )
        try:
            _set_up(connection, file)
            return connection
        except BaseException as error:
            connection.close()
            # Turning a fresh file to WAL fails at once, whatever the timeout, when two processes do it together.
            if not is_locked(error) or clock.monotonic() >= deadline:
                raise
        time.sleep(0.005)


def _check_path(file: SQLiteFile) -> None:
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        raise DriverMisconfigured(
            f"this Python has SQLite {sqlite3.sqlite_version}; the queue needs 3.35 or newer: use a newer Python"
        )
    if os.path.isdir(file.path):
        raise DriverMisconfigured(f"{file} is a directory; give the path of a file in it, such as {file.path}/queue.db")
    folder = os.path.dirname(file.path)
    make_folder(folder)
    refuse_other_owners(folder, file.path)
    for place in (folder, file.path):
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise DriverMisconfigured(
                f"{file} can't be used: {place} is read-only for this user; make it writable, or name another file"
            )
    make_file(file.path)


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _set_up(connection: sqlite3.Connection, file: SQLiteFile) -> None:
    # Bytes that are no text are read nevertheless: the other rows of the statement may be good.
    connection.text_factory = _text
    cursor = connection.cursor()
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise DriverMisconfigured(
            f"{file} can't use a write-ahead log (journal_mode is {mode}); put it on a local disk, not a network one"
        )
    cursor.execute(f"PRAGMA synchronous = {'FULL' if file.durable_commits else 'NORMAL'}")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    # Some builds erase deleted rows with extra writes; FAST erases where the page is written anyway.
    cursor.execute("PRAGMA secure_delete = FAST")
    if file.max_page_count is not None:
        cursor.execute(f"PRAGMA max_page_count = {file.max_page_count}")
    if run_on(_read_state(), cursor)[0] == SCHEMA_VERSION:
        return
    cursor.execute("BEGIN IMMEDIATE")
    try:
        run_on(ensure_schema(str(file)), cursor)
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.rollback()
        raise
