"""Models are dispatched in one process and arrive in a worker's: SQLAlchemy, Django, Tortoise; SQLite, PostgreSQL."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from asynctasq.config import ENV_PREFIX
from tests.codec.orm.databases import KINDS, Database, database
from tests.patience import patient_s

APPS = Path(__file__).with_name("orm_apps")
LIMIT_S = patient_s(60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with an application, its database and a queue in SQLite."""

    folder: Path
    database: Database

    def python(self, *arguments: str, **extra: str) -> str:
        """Run Python in the folder and return its output; its stderr is the message if it fails."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        environment = {**clean, "APP_NOTES": str(self.folder / "notes"), "PYTHONWARNINGS": "error", **extra}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def work(self, *options: str, **extra: str) -> str:
        """Run a worker until nothing is left."""
        return self.python(
            "-m", "asynctasq", "worker", "--burst", "--process-pool-size", "1", "--concurrency", "1", *options, **extra
        )

    @property
    def notes(self) -> list[str]:
        return sorted((self.folder / "notes").read_text().splitlines())


def times(count: int, *lines: str) -> list[str]:
    return [line for line in lines for _ in range(count)]


@pytest.fixture(params=KINDS)
def project(request, conformance_servers, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    with database(request.param, conformance_servers, tmp_path) as made:
        yield Project(folder=tmp_path, database=made)


def test_sqlalchemy_models_arrive_in_every_mode(project):
    shutil.copy(APPS / "sqlalchemy_app.py", project.folder)
    url = {"APP_DATABASE": project.database.sqlalchemy_async}
    project.python("sqlalchemy_app.py", **url)

    project.work(**url)

    assert project.notes == times(
        2,
        "Fails new 9.5 ValueError held=0",
        "InLoop new 9.5 new 9.5 held=0",
        "InLoopOfProcess new 9.5 new held=0",
        "InProcess new 9.5 held=0",
        "InThread new 9.5 held=0",
    )


def test_django_models_arrive_in_every_mode_and_connections_are_given_back(project):
    shutil.copytree(APPS / "django_project", project.folder, dirs_exist_ok=True)
    known = {"APP_DATABASE": json.dumps(project.database.django), "DJANGO_SETTINGS_MODULE": "settings"}
    project.python("dispatch.py", **known)

    project.work(**known)

    its_own = "-" if project.database.kind == "sqlite" else 1
    assert project.notes == times(
        3,
        f"Fails tea DoesNotExist top open={its_own}",
        f"InLoop tea 1 open={its_own}",
        f"InLoopOfProcess tea 1 open={its_own}",
        f"InProcess tea top open={its_own}",
        f"InThread tea top open={its_own}",
    )


def test_tortoise_models_arrive_in_every_mode(project):
    shutil.copy(APPS / "tortoise_app.py", project.folder)
    (project.folder / "pyproject.toml").write_text('[tool.tortoise]\ntortoise_orm = "tortoise_app.TORTOISE_ORM"\n')
    url = {"APP_DATABASE": project.database.tortoise}
    project.python("tortoise_app.py", **url)

    project.work(**url)

    assert project.notes == times(
        2,
        "Fails First ValueError",
        "InLoop First new new 1",
        "InLoopOfProcess First new 1",
        "InProcess First new",
        "InThread First new",
    )
