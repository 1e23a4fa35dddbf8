"""Which task a name means: found again by a worker in another process, and never anything but the application's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.errors import UnknownTask
from asynctasq.tasks import SyncTask
from asynctasq.tasks.application import Application
from asynctasq.tasks.project import project_root
from tests.patience import SOON_S

TASK = """
from pathlib import Path
from asynctasq import SyncTask, init

class Touch(SyncTask[None]):
    def __init__(self, path: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.path = path

    def execute(self) -> None:
        Path(self.path).write_text(self._task_name)
"""
DISPATCH = """
if __name__ == "__main__":
    import sys
    init(driver="sqlite")
    Touch(sys.argv[1]).dispatch_sync()
"""


class Known(SyncTask[None]):
    def execute(self) -> None: ...


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def python(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCTASQ_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SOON_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def name_that_ran(folder: Path, *program: str) -> str:
    """Dispatch by running `program` in `folder`, run a worker there, and return the name the task ran under."""
    ran = folder / "ran.txt"
    python(folder, *program, str(ran))
    output = python(folder, "-m", "asynctasq", "worker", "--burst", "--driver", "sqlite")
    assert ran.exists(), output
    return ran.read_text()


def test_a_task_of_a_script_runs_in_a_worker_of_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "job.py", TASK + DISPATCH)

    assert name_that_ran(tmp_path, "job.py") == "job:Touch"


def test_a_script_with_a_hyphen_in_its_name_is_found(tmp_path: Path) -> None:
    write(tmp_path / "send-mails.py", TASK + DISPATCH)

    assert name_that_ran(tmp_path, "send-mails.py") == "send-mails:Touch"


def test_a_script_in_a_folder_of_the_project_is_named_from_its_root(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "")
    write(tmp_path / "jobs" / "nightly.py", TASK + DISPATCH)

    assert name_that_ran(tmp_path, "jobs/nightly.py") == "jobs.nightly:Touch"


def test_a_script_run_inside_a_folder_of_the_project_is_found(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "")
    write(tmp_path / "jobs" / "nightly.py", TASK + DISPATCH)

    assert name_that_ran(tmp_path / "jobs", "nightly.py") == "jobs.nightly:Touch"


def test_a_module_beside_a_script_in_a_folder_of_the_project_is_found(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "")
    write(tmp_path / "jobs" / "my_tasks.py", TASK)
    write(tmp_path / "jobs" / "nightly.py", "from asynctasq import init\nfrom my_tasks import Touch\n" + DISPATCH)

    assert name_that_ran(tmp_path / "jobs", "nightly.py") == "my_tasks:Touch"


def test_a_module_run_with_m_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "__init__.py", "")
    write(tmp_path / "shop" / "jobs.py", TASK + DISPATCH)

    assert name_that_ran(tmp_path, "-m", "shop.jobs") == "shop.jobs:Touch"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("xmlrpc.server:SimpleXMLRPCServer", "xmlrpc.server"),
        ("antigravity:fly", "antigravity"),
        ("moto.server:main", "moto.server"),
        ("../elsewhere:Evil", "elsewhere"),
        ("..elsewhere:Evil", "elsewhere"),
        ("/elsewhere:Evil", "elsewhere"),
        ("venv.site-packages.evil:Evil", "venv.site-packages.evil"),
        ("", ""),
        (":", ""),
    ],
)
def test_a_name_outside_of_the_application_is_never_imported(tmp_path: Path, name: str, module: str) -> None:
    write(tmp_path / "elsewhere.py", "raise SystemExit('imported')")
    write(tmp_path / "app" / "venv" / "site-packages" / "evil.py", "raise SystemExit('imported')")
    before = set(sys.modules)

    with pytest.raises(UnknownTask):
        Application(root=tmp_path / "app", path=(str(tmp_path / "app"),)).resolve(name)

    assert module not in set(sys.modules) - before


@pytest.mark.parametrize("name", ["subprocess:Popen", "os:system", "builtins:eval", f"{__name__}:write"])
def test_what_is_imported_but_no_task_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownTask, match="no task"):
        Application(root=tmp_path).resolve(name)


def test_an_unknown_name_is_told_the_nearest_task_and_where_was_looked(tmp_path: Path) -> None:
    with pytest.raises(UnknownTask) as unknown:
        Application(("json",), tmp_path).resolve(f"{__name__}:Knwon")

    text = str(unknown.value)
    assert f"did you mean '{__name__}:Known'?" in text
    assert f"modules given with --app: json; project root: {tmp_path}" in text


def test_a_module_of_the_application_that_can_not_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "broken_by_import.py", TASK + "import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UnknownTask, match=r"its module can't be imported: .*No module named 'no_such_module_at_all'"):
        Application(root=tmp_path).resolve("broken_by_import:Touch")


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.cfg", "setup.py"])
def test_the_project_root_is_the_nearest_folder_with_a_project_file(tmp_path: Path, marker: str) -> None:
    write(tmp_path / "project" / marker, "")
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)

    assert project_root(below) == tmp_path / "project"


def test_without_a_project_file_the_root_is_where_one_stands(tmp_path: Path) -> None:
    assert project_root(tmp_path) == tmp_path
