"""`asynctasq queues`, `tasks` and `dead` as processes, on a SQLite file and on Redis."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asynctasq import __version__
from asynctasq.cli.exit_codes import ExitCode
from asynctasq.cli.tasks import counted
from asynctasq.errors import DriverUnavailable
from asynctasq.testing.conformance.harness import DriverHarness
from asynctasq.testing.conformance.harnesses import redis, sqlite
from asynctasq.testing.servers import Servers
from tests.patience import SOON_S, wait_until

TASKS = """
from asynctasq import task

@task(max_attempts=1)
async def refuse(who: str, count: int = 1) -> None:
    raise ValueError(f"no {who}\\nand more")

@task
async def greet(who: str) -> None:
    pass
"""
FILL = """
from shop_tasks import greet, refuse
for number in range(5):
    refuse(f"p{number}", count=number).dispatch_sync()
for number in range(3):
    greet(f"g{number}").delay(3600).dispatch_sync()
"""


SLOW = """
import asyncio
from asynctasq import task

@task
async def slow() -> None:
    await asyncio.sleep(3600)
"""


@dataclass
class Shop:
    """A folder with an application, and an address of its queue."""

    folder: Path
    url: str

    def run(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        return self._python("-W", "error", "-m", "asynctasq", *arguments, given=given)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == ExitCode.DONE, done.stderr
        return json.loads(done.stdout)

    def fill(self) -> None:
        """Make five dead letters, and three messages that are due in an hour."""
        assert self._python("-c", FILL).returncode == 0
        assert self.run("worker", "--burst", "--quiet").returncode == ExitCode.DONE

    @contextmanager
    def worker(self, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker meanwhile; it has to end well."""
        environment = {**os.environ, "ASYNCTASQ_DRIVER": self.url}
        command = [sys.executable, "-m", "asynctasq", "worker", "--quiet", *arguments]
        process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(SOON_S) == ExitCode.DONE

    def _python(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "ASYNCTASQ_DRIVER": self.url}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=SOON_S,
            check=False,
        )


@pytest.fixture(params=["sqlite", "redis"])
async def shop(request: pytest.FixtureRequest, conformance_servers: Servers, tmp_path: Path) -> AsyncIterator[Shop]:
    harness: DriverHarness = {"sqlite": sqlite, "redis": redis}[request.param].make_harness(conformance_servers)
    await harness.prepare()
    (tmp_path / "pyproject.toml").write_text('[tool.asynctasq]\napp = "shop_tasks"\n')
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    yield Shop(tmp_path, harness.address())
    await harness.clean_up()


@pytest.fixture
def sqlite_shop(tmp_path: Path) -> Shop:
    (tmp_path / "pyproject.toml").write_text('[tool.asynctasq]\napp = "shop_tasks"\n')
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    return Shop(tmp_path, f"sqlite:///{tmp_path / 'queue.db'}")


def test_an_operator_finds_what_died_redrives_some_and_removes_the_rest(shop: Shop) -> None:
    shop.fill()

    assert shop.json("queues") == [
        {
            "queue": "default",
            "ready": 0,
            "scheduled": 3,
            "reserved": 0,
            "dead": 5,
            "oldest_age_s": None,
            "paused": False,
        }
    ]
    dead = shop.json("dead", "list")["tasks"]
    assert [letter["arguments"]["who"] for letter in dead] == [f"'p{number}'" for number in range(5)]
    shown = shop.json("dead", "show", dead[0]["id"])
    assert (shown["task"], shown["state"], shown["reason"]) == ("shop_tasks:refuse", "dead", "failed")
    assert shown["error"]["message"] == "no p0\nand more"
    assert shop.json("dead", "redrive", "default", "--dry-run")["count"] == 5
    assert shop.json("dead", "redrive", "default", "--limit", "2")["count"] == 2
    ready = [task["id"] for task in shop.json("tasks", "list", "--state", "ready")["tasks"]]
    left = shop.json("dead", "list")["tasks"]
    assert (len(ready), len(left)) == (2, 3)
    assert shop.json("dead", "purge", "--argument", f"who={left[0]['arguments']['who']}", "--yes")["count"] == 1
    assert shop.json("dead", "purge", "--task", "greet", "--yes")["count"] == 0
    assert shop.json("tasks", "cancel", ready[0]) == {"cancelled": [ready[0]], "left": []}
    assert shop.json("tasks", "discard", left[1]["id"]) == {"discarded": [left[1]["id"]], "left": []}
    last = left[2]["id"]
    assert shop.json("tasks", "retry", last) == {"redriven": [last], "left": []}
    (queue,) = shop.json("queues")
    assert (queue["ready"], queue["scheduled"], queue["dead"]) == (2, 3, 0)
    assert shop.json("tasks", "show", last)["attempts"] == 0


def test_pages_follow_each_other(sqlite_shop: Shop) -> None:
    sqlite_shop.fill()

    first = sqlite_shop.json("tasks", "list", "--limit", "5")
    second = sqlite_shop.json("tasks", "list", "--limit", "5", "--cursor", first["cursor"])

    assert len({task["id"] for page in (first, second) for task in page["tasks"]}) == 8
    assert second["cursor"] is None
    refused = sqlite_shop.run("tasks", "list", "--cursor", "default nonsense")
    assert refused.returncode == ExitCode.CONFIGURATION
    assert "'default nonsense' is no cursor that a page has ended with" in refused.stderr


def test_people_get_tables_and_the_whole_of_one_task(sqlite_shop: Shop) -> None:
    sqlite_shop.fill()

    lines = sqlite_shop.run("tasks", "list", "--state", "dead", "--limit", "1").stdout.splitlines()
    shown = sqlite_shop.run("tasks", "show", lines[1].split()[0]).stdout

    assert lines[0].split() == ["id", "task", "queue", "state", "attempts", "since", "error"]
    assert "shop_tasks:refuse  default  dead: failed  1 of 1" in lines[1]
    assert lines[1].endswith("ValueError: no p0")
    assert lines[2].startswith("there are more: repeat it with --cursor '")
    assert "argument who           'p0'" in shown
    assert "ValueError: no p0\\nand more" in shown
    assert "Traceback (most recent call last):" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("tasks", "show", "nobody"), ExitCode.FAILED, "there is no message 'nobody'"),
        (("tasks", "cancel", "nobody"), ExitCode.FAILED, ""),
        (("tasks", "retry", "nobody"), ExitCode.FAILED, ""),
        (("tasks", "list", "--queue", "no such!"), ExitCode.CONFIGURATION, "queue name 'no such!' is not valid"),
        (("dead", "redrive", ""), ExitCode.CONFIGURATION, "queue name '' is not valid"),
        (("tasks", "list", "--older-than", "soon"), ExitCode.USAGE, "'soon' is no age"),
        (("tasks", "list", "--argument", "who"), ExitCode.USAGE, "'who' is not NAME=VALUE"),
    ],
)
def test_bad_input_is_told(sqlite_shop: Shop, arguments: tuple[str, ...], code: ExitCode, text: str) -> None:
    done = sqlite_shop.run(*arguments, given="n\n")

    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_purge_asks_first(sqlite_shop: Shop) -> None:
    sqlite_shop.fill()

    refused = sqlite_shop.run("dead", "purge", given="n\n")

    assert "Remove 5 dead letters of all queues for good?" in refused.stderr
    assert (refused.returncode, refused.stdout.strip()) == (ExitCode.FAILED, "nothing was removed")
    assert sqlite_shop.run("dead", "purge", given="").returncode == ExitCode.FAILED
    assert sqlite_shop.json("queues")[0]["dead"] == 5
    assert sqlite_shop.run("dead", "purge", given="y\n").returncode == ExitCode.DONE
    assert sqlite_shop.json("queues")[0]["dead"] == 0


def test_a_queue_that_no_message_is_in_is_empty_not_an_error(sqlite_shop: Shop) -> None:
    assert sqlite_shop.json("queues") == [
        {
            "queue": "default",
            "ready": 0,
            "scheduled": 0,
            "reserved": 0,
            "dead": 0,
            "oldest_age_s": None,
            "paused": False,
        }
    ]
    assert sqlite_shop.run("tasks", "list").stdout == "no message is like that\n"


def test_a_paused_queue_is_shown_and_left_alone_until_it_is_resumed(shop: Shop) -> None:
    assert shop.json("pause", "default", "mail") == [
        {"queue": "default", "paused": True},
        {"queue": "mail", "paused": True},
    ]
    assert shop.run("pause", "default").stdout == "default: was paused already\n"
    shop.fill()
    found = {each["queue"]: each for each in shop.json("queues")}
    assert (found["default"]["ready"], found["default"]["paused"], found["mail"]["paused"]) == (5, True, True)

    assert shop.run("resume", "default", "mail").stdout == "default: resumed\nmail: resumed\n"
    assert shop.json("resume", "default") == [{"queue": "default", "resumed": False}]
    assert shop.run("worker", "--burst", "--quiet").returncode == ExitCode.DONE
    assert shop.json("queues")[0]["dead"] == 5
    assert shop.run("pause", "no such queue").returncode == ExitCode.CONFIGURATION


def test_a_worker_is_shown_with_what_it_runs_until_it_ends(shop: Shop) -> None:
    assert shop.json("workers") == []
    (shop.folder / "slow_tasks.py").write_text(SLOW)
    assert shop._python("-c", "import slow_tasks; slow_tasks.slow().dispatch_sync()").returncode == 0
    with shop.worker("--app", "slow_tasks", "--queues", "default,mail", "--shutdown-timeout", "0") as process:
        shown = wait_until(lambda: [each for each in shop.json("workers") if each["running"]], "its task runs")
        (worker,) = shown
        assert (worker["alive"], worker["pid"], worker["version"]) == (True, process.pid, __version__)
        assert worker["queues"] == ["default", "mail"]
        assert [each["task"] for each in worker["running"]] == ["slow_tasks:slow"]
        assert "alive" in shop.run("workers").stdout

    assert shop.json("workers") == []


def on_terminal(shop: Shop, *arguments: str, columns: int) -> str:
    """Return what the command writes to a terminal of this width."""
    ours, its = pty.openpty()
    environment = {**os.environ, "ASYNCTASQ_DRIVER": shop.url, "COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-m", "asynctasq", *arguments]
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.Popen(command, cwd=shop.folder, env=environment, stdout=its, stderr=its, stdin=its)
        os.close(its)
        said = b""
        try:
            while part := terminal.read(4096):
                said += part
        except OSError:  # the command has ended, and with it the other side
            pass
        assert process.wait(SOON_S) == ExitCode.DONE
    return said.decode()


def test_a_narrow_terminal_gets_one_line_for_each_value(sqlite_shop: Shop) -> None:
    sqlite_shop.fill()

    said = on_terminal(sqlite_shop, "tasks", "list", "--limit", "1", columns=40)

    assert "task       shop_tasks:refuse\r\n" in said
    assert "state      dead: failed\r\n" in said


def test_a_wide_terminal_gets_a_table(sqlite_shop: Shop) -> None:
    sqlite_shop.fill()

    said = on_terminal(sqlite_shop, "tasks", "list", "--limit", "1", columns=140)

    assert "shop_tasks:refuse  default  dead: failed  1 of 1" in said
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 140 for line in said.splitlines())


def test_a_count_that_the_backend_cuts_short_is_told() -> None:
    def act(tell: Callable[[int], None]) -> int:
        tell(1_200)
        raise DriverUnavailable("gone")

    with pytest.raises(DriverUnavailable, match=r"gone \(1,200 are redriven; run it again for the rest\)"):
        counted("redriven", act)
