"""A task defined in the script that is run travels under the name that a worker can import it by."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patient_s

SCRIPT = """
import sys
from asynctasq import AsyncTask, SyncProcessTask, task

class Note(AsyncTask[None]):
    def __init__(self, text: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.text = text

    async def execute(self) -> None:
        with open("ran.txt", "a") as file:
            print("note", self.text, __name__, file=file)

class Heavy(SyncProcessTask[None]):
    def execute(self) -> None:
        with open("ran.txt", "a") as file:
            print("heavy", __name__, file=file)

@task
def shout(text: str) -> None:
    with open("ran.txt", "a") as file:
        print("shout", text, __name__, file=file)

if __name__ == "__main__":
    Note("one").dispatch_sync()
    shout("two").dispatch_sync()
    Heavy().dispatch_sync()
    print(Note._task_name, shout.task_class._task_name)
"""


def environment() -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCTASQ_")}
    return {**known, "PYTHONDONTWRITEBYTECODE": "1"}


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=patient_s(60),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def worker(folder: Path, *options: str) -> str:
    return python(folder, "-m", "asynctasq", "worker", "--burst", "--process-pool-size", "1", *options)


def ran(folder: Path) -> list[str]:
    return sorted((folder / "ran.txt").read_text().splitlines())


@pytest.mark.parametrize(
    ("place", "arguments", "module", "project_file"),
    [
        ("job.py", ["./job.py"], "job", False),
        ("scripts/job.py", ["scripts/job.py"], "scripts.job", True),
        ("shop/jobs.py", ["-m", "shop.jobs"], "shop.jobs", True),
        ("send-notes.py", ["send-notes.py"], "send-notes", True),
    ],
    ids=["bare folder", "sub-folder of a project", "module of a package", "dash"],
)
def test_a_worker_in_the_same_folder_finds_what_a_script_defines(
    place: str, arguments: list[str], module: str, project_file: bool, tmp_path: Path
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT)
    if place.startswith("shop"):
        (path.parent / "__init__.py").touch()
    if project_file:
        (tmp_path / "pyproject.toml").touch()

    names = python(tmp_path, *arguments)
    worker(tmp_path)

    assert names.split() == [f"{module}:Note", f"{module}:shout"]
    assert ran(tmp_path) == [f"heavy {module}", f"note one {module}", f"shout two {module}"]


def test_tasks_of_a_program_run_as_a_package_need_it_named(tmp_path: Path) -> None:
    """A message alone never makes a worker run a `__main__`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "__main__.py").write_text(SCRIPT)

    names = python(tmp_path, "-m", "shop")
    worker(tmp_path, "--app", "shop.__main__")
    complete = ran(tmp_path)
    python(tmp_path, "-m", "shop")
    worker(tmp_path)

    assert names.split() == ["shop.__main__:Note", "shop.__main__:shout"]
    assert complete == ["heavy shop.__main__", "note one shop.__main__", "shout two shop.__main__"]
    assert ran(tmp_path) == complete


def test_a_script_with_a_worker_of_its_own_has_children_that_find_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "scripts").mkdir()
    serve = (
        "    import asyncio\n    from asynctasq import Worker\n    from asynctasq.core.runtime import WorkerSettings\n"
        "    from asynctasq.core.setup import current_setup\n"
        "    asyncio.run(Worker(current_setup().driver('sqlite'), settings=WorkerSettings(burst=True)).start())\n"
    )
    (tmp_path / "scripts" / "job.py").write_text(SCRIPT + serve)

    python(tmp_path, "scripts/job.py")

    assert ran(tmp_path) == ["heavy scripts.job", "note one __main__", "shout two __main__"]


def test_a_script_run_by_its_absolute_path_from_elsewhere_in_the_project_is_found(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "job.py").write_text(SCRIPT)

    names = python(tmp_path / "scripts", str(tmp_path / "scripts" / "job.py"))

    assert names.split()[0] == "scripts.job:Note"


def test_a_task_of_an_interactive_session_is_refused_where_a_worker_is_elsewhere(tmp_path: Path) -> None:
    code = SCRIPT

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert re.search(
        r"DispatchError: __main__:Note is defined in an interactive session.*put it in a file", done.stderr
    )
