"""`manage.py asynctasq_worker`: the options and exit codes of `asynctasq worker`, in a Django project."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import ENV_PREFIX
from tests.patience import SOON_S

SETTINGS = """
INSTALLED_APPS = ["asynctasq.integrations.django", "shop"]
SECRET_KEY = "only for tests"
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
"""
TASKS = """
from django.apps import apps
from asynctasq import SyncProcessTask, task

@task(queue="mails")
def note(text: str) -> None:
    print("noted", text, apps.ready)

class InChild(SyncProcessTask[None]):
    def execute(self) -> None:
        print("child", apps.ready)
"""
MANAGE_WITH_APPS = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "apps"))
execute_from_command_line(sys.argv)
"""
ALL_OPTIONS = """
from django.core.management import get_commands, load_command_class
from typer.main import get_command
from asynctasq.cli.app import app

command = load_command_class(get_commands()["asynctasq_worker"], "asynctasq_worker")
parser = command.create_parser("manage.py", "asynctasq_worker")
offered = {name: action.help for action in parser._actions for name in action.option_strings}
wanted = {name: option.help for option in get_command(app).commands["worker"].params for name in option.opts}
assert wanted and wanted.items() <= offered.items(), wanted.items() - offered.items()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "manage.py").write_text(MANAGE)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(TASKS)
    return tmp_path


def manage(project: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    return run(project, "manage.py", *arguments, **extra)


def run(folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**clean, **extra},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_it_runs_the_tasks_of_the_installed_apps_and_children_have_the_settings(project: Path) -> None:
    dispatch = "from shop.tasks import *; note('tea').dispatch_sync(); InChild().dispatch_sync()"
    assert manage(project, "shell", "-c", dispatch).returncode == 0

    done = manage(project, "asynctasq_worker", "--burst", "--json", "-q", "mails,default", "--process-pool-size", "1")

    assert done.returncode == ExitCode.DONE, done.stderr
    assert [(event["app"], event["queues"]) for event in events(done.stdout)[:1]] == [("shop.tasks", "mails, default")]
    assert {"noted tea True", "child True"} <= set(done.stdout.splitlines())


def test_it_takes_every_option_of_the_worker_command(project: Path) -> None:
    done = manage(project, "shell", "-c", ALL_OPTIONS)

    assert done.returncode == 0, done.stderr


def test_modules_that_are_named_stand_alone_and_configured_ones_come_first(project: Path) -> None:
    named = manage(project, "asynctasq_worker", "--burst", "--json", "--app", "json", "--app", "string")
    configured = manage(project, "asynctasq_worker", "--burst", "--json", ASYNCTASQ_APP="json")

    assert events(named.stdout)[0]["app"] == "json, string"
    assert events(configured.stdout)[0]["app"] == "json, shop.tasks"


def test_it_ends_with_the_exit_codes_of_the_worker_command(project: Path) -> None:
    wrong_value = manage(project, "asynctasq_worker", "--concurrency", "0")
    wrong_setting = manage(project, "asynctasq_worker", ASYNCTASQ_CONCURENCY="7")
    (project / "shop" / "tasks.py").write_text("import nothing_of_that_name")
    wrong_module = manage(project, "asynctasq_worker", "--burst")

    assert [wrong_value.returncode, wrong_setting.returncode] == [ExitCode.USAGE, ExitCode.CONFIGURATION]
    assert "manage.py asynctasq_worker" in wrong_value.stderr
    assert "did you mean 'concurrency'?" in wrong_setting.stderr
    assert wrong_module.returncode == ExitCode.CONFIGURATION
    assert "nothing_of_that_name" in wrong_module.stderr


def test_call_command_returns_when_the_worker_has_ended(project: Path) -> None:
    call = "from django.core.management import call_command as call; call('asynctasq_worker', burst=True, max_tasks=1)"

    done = manage(project, "shell", "-c", f"{call}; print('returned')")

    assert done.stdout.endswith("returned\n"), done.stderr


DISPATCH = "from shop.tasks import InChild; InChild().dispatch_sync()"


def run_from(folder: Path, *command: str, options: tuple[str, ...] = (), dispatch: str = DISPATCH) -> str:
    """Return what the worker wrote of a task that was dispatched and run from `folder`."""
    queue = f"sqlite:///{folder / 'queue.db'}"
    asked = run(folder, *command, "shell", "-c", dispatch, *options, ASYNCTASQ_DRIVER=queue)
    assert asked.returncode == 0, asked.stderr
    worker = ("asynctasq_worker", "--burst", "--process-pool-size", "1")
    done = run(folder, *command, *worker, *options, ASYNCTASQ_DRIVER=queue)
    assert done.returncode == ExitCode.DONE, done.stderr
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def test_it_may_be_started_in_any_folder(project: Path, elsewhere: Path) -> None:
    (elsewhere / "settings.py").write_text("raise ValueError('the settings of another project')")

    assert "child True" in run_from(elsewhere, str(project / "manage.py"))


def test_children_find_what_manage_py_puts_on_the_path(project: Path, elsewhere: Path) -> None:
    (project / "manage.py").write_text(MANAGE_WITH_APPS)
    (project / "apps").mkdir()
    (project / "shop").rename(project / "apps" / "shop")

    assert "child True" in run_from(elsewhere, str(project / "manage.py"))


def test_a_link_to_manage_py_leads_to_its_project(project: Path, elsewhere: Path) -> None:
    (elsewhere / "manage.py").symlink_to(project / "manage.py")

    assert "child True" in run_from(elsewhere, "manage.py")


@pytest.fixture
def admin(elsewhere: Path) -> str:
    """Return `django-admin`, installed beside a module that is no part of the project."""
    folder = elsewhere / "bin"
    folder.mkdir()
    (folder / "django-admin").write_text("from django.core.management import execute_from_command_line as run; run()")
    (folder / "stranger.py").write_text("from asynctasq import task\n@task\ndef t() -> None: ...\n")
    return str(folder / "django-admin")


@pytest.mark.parametrize("absolute", [True, False])
def test_with_django_admin_it_takes_the_path_that_is_given(
    project: Path, elsewhere: Path, admin: str, absolute: bool
) -> None:
    path = str(project) if absolute else os.path.relpath(project, elsewhere)

    assert "child True" in run_from(elsewhere, admin, options=("--pythonpath", path, "--settings", "settings"))
    module = ("-m", "django")
    assert "child True" in run_from(elsewhere, *module, options=("--pythonpath", path, "--settings", "settings"))


def test_what_is_installed_beside_django_admin_is_no_task(project: Path, elsewhere: Path, admin: str) -> None:
    options = ("--pythonpath", str(project), "--settings", "settings")

    out = run_from(elsewhere, admin, options=options, dispatch="import stranger; stranger.t().dispatch_sync()")

    assert "(unknown_task)" in out
