"""What the package shows, ships, and imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import asynctasq
import asynctasq.testing
from tests.patience import SOON_S

PACKAGE = Path(asynctasq.__file__).parent


def loaded_by(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON_S, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


def test_the_public_names_are_these() -> None:
    assert asynctasq.__all__ == [
        "AsyncProcessTask",
        "AsyncTask",
        "Cron",
        "Every",
        "Reject",
        "Resource",
        "Retry",
        "Snooze",
        "SyncProcessTask",
        "SyncTask",
        "Task",
        "Worker",
        "cancel",
        "cancel_sync",
        "close",
        "current_task",
        "dispatch_many",
        "dispatch_many_sync",
        "init",
        "resource",
        "result",
        "result_sync",
        "status",
        "status_sync",
        "task",
    ]


@pytest.mark.parametrize("name", asynctasq.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(asynctasq, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'asynctasq' has no attribute 'nothing'"):
        asynctasq.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "pydantic_settings", "typer", "rich", "redis", "asyncpg", "asyncmy", "msgpack", "sqlite3"}

    loaded = loaded_by("import asynctasq")

    assert not loaded & {*heavy, "aiobotocore", "uvloop", "pytest", "asynctasq.core", "asynctasq.codec"}


def test_importing_the_pytest_plugin_imports_nothing_heavy() -> None:
    loaded = loaded_by("import asynctasq.testing.plugin")

    assert not loaded & {"hypothesis", "freezegun", "typer", "rich", "pydantic", "redis", "asyncpg"}


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_scripts_of_the_redis_driver_are_beside_it() -> None:
    assert list((PACKAGE / "drivers" / "redis_driver" / "scripts").glob("*.lua"))


@pytest.mark.parametrize("name", asynctasq.testing.__all__)
def test_every_public_test_tool_is_there(name: str) -> None:
    assert getattr(asynctasq.testing, name).__doc__


def test_a_test_tool_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'asynctasq\.testing' has no attribute 'nothing'"):
        asynctasq.testing.nothing  # noqa: B018


def test_importing_the_test_tools_imports_none_of_them() -> None:
    loaded = loaded_by("import asynctasq.testing")

    assert not {name for name in loaded if name.startswith("asynctasq.testing.")}
