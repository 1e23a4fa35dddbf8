"""Run as a program by test_transactions_django: dispatches in Django's transactions, in a FakeQueue.

    python -m tests.testing.fake_queue.django_transactions

Every line it prints is one claim: its name, and what a FakeQueue has recorded.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FOLDER = Path(tempfile.mkdtemp(dir=sys.argv[1]))
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(FOLDER / "app.db"),
            "TEST": {"NAME": str(FOLDER / "test.db")},
        }
    },
    INSTALLED_APPS=[],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.db import connection, transaction  # noqa: E402 - Django wants its settings first
from django.test import TestCase, TransactionTestCase  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402

from asynctasq import SyncTask  # noqa: E402
from asynctasq.errors import UnsupportedFeature  # noqa: E402
from asynctasq.testing import FakeQueue  # noqa: E402


class Note(SyncTask[None]):
    text: str

    def execute(self) -> None:
        pass


class Completes(SyncTask[None]):
    max_attempts = 2
    fails: bool

    def execute(self) -> None:
        with transaction.atomic():
            with self.complete_in_sync(connection):
                note("follow-up")
            if self.fails and self.attempt == 1:
                raise Undo


class Undo(Exception):
    pass


def note(text: str, using: Any = "default") -> None:
    Note(text=text).dispatch_sync(connection=using)


def undone(block: Callable[[], Any]) -> None:
    with suppress(Undo):
        block()


@transaction.atomic
def decorated(text: str, *, fails: bool = False) -> None:
    note(text)
    if fails:
        raise Undo


def nested() -> None:
    with transaction.atomic():
        note("before", connection)
        undone(lambda: decorated("never", fails=True))
        decorated("released")
        note("after", connection)


def rolled_back() -> None:
    with transaction.atomic():
        decorated("never")
        raise Undo


def twice() -> None:
    decorated("kept")
    undone(lambda: decorated("never", fails=True))


def without_savepoint() -> None:
    with transaction.atomic(savepoint=False):
        note("kept")


# Newer versions of Django have it under another name.
savepoint_create: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint


def by_hand() -> None:
    with transaction.atomic():
        note("before")
        savepoint = savepoint_create()
        note("never")
        transaction.savepoint_rollback(savepoint)
        savepoint = savepoint_create()
        note("released")
        transaction.savepoint_commit(savepoint)


class Claims:
    """What holds with and without the transaction that a TestCase has around the test."""

    def claim(self, name: str, run: Callable[[], Any]) -> None:
        with FakeQueue(like="sqlite") as queue:
            undone(run)
            print(type(self).__name__, name, [one.arguments["text"] for one in queue.dispatched(Note)])

    def test_all(self) -> None:
        for run in (nested, rolled_back, twice, without_savepoint, by_hand):
            self.claim(run.__name__, run)

    def test_open(self) -> None:
        with FakeQueue(like="sqlite") as queue, transaction.atomic():
            note("waits")
            queue.assert_nothing_dispatched()
            queue.commit()
            print(type(self).__name__, "by_commit", [one.arguments["text"] for one in queue.dispatched(Note)])

    def test_without_a_transaction(self) -> None:
        with FakeQueue(like="sqlite") as queue:
            try:
                note("refused")
            except UnsupportedFeature as error:
                print(type(self).__name__, "refused", str(error)[:43])
            queue.assert_nothing_dispatched()

    def test_complete(self) -> None:
        for fails in (False, True):
            with FakeQueue(like="sqlite") as queue:
                task_id = Completes(fails=fails).dispatch_sync()
                queue.run_until_idle_sync()
                history = queue.history(task_id)
                told = (history.completed, len(history.attempts), len(queue.dispatched(Note)))
                print(type(self).__name__, "completes" if not fails else "fails_once", told)

    def test_callbacks(self) -> None:
        with FakeQueue(like="sqlite"), TestCase.captureOnCommitCallbacks() as callbacks:
            decorated("no callback of ours")
        print(type(self).__name__, "callbacks", len(callbacks))

    def test_queries(self) -> None:
        with FakeQueue(like="sqlite"), CaptureQueriesContext(connection) as queries, transaction.atomic():
            note("one statement, as the driver's")
        print(type(self).__name__, "queries", sum("SELECT 1" in query["sql"] for query in queries.captured_queries))


class InTestCase(Claims, TestCase):
    pass


class Committing(Claims, TransactionTestCase):
    pass


if __name__ == "__main__":
    import unittest

    from django.test.runner import DiscoverRunner

    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in (InTestCase, Committing)
    )
    result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
    runner.teardown_databases(databases)
    sys.exit(not result.wasSuccessful())
