"""The rules of transactions in a FakeQueue: what is refused, said, and left at the end."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import asynctasq
from asynctasq import AsyncTask, SyncTask
from asynctasq.errors import BodyTooLarge, ConfigError, UnsupportedFeature
from asynctasq.testing import FakeQueue
from asynctasq.testing.transactions.control_statements import Control, ControlStatement, control_statements


class Note(AsyncTask[None]):
    text: str

    async def execute(self) -> None:
        pass


class Kept(AsyncTask[int]):
    keep_result = True

    async def execute(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def recorded(queue: FakeQueue) -> list[object]:
    return [one.arguments["text"] for one in queue.dispatched(Note)]


# -- against the database ------------------------------------------------------------------------

STEPS = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "SAVEPOINT b", "RELEASE a", "RELEASE b", "ROLLBACK TO a"]


def is_possible(step: str, savepoints: list[str]) -> bool:
    """Note the savepoints that a step leaves; False for one that names none of them.

    A FakeQueue that has not seen the beginning of a transaction takes such a name for an older savepoint's.
    """
    name = step[-1]
    if step.startswith("SAVEPOINT"):
        savepoints.append(name)
    elif step[-2] == " ":
        if name not in savepoints:
            return False
        at = len(savepoints) - savepoints[::-1].index(name) - 1
        del savepoints[at + step.startswith("ROLLBACK TO") :]
    return True


def test_a_savepoint_that_never_was_changes_nothing(connection: sqlite3.Connection) -> None:
    with FakeQueue() as queue:
        Note(text="a").dispatch_sync(connection=connection)
        with pytest.raises(sqlite3.OperationalError, match="no such savepoint"):
            connection.execute("ROLLBACK TO nowhere")
        connection.execute("COMMIT")

        assert recorded(queue) == ["a"]


@given(st.lists(st.sampled_from([*STEPS, "ROLLBACK TO b", "dispatch", "dispatch", "look"]), max_size=16))
@settings(max_examples=300, deadline=None)
def test_any_sequence_records_what_sqlite_keeps(steps: list[str]) -> None:
    connection = sqlite3.connect(f"file:{uuid4()}?mode=memory&cache=shared", uri=True, isolation_level=None)
    connection.execute("CREATE TABLE note (text TEXT)")
    kept: list[str] = []
    savepoints: list[str] = []
    with closing(connection), FakeQueue() as queue:
        for number, step in enumerate([*steps, "COMMIT", "look"]):
            if step == "dispatch":
                Note(text=str(number)).dispatch_sync(connection=connection)
                connection.execute("INSERT INTO note VALUES (?)", (str(number),))
            elif step != "look" and is_possible(step, savepoints):
                with suppress(sqlite3.OperationalError):  # no transaction, or one already
                    connection.execute(step)
            if not connection.in_transaction:
                savepoints.clear()
                kept = [row[0] for row in connection.execute("SELECT text FROM note ORDER BY rowid")]
            if step == "look":
                assert recorded(queue) == kept


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT 'COMMIT; ROLLBACK'", []),
        ("-- COMMIT\nSELECT 1; /* ROLLBACK */ COMMIT;", [ControlStatement(Control.COMMIT)]),
        ("ROLLBACK AND CHAIN", [ControlStatement(Control.ROLLBACK)]),
        ('rollback transaction to savepoint "A b"', [ControlStatement(Control.ROLLBACK_TO, "a b")]),
        ("ROLLBACK TO _pg3_1", [ControlStatement(Control.ROLLBACK_TO, "_pg3_1")]),
        ("RELEASE `x`", [ControlStatement(Control.RELEASE, "x")]),
        ("END TRANSACTION", [ControlStatement(Control.COMMIT)]),
        ("DO $$ BEGIN PERFORM 1; END $$; SAVEPOINT s", [ControlStatement(Control.SAVEPOINT, "s")]),
        ("BEGIN IMMEDIATE", [ControlStatement(Control.BEGIN)]),
        ("START TRANSACTION READ ONLY", [ControlStatement(Control.BEGIN)]),
        ("committed", []),
    ],
)
def test_the_statements_of_transactions_are_told_from_others(sql: str, found: list[ControlStatement]) -> None:
    assert control_statements(sql) == found


# -- what is said --------------------------------------------------------------------------------


def test_a_failure_names_what_waits_and_what_was_rolled_back(connection: sqlite3.Connection) -> None:
    with FakeQueue() as queue:
        Note(text="gone").dispatch_sync(connection=connection)
        connection.execute("ROLLBACK")
        Note(text="waits").dispatch_sync(connection=connection)

        with pytest.raises(AssertionError) as failed:
            queue.assert_dispatched(Note)

    assert (
        "not recorded, since the transaction they were dispatched in is still open:\n  Note(text='waits') on queue "
        "'default'\nnot recorded, since the transaction they were dispatched in was rolled back:\n  Note(text='gone')"
    ) in str(failed.value)


def test_a_transaction_left_open_records_nothing(connection: sqlite3.Connection) -> None:
    with FakeQueue() as queue:
        Note(text="waits").dispatch_sync(connection=connection)

    queue.assert_nothing_dispatched()


def test_a_transaction_left_open_is_an_error_of_a_strict_queue(connection: sqlite3.Connection) -> None:
    told = r"(?s)a transaction is still open.*text='waits'.*queue\.commit\(\)"
    with pytest.raises(AssertionError, match=told), FakeQueue(strict=True):
        Note(text="waits").dispatch_sync(connection=connection)


def test_commit_records_what_waits_whatever_becomes_of_the_transaction(connection: sqlite3.Connection) -> None:
    with FakeQueue() as queue:
        Note(text="a").dispatch_sync(connection=connection)
        queue.commit()
        connection.execute("ROLLBACK")

        assert recorded(queue) == ["a"]
        assert queue.run_until_idle_sync().succeeded == 1


def test_a_connection_that_is_closed_has_rolled_back() -> None:
    connection = sqlite3.connect(":memory:")
    with FakeQueue(strict=True) as queue:
        Note(text="a").dispatch_sync(connection=connection)
        connection.close()

        queue.assert_nothing_dispatched()


def test_a_block_captures_what_it_commits(connection: sqlite3.Connection) -> None:
    with FakeQueue() as queue:
        Note(text="before").dispatch_sync(connection=connection)
        with queue.captures() as captured:
            connection.execute("COMMIT")
        with queue.captures() as nothing:
            Note(text="after").dispatch_sync(connection=connection)

        captured.assert_dispatched(Note, text="before")
        nothing.assert_nothing_dispatched()
        connection.execute("ROLLBACK")


def test_a_session_inside_a_tests_own_transaction_commits_for_the_queue(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    with engine.connect() as outer, outer.begin() as around, FakeQueue() as queue:
        with Session(outer, join_transaction_mode="create_savepoint") as session:
            Note(text="kept").dispatch_sync(connection=session)
            session.commit()
            Note(text="never").dispatch_sync(connection=session)
            session.rollback()

        assert recorded(queue) == ["kept"]
        around.rollback()
    engine.dispose()


OPENED: list[sqlite3.Connection] = []


class Places(SyncTask[None]):
    commits: bool

    def execute(self) -> None:
        Note(text="from a task").dispatch_sync(connection=OPENED[0])
        OPENED[0].execute("COMMIT" if self.commits else "ROLLBACK")


@pytest.mark.parametrize("commits", [False, True])
def test_what_a_task_dispatches_in_its_own_transaction_runs_after_the_commit(
    connection: sqlite3.Connection, *, commits: bool
) -> None:
    OPENED[:] = [connection]
    with FakeQueue(strict=True) as queue:
        Places(commits=commits).dispatch_sync()

        assert queue.run_until_idle_sync().succeeded == 1 + commits


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [object(), "nowhere", 7])
def test_what_is_no_connection_is_refused(wrong: object) -> None:
    with FakeQueue() as queue:
        with pytest.raises(UnsupportedFeature, match="is not a connection we can use; give an asyncpg"):
            Note(text="a").dispatch_sync(connection=wrong)

        queue.assert_nothing_dispatched()


async def test_it_is_refused_with_await_too() -> None:
    async with FakeQueue():
        with pytest.raises(UnsupportedFeature, match=r"builtins\.object is not a connection"):
            await Note(text="a").dispatch(connection=object())


@pytest.mark.parametrize("like", ["redis", "sqs", "memory"])
def test_a_driver_without_transactions_is_refused_in_its_words(like: str, connection: sqlite3.Connection) -> None:
    with (
        FakeQueue(like=like),
        pytest.raises(UnsupportedFeature, match="can't store messages in a transaction of yours"),
    ):
        Note(text="a").dispatch_sync(connection=connection)


@pytest.mark.parametrize("like", ["postgres", "mysql"])
def test_a_connection_to_another_database_is_refused(like: str, connection: sqlite3.Connection) -> None:
    with FakeQueue(like=like), pytest.raises(UnsupportedFeature, match="to a sqlite database") as refused:
        Note(text="a").dispatch_sync(connection=connection)
    assert "FakeQueue(like='sqlite')" in refused.value.__notes__[0]


def test_the_configured_driver_decides_without_being_opened(connection: sqlite3.Connection, tmp_path: Path) -> None:
    asynctasq.init(driver="redis://127.0.0.1:1")

    with FakeQueue(), pytest.raises(UnsupportedFeature, match=r"127\.0\.0\.1:1.* can't store messages"):
        Note(text="a").dispatch_sync(connection=connection)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_decides_where_nothing_was_initialised(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCTASQ_DRIVER", "sqs")

    with FakeQueue(), pytest.raises(UnsupportedFeature, match="SQS"):
        Note(text="a").dispatch_sync(connection=connection)
    with FakeQueue(like="sqlite"):
        Note(text="a").dispatch_sync(connection=connection)


def test_a_result_that_would_not_be_kept_is_refused() -> None:
    with (
        FakeQueue(like="sqs"),
        pytest.raises(UnsupportedFeature, match=r"Kept has keep_result set, but SQS .* keeps"),
    ):
        Kept().dispatch_sync()


def test_a_body_that_is_too_large_is_refused_and_nothing_recorded() -> None:
    with FakeQueue(like="sqs") as queue:
        with pytest.raises(BodyTooLarge, match="this driver takes 1044480"):
            Note(text="x" * 1_050_000).dispatch_sync()

        queue.assert_nothing_dispatched()


class CompletesOnRedis(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        async with self.complete_in(None):
            raise AssertionError("the block must not run")


def test_complete_in_is_refused_where_the_driver_has_no_transactions() -> None:
    with FakeQueue(like="redis") as queue:
        task_id = CompletesOnRedis().dispatch_sync()
        queue.drain_sync(errors="collect")

        assert "redis://localhost:6379" in str(queue.history(task_id).exception)
        assert "can't settle in a transaction of yours" in str(queue.history(task_id).exception)


def test_an_unknown_driver_is_refused_where_the_queue_is_made() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rediss'"):
        FakeQueue(like="rediss3")


def test_a_synchronous_dispatch_refuses_an_asynchronous_connection() -> None:
    class Connection:
        pass

    Connection.__module__ = "asyncpg.connection"
    wrong: Any = Connection()
    with FakeQueue(like="postgres"), pytest.raises(UnsupportedFeature, match="is used with await"):
        Note(text="a").dispatch_sync(connection=wrong)


class CompletesOn(AsyncTask[None]):
    max_attempts = 1

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.connection = connection

    async def execute(self) -> None:
        async with self.complete_in(GIVEN.get(self.connection, self.connection)):
            pass


GIVEN: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("like", "connection", "said"),
    [("sqlite", "no connection", "is not a connection we can use"), ("redis", "any", "can't settle in a transaction")],
)
def test_perform_refuses_a_completion_that_the_driver_would(like: str, connection: str, said: str) -> None:
    with FakeQueue(like=like) as queue:
        performed = queue.perform_sync(CompletesOn(connection))

    assert isinstance(performed.exception, UnsupportedFeature)
    assert said in str(performed.exception)


def test_perform_completes_in_a_transaction_and_leaves_it_to_the_test(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, FakeQueue(like="sqlite") as queue:
        GIVEN["app"] = connection
        performed = queue.perform_sync(CompletesOn("app"))

        assert performed.exception is None
        assert connection.in_transaction
