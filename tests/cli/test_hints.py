"""What our errors, logs and help texts advise to run or to install works as it stands."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import asynctasq
from asynctasq.cli.app import app
from asynctasq.config import ENV_PREFIX, NO_SETTINGS, Settings, load_settings
from asynctasq.core.setup import driver_from
from asynctasq.drivers.urls import SCHEMES, create_driver
from asynctasq.errors import MissingExtra

PACKAGE = Path(asynctasq.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMAND = re.compile(r"(?:run: |`)asynctasq ([a-z]+)((?: --?[a-z-]+(?: [^\s`;,.)]+)?)*)")
EXTRA = re.compile(r"asynctasq\[([a-z0-9,_{}-]+)\]")
VARIABLE = re.compile(rf"{ENV_PREFIX}([A-Z_]+[A-Z])\b")
OF_TESTS = {"redis_url", "postgres_url", "mysql_url", "sqs_url"}
"""Variables that name servers for tests."""


def texts() -> Iterator[tuple[str, str]]:
    """Yield every string of the package with its place; what an f-string puts in is shown as `{}`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value


def found(pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    return [(place, match) for place, text in texts() for match in pattern.finditer(text)]


def test_every_command_that_a_text_names_is_one_of_ours_with_its_options() -> None:
    commands = getattr(get_command(app), "commands")  # noqa: B009 - a group, which typer's own type hides
    hints = found(COMMAND)

    assert len(hints) >= 5
    for place, hint in hints:
        assert hint[1] in commands, f"{place}: asynctasq {hint[1]}"
        options = {option for parameter in commands[hint[1]].params for option in parameter.opts}
        for option in re.findall(r" (--?[a-z-]+)", hint[2]):
            assert option in options, f"{place}: asynctasq {hint[1]} {option}"


def test_every_extra_that_a_text_names_exists() -> None:
    hints = [(place, name) for place, hint in found(EXTRA) for name in hint[1].split(",")]

    assert len(hints) >= 5
    for place, name in hints:
        assert name == "{}" or name in PROJECT["optional-dependencies"], f"{place}: asynctasq[{name}]"


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme not in {"memory", "sqlite"}])
def test_a_driver_without_its_library_names_an_extra_that_exists(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'library'", name="library")

    monkeypatch.setattr("importlib.import_module", missing)

    with pytest.raises(MissingExtra) as raised:
        create_driver(scheme)

    assert EXTRA.findall(str(raised.value))[0] in PROJECT["optional-dependencies"]


def test_every_variable_that_a_text_names_is_read() -> None:
    for place, hint in found(VARIABLE):
        name = hint[1].lower()
        assert name in {*Settings.model_fields, *NO_SETTINGS, *OF_TESTS}, f"{place}: {hint[0]}"


def test_the_advised_migration_goes_to_the_database_that_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_DRIVER", "postgresql://u@127.0.0.1:1/shop")

    result = CliRunner().invoke(app, ["migrate", "--driver", "postgres"])

    assert "127.0.0.1:1/shop" in result.output


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("postgres", "postgresql://u@db/shop"),
        ("mysql", "mariadb://u@db/shop"),
        ("redis", "rediss://db:6379/1"),
        ("sqlite", "sqlite:///tmp/q.db"),
    ],
)
def test_a_driver_given_by_name_keeps_the_address_of_the_environment(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCTASQ_DRIVER", url)

    assert load_settings({"driver": name}).driver == url
    assert str(driver_from(load_settings(), name)) == str(create_driver(url))


def test_a_driver_given_by_the_name_of_another_kind_leaves_the_address() -> None:
    assert load_settings({"driver": "redis"}).driver == "redis"
