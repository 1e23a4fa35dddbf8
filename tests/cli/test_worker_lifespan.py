"""A lifespan and middleware in the worker command: signals, kill -9, failures, children, and who names them where."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynctasq.cli.exit_codes import ExitCode
from tests.cli.test_worker_process import Folder
from tests.patience import SOON_S, wait_until

SHOP = """
import asyncio, os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
import asynctasq
from asynctasq import AsyncTask, Resource, resource, task
from asynctasq.tasks import Middleware

HERE = Path(__file__).parent
request_id = ContextVar("request_id", default="none")

def write(text):
    with (HERE / "notes").open("a") as file:
        file.write(f"{text}\\n")

class Pool:
    def use(self, text):
        write(text)

async def pool():
    if (HERE / "down").exists():
        raise ConnectionError("the database is down")
    write("entered")
    yield Pool()
    while (HERE / "hang").exists():
        await asyncio.sleep(600)
    write("left")

class RequestId(Middleware):
    @contextmanager
    def dispatching(self, context):
        context.headers["request"] = request_id.get()
        yield

    @asynccontextmanager
    async def attempting(self, context):
        request_id.set(context.headers["request"])
        yield

class Waits(AsyncTask[None]):
    async def execute(self):
        (HERE / "started").touch()
        while not (HERE / "go").exists():
            await asyncio.sleep(0.01)
        resource(Pool).use("waited")

@task
async def uses():
    resource(Pool).use(f"used for {request_id.get()}")

@task(process=True)
def uses_in_child():
    resource(Pool).use("used in a child")
    (HERE / "pid").write_text(str(os.getpid()))

@task(process=True)
def endless_in_child():
    (HERE / "pid").write_text(str(os.getpid()))
    while True:
        pass
"""
BY_INIT = '\nasynctasq.init({"middleware": [RequestId()], "lifespan": [pool]})\n'
IN_PYPROJECT = '[tool.asynctasq]\nmiddleware = ["shop:RequestId"]\nlifespan = ["shop:pool"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "pyproject.toml").write_text(IN_PYPROJECT)
    (tmp_path / "shop.py").write_text(SHOP)
    made = Folder(tmp_path)
    yield made
    for process in made.workers:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_it_after_the_last_attempt(folder: Folder, number: signal.Signals) -> None:
    folder.dispatch("Waits().dispatch_sync()")
    process = folder.start()
    folder.wait_for("started")

    process.send_signal(number)
    (folder.path / "go").touch()
    _, err = process.communicate(timeout=SOON_S)

    assert (process.returncode, err) == (ExitCode.DONE, "")
    assert folder.notes == ["entered", "waited", "left"]


def test_the_request_id_travels_from_the_dispatch_to_the_attempt(folder: Folder) -> None:
    folder.dispatch("request_id.set('r-1'); uses.dispatch_sync()")

    code, out, err = folder.run("--burst")

    assert (code, err) == (ExitCode.DONE, "")
    assert folder.notes == ["entered", "used for r-1", "left"]
    assert re.search(r"\n  middleware +RequestId\n  lifespan +shop:pool\n", out)


def test_init_in_a_module_of_tasks_will_do_where_that_is_named(folder: Folder) -> None:
    (folder.path / "pyproject.toml").write_text("")
    (folder.path / "shop.py").write_text(SHOP + BY_INIT)
    folder.dispatch("request_id.set('r-1'); uses.dispatch_sync(); uses_in_child.dispatch_sync()")

    code, _, err = folder.run("--burst", "--app", "shop", "--concurrency", "1")

    assert (code, err) == (ExitCode.DONE, "")
    assert folder.notes == ["entered", "used for r-1", "entered", "used in a child", "left", "left"]


def test_init_in_a_module_that_is_imported_too_late_is_told(folder: Folder) -> None:
    (folder.path / "pyproject.toml").write_text("")
    (folder.path / "shop.py").write_text(SHOP + BY_INIT)
    folder.dispatch("uses().with_options(max_attempts=1).dispatch_sync()")

    code, _, err = folder.run("--burst")

    assert code == ExitCode.DONE
    assert folder.notes == []
    assert "name that module with --app" in err


def test_one_that_can_not_be_entered_ends_the_worker_and_takes_nothing(folder: Folder) -> None:
    folder.dispatch("uses.dispatch_sync()")
    (folder.path / "down").touch()

    code, _, err = folder.run("--burst")

    assert code == ExitCode.LIFESPAN
    assert "Traceback" in err
    assert err.endswith(
        "asynctasq: the lifespan shop:pool failed at its start: ConnectionError('the database is down')\n"
    )
    (folder.path / "down").unlink()
    assert folder.run("--burst")[0] == ExitCode.DONE
    assert folder.notes == ["entered", "used for none", "left"]


@pytest.mark.parametrize("name", ["shop:no_such", "no_such:pool"])
def test_a_name_that_leads_nowhere_is_wrong_configuration(folder: Folder, name: str) -> None:
    code, _, err = folder.run("--burst", ASYNCTASQ_LIFESPAN=name)

    assert code == ExitCode.CONFIGURATION
    assert f"lifespan: {name!r} can't be imported" in err


def test_one_that_hangs_at_its_end_is_cut(folder: Folder) -> None:
    folder.dispatch("uses.dispatch_sync()")
    (folder.path / "hang").touch()

    code, _, err = folder.run("--burst", "--shutdown-timeout", "0.1")

    assert code == ExitCode.DONE
    assert "the lifespan shop:pool did not end in time and is cut" in err
    assert folder.notes == ["entered", "used for none"]


def test_kill_9_hangs_nothing_and_the_next_worker_enters_it_anew(folder: Folder) -> None:
    folder.dispatch("endless_in_child.dispatch_sync()")
    process = folder.start("--lease", "0.5")
    folder.wait_for("pid")
    child = int((folder.path / "pid").read_text())

    process.kill()
    process.communicate(timeout=SOON_S)

    wait_until(lambda: is_gone(child), "the child is gone")
    assert folder.notes == ["entered", "entered"]
    folder.dispatch("uses.dispatch_sync()")
    second = folder.start("--shutdown-timeout", "0.1")
    wait_until(lambda: "used for none" in folder.notes)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=SOON_S)
    assert (folder.notes[2], folder.notes[-1]) == ("entered", "left")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
