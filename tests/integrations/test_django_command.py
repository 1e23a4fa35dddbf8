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

SOON_S = 30.0
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
    clean = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=project,
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
