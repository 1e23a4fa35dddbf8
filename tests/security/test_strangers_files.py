"""Whose files configure a worker: what another user can put above, or into, the folder it is started in is not read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynctasq.config import load_settings
from asynctasq.errors import ConfigError
from asynctasq.tasks import project
from asynctasq.tasks.module_files import files_of_module
from asynctasq.tasks.project import project_root
from tests.patience import SOON_S

Status = dict[str, int]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a path have another owner, mode or file system than it can be given without being root."""
    changed: dict[Path, Status] = {}

    def patched(original: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def stat(self: Path, *args: Any, **given: Any) -> os.stat_result:
            status = original(self, *args, **given)
            fields = list(status[:10])
            for name, value in changed.get(self, {}).items():
                fields[("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid").index(name)] = value
            return os.stat_result(fields)

        return stat

    monkeypatch.setattr(Path, "stat", patched(Path.stat))
    monkeypatch.setattr(Path, "lstat", patched(Path.lstat))
    monkeypatch.setattr(project, "_user", lambda: 1000)

    def look(path: Path, **status: int) -> None:
        changed.setdefault(path, {}).update(status)

    return look


@pytest.fixture
def folders(tmp_path: Path, looks: Callable[..., None]) -> tuple[Path, Path]:
    """A folder with a project file and one below, both of the user 1000."""
    above, below = tmp_path / "above", tmp_path / "above" / "below"
    below.mkdir(parents=True)
    (above / "setup.py").touch()
    (above / ".env").write_text("ASYNCTASQ_DRIVER=redis://attacker.invalid")
    for folder in (above, below):
        looks(folder, st_uid=1000, st_mode=0o40755)
    return above, below


MINE_IS_THE_SAME = [
    {},
    {"st_uid": 0},
    {"st_mode": 0o40775},
]
A_STRANGER_MAY_WRITE = [
    {"st_uid": 1001},
    {"st_mode": 0o40777},
    {"st_uid": 0, "st_mode": 0o41777},
    {"st_uid": 0, "st_mode": 0o42775},
    {"st_dev": -1},
]


@pytest.mark.parametrize("status", MINE_IS_THE_SAME)
def test_the_root_is_found_above(folders: tuple[Path, Path], looks: Callable[..., None], status: Status) -> None:
    above, below = folders
    looks(above, **status)

    assert project_root(below) == above


@pytest.mark.parametrize("status", A_STRANGER_MAY_WRITE)
def test_the_root_is_not_where_others_may_write(
    folders: tuple[Path, Path], looks: Callable[..., None], status: Status
) -> None:
    above, below = folders
    looks(above, **status)

    assert project_root(below) == below
    assert load_settings(root=project_root(below)).driver == "sqlite"


def test_a_container_of_root_works_in_the_folder_of_another(
    folders: tuple[Path, Path], looks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the host that a container mounts keeps its owner."""
    above, below = folders
    monkeypatch.setattr(project, "_user", lambda: 0)

    assert project_root(below) == above
    assert load_settings(root=above).driver == "redis://attacker.invalid"


@pytest.mark.parametrize("name", [".env", "pyproject.toml"])
def test_a_file_of_another_in_a_folder_of_everybody_is_not_read(
    folders: tuple[Path, Path], looks: Callable[..., None], name: str
) -> None:
    _, folder = folders
    looks(folder, st_uid=0, st_mode=0o41777)
    (folder / name).touch()
    looks(folder / name, st_uid=1001)

    with pytest.raises(ConfigError, match="belongs to another user"):
        load_settings(root=folder)

    looks(folder / name, st_uid=1000)
    assert load_settings(root=folder).driver == "sqlite"


def test_a_module_of_another_in_a_folder_of_everybody_is_none(
    folders: tuple[Path, Path], looks: Callable[..., None]
) -> None:
    _, folder = folders
    looks(folder, st_uid=0, st_mode=0o41777)
    (folder / "jobs.py").touch()
    looks(folder / "jobs.py", st_uid=1000)
    assert files_of_module("jobs", folder) == [folder / "jobs.py"]

    looks(folder / "jobs.py", st_uid=1001)
    (folder / "shop").mkdir()
    looks(folder / "shop", st_uid=1001, st_mode=0o40755)
    for name in ("__init__.py", "jobs.py"):
        (folder / "shop" / name).touch()

    assert files_of_module("jobs", folder) is None
    assert files_of_module("shop", folder) is None
    assert files_of_module("shop.jobs", folder) is None


def test_the_project_is_last_on_the_path_of_a_worker(tmp_path: Path) -> None:
    """What is installed comes first: a file beside the project can't take its place."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "path_told.py").write_text("import json, sys\nprint(json.dumps(sys.path), file=sys.stderr)\n")
    code = "from asynctasq.cli.app import app; app()"
    command = [sys.executable, "-P", "-c", code, "worker", "--app", "path_told", "--burst", "--driver", "sqlite"]

    done = subprocess.run(command, cwd=tmp_path / "below", capture_output=True, text=True, timeout=SOON_S, check=True)

    path = done.stderr.strip().splitlines()[-1]
    assert path.endswith(f'"{tmp_path / "below"}", "{tmp_path}"]')
