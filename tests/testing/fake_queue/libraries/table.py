"""What runs where: tries each kind of I/O with each test tool, and writes docs/reference/what-runs-where.md.

    python -m tests.testing.fake_queue.libraries.table [--check]

With --check it writes nothing, and says how the page differs. Django's settings and Tortoise's connections are global:
this runs as a program of its own.
"""

import argparse
import asyncio
import difflib
import importlib
import logging
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.request
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import django
import psycopg
from django.conf import settings
from django.db import connection

from asynctasq import AsyncTask, SyncTask
from asynctasq.core.runtime import WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.queue import Queue
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.testing import FakeQueue, Simulation, simulate
from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import Database, database
from tests.testing.fake_queue.libraries.claims import Notebook
from tests.testing.fake_queue.libraries.server import note_server, running_elsewhere

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "what-runs-where.md"
LIBRARIES = "tests.testing.fake_queue.libraries"
HOW_LONG_S = 30.0

INTRODUCTION = """\
# What runs where

Made by trying each of them: `python -m tests.testing.fake_queue.libraries.table`; not edited by hand.

A task does this kind of I/O in `execute()`. In the first column the test has opened the client, in its own event loop
and before the FakeQueue, as a fixture does; in all others the task opens and closes it itself.

* **runs**: it works, in real time; the queue's clock stands still meanwhile.
* **virtual**: it takes the time of the queue's clock, and none in reality.
* **refused**: the error of the test tool says what to do instead.
* `-`: there is nothing that a test could open before.

"""


# -- kinds of I/O ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of I/O: how to open its client in the current loop, or what a blocking call of it is."""

    title: str
    open: "Callable[[Servers, Path], AbstractAsyncContextManager[Notebook]] | None" = None
    call: Callable[[], object] | None = None


def of_library(module: str) -> Callable[[Servers, Path], AbstractAsyncContextManager[Notebook]]:
    """Return how the test module of a library opens its client."""

    def open_notebook(servers: Servers, folder: Path) -> AbstractAsyncContextManager[Notebook]:
        opened: AbstractAsyncContextManager[Notebook] = importlib.import_module(f"{LIBRARIES}.{module}").open_notebook(
            servers, folder
        )
        return opened

    return open_notebook


def by(call: Callable[[], Awaitable[object]]) -> Callable[[Servers, Path], AbstractAsyncContextManager[Notebook]]:
    """Return a client that is only a call."""

    @asynccontextmanager
    async def open_notebook(servers: Servers, folder: Path) -> AsyncIterator[Notebook]:
        del servers, folder

        async def note(text: str) -> None:
            del text
            await call()

        async def notes() -> list[str]:
            return []

        yield Notebook(note, notes)

    return open_notebook


def kinds(servers: Servers, url: str) -> list[Kind]:
    """Return the rows of the table."""
    dsn = servers.postgres().url
    return [
        Kind("`asyncio.sleep`", by(lambda: asyncio.sleep(60))),
        Kind("`anyio.sleep`", by(lambda: anyio.sleep(60))),
        Kind("asyncpg", of_library("test_asyncpg")),
        Kind("SQLAlchemy, asyncpg", of_library("test_sqlalchemy")),
        Kind("psycopg, async", of_library("test_psycopg")),
        Kind("asyncmy", of_library("test_asyncmy")),
        Kind("aiomysql", of_library("test_aiomysql")),
        Kind("redis.asyncio", of_library("test_redis")),
        Kind("aiosqlite", of_library("test_aiosqlite")),
        Kind("Tortoise, asyncpg", of_library("test_tortoise")),
        Kind("Django's ORM, async", of_library("django_notes")),
        Kind("httpx", of_library("test_httpx")),
        Kind("aiohttp", of_library("test_aiohttp")),
        Kind("`create_subprocess_exec`", of_library("test_subprocess")),
        Kind("aiofiles", of_library("test_aiofiles")),
        Kind("`asyncio.to_thread`", by(lambda: asyncio.to_thread(lambda: sqlite3.connect(":memory:").close()))),
        Kind("SyncTask: psycopg", call=lambda: psycopg.connect(dsn).close()),
        Kind("SyncTask: Django's ORM", call=_count_notes),
        Kind("SyncTask: sqlite3", call=lambda: sqlite3.connect(":memory:").close()),
        Kind("SyncTask: urllib", call=lambda: urllib.request.urlopen(url, timeout=10).close()),
        Kind("SyncTask: `subprocess.run`", call=lambda: subprocess.run(["true"], check=True)),
    ]


def _count_notes() -> object:
    return importlib.import_module(f"{LIBRARIES}.django_notes").Note.objects.count()


# -- the task --------------------------------------------------------------------------------------


class Trial:
    """What the task under trial does; it can't be an argument, which is a value."""

    kind: Kind
    servers: Servers
    folder: Path
    opened: Notebook | None = None
    done = 0


class Doing(AsyncTask[None]):
    max_attempts = 1

    async def execute(self) -> None:
        if Trial.opened is not None:
            await Trial.opened.note("note")
        else:
            assert Trial.kind.open is not None
            with tempfile.TemporaryDirectory(dir=Trial.folder) as folder:
                async with Trial.kind.open(Trial.servers, Path(folder)) as notebook:
                    await notebook.note("note")
        Trial.done += 1


class Blocking(SyncTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        assert Trial.kind.call is not None
        Trial.kind.call()
        Trial.done += 1


def task_of(kind: Kind) -> BaseTask[None]:
    """Return a task that does this kind of I/O."""
    return Doing() if kind.call is None else Blocking()


# -- surroundings ----------------------------------------------------------------------------------


async def _in_an_async_fake_queue(kind: Kind) -> float:
    async with FakeQueue(real_s_max=HOW_LONG_S) as queue:
        await task_of(kind).dispatch()
        await queue.drain(scheduled=True)
        return queue.clock.elapsed.total_seconds()


def on_the_tests_client(kind: Kind) -> float | None:
    """Open the client in the test's loop, use it, and run the task in a FakeQueue; None where there is no client."""
    if kind.open is None or kind.title.startswith("`asyncio") or kind.title.startswith("`anyio"):
        return None
    opening = kind.open

    async def test() -> float:
        with tempfile.TemporaryDirectory(dir=Trial.folder) as folder:
            async with opening(Trial.servers, Path(folder)) as Trial.opened:
                await Trial.opened.note("before")
                return await _in_an_async_fake_queue(kind)

    try:
        return asyncio.run(test())
    finally:
        Trial.opened = None


def in_an_async_fake_queue(kind: Kind) -> float:
    """Run the task in a FakeQueue on the test's own loop."""
    return asyncio.run(_in_an_async_fake_queue(kind))


def in_a_sync_fake_queue(kind: Kind) -> float:
    """Run the task in a FakeQueue of a test that is not async."""
    with FakeQueue(real_s_max=HOW_LONG_S) as queue:
        task_of(kind).dispatch_sync()
        queue.drain_sync(scheduled=True)
        return queue.clock.elapsed.total_seconds()


def in_a_simulation(kind: Kind) -> float:
    """Run the task in one simulation without faults."""
    elapsed: list[float] = []

    @simulate(runs=1, faults=())
    async def test(sim: Simulation) -> None:
        await task_of(kind).dispatch()
        await sim.settle()
        elapsed.append(sim.clock.elapsed.total_seconds())

    test()
    return elapsed[0]


def by_a_real_driver(kind: Kind) -> float:
    """Run the task by a worker in the test's loop that takes what there is and ends; a real sleep is not waited for."""

    async def test() -> float:
        driver = MemoryDriver()
        await Queue(driver).dispatch([task_of(kind)])
        settings = WorkerSettings(application=Application(), burst=True, handle_signals=False)
        await Worker(driver, settings=settings).start()
        return 0

    return 0 if kind.title in SLEEPS else asyncio.run(test())


SLEEPS = ("`asyncio.sleep`", "`anyio.sleep`")
COLUMNS: Mapping[str, Callable[[Kind], float | None]] = {
    "`async with FakeQueue()`, the test's client": on_the_tests_client,
    "`async with FakeQueue()`": in_an_async_fake_queue,
    "`with FakeQueue()`": in_a_sync_fake_queue,
    "`@simulate`": in_a_simulation,
    "a real driver": by_a_real_driver,
}


def outcome(column: str, kind: Kind) -> str:
    """Try it, and return a cell of the table."""
    before, Trial.kind = Trial.done, kind
    try:
        elapsed = COLUMNS[column](kind)
    except BaseException as error:
        return "refused" if "RealWorldAccess" in _names_in(error) else f"fails: {type(error).__name__}"
    if elapsed is None:
        return "-"
    if column == "a real driver" and kind.title in SLEEPS:
        return "runs"
    if Trial.done == before:
        return "refused" if column == "`@simulate`" else "fails"
    return "virtual" if elapsed else "runs"


def _names_in(error: BaseException | None) -> str:
    """Return the names of an error's classes and of those that led to it, and what it says."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        names += [type(error).__name__, str(error)]
        error = error.__cause__ or error.__context__
    return " ".join(names)


def page(servers: Servers, folder: Path) -> str:
    """Try everything and return the page."""
    Trial.servers, Trial.folder = servers, folder
    with _serving() as url, _serving_notes():
        rows = [[kind.title, *(outcome(column, kind) for column in COLUMNS)] for kind in kinds(servers, url)]
    head = ["", *COLUMNS]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    return INTRODUCTION + "\n".join(lines).replace("|  |", "| |") + "\n"


@contextmanager
def _serving() -> Iterator[str]:
    """Serve one page from a thread, for what blocks."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            del args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _serving_notes() -> Iterator[None]:
    """Serve notes from a thread's loop: a simulation can't, nor a task whose own server's sleeps are virtual."""
    started: Future[str] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with note_server() as url:
            started.set_result(url)
            await stop.wait()

    with asyncio.Runner() as runner:
        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        running_elsewhere.append(started.result(10))
        try:
            yield
        finally:
            running_elsewhere.clear()
            runner.get_loop().call_soon_threadsafe(stop.set)
            thread.join()


def _set_up_django(own: Database) -> None:
    settings.configure(DATABASES={"default": own.django}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
    django.setup()
    note = importlib.import_module(f"{LIBRARIES}.django_notes").Note
    with connection.schema_editor() as editor:
        editor.create_model(note)
    connection.close()


def main() -> int:
    """Write the page, or say how it differs from what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # what is refused in the middle may leave a client open
    logging.disable()
    with (
        Servers() as servers,
        tempfile.TemporaryDirectory() as folder,
        database("postgres", servers, Path(folder)) as own,
    ):
        _set_up_django(own)
        text = page(servers, Path(folder))
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    written = PAGE.read_text(encoding="utf-8")
    sys.stdout.writelines(difflib.unified_diff(written.splitlines(True), text.splitlines(True), str(PAGE), "tried now"))
    return int(written != text)


if __name__ == "__main__":
    sys.exit(main())
