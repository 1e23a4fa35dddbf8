"""Burst workers in a test's own loop, and the ledger that judges them."""

from pathlib import Path

from asynctasq import AsyncTask
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.queue import Queue
from asynctasq.testing import Entry, Kind, Ledger, run_burst_worker


class Once(AsyncTask[None]):
    async def execute(self) -> None: ...


async def test_a_worker_runs_what_is_visible_and_ends(tmp_path: Path) -> None:
    store, ledger = SQLiteDriver(tmp_path / "queue.db"), Ledger()
    queue = Queue(store)
    ids = await queue.dispatch([Once(), Once(), Once().on_queue("other"), Once().delay(3600)])

    await run_burst_worker(store, ledger=ledger, queues="default", lease_s=5)

    done = {entry.message_id for entry in ledger.entries if entry.kind is Kind.SETTLED}
    left = {message.id for name in ("default", "other") for message in (await store.list_messages(name)).messages}
    await store.close()
    assert (done, left) == (set(ids[:2]), set(ids[2:]))
    assert ledger.violations(alive=left) == []
    assert "settled complete" in ledger.timeline()


async def test_a_worker_needs_no_ledger(tmp_path: Path) -> None:
    store = SQLiteDriver(tmp_path / "queue.db")
    [task_id] = await Queue(store).dispatch([Once()])

    await run_burst_worker(store)

    assert not (await store.list_messages("default")).messages, task_id
    await store.close()


def test_a_ledger_of_entries_read_from_files_is_judged() -> None:
    lost = Entry(0.0, Kind.DISPATCHED, "a", max_attempts=1)

    [violation] = Ledger([lost]).violations()

    assert (violation.invariant, violation.message_id) == ("nothing lost", "a")
    assert Ledger([lost]).violations(alive={"a"}) == []
