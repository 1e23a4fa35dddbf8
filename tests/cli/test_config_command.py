"""`asynctasq config show`: where each value comes from, and no secret among them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from asynctasq.cli.app import app
from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import Settings

PYPROJECT = """
[tool.asynctasq]
queues = "a,b"
concurrency = 3
lease_s = 10

[tool.asynctasq.schedules.nightly]
task = "shop:Report"
cron = "0 3 * * *"
"""
DOTENV = "ASYNCTASQ_POSTGRES_URL=postgresql://me:hidden@h/db\nASYNCTASQ_CONCURRENCY=4\nASYNCTASQ_LEASE_S=20\n"
SECRETS = ("hidden", "hush", "very secret")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / ".env").write_text(DOTENV)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "LEASE_S": "40",
        "SIGNING_KEYS": '{"k1": "very secret"}',
        "REDIS_PASSWORD": "hush",
        "DRIVER": "redis://u:hidden@localhost/2",
    }.items():
        monkeypatch.setenv(f"ASYNCTASQ_{name}", value)
    return tmp_path


def show(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["config", "show", *arguments])
    assert done.exit_code == ExitCode.DONE, done.output
    assert not [secret for secret in SECRETS if secret in done.output]
    return done.output


def shown(*arguments: str) -> dict[str, tuple[Any, str]]:
    return {each["setting"]: (each["value"], each["source"]) for each in json.loads(show("--json", *arguments))}


def test_each_setting_is_shown_with_the_source_that_wins(project: Path) -> None:
    found = shown()

    assert list(found) == list(Settings.model_fields)
    in_pyproject = f"[tool.asynctasq] in {project / 'pyproject.toml'}"
    assert found["driver"] == ("redis://***@localhost/2", "the environment")
    assert found["lease_s"] == (40.0, "the environment")
    assert found["concurrency"] == (4, str(project / ".env"))
    assert found["queues"] == ("a,b", in_pyproject)
    assert found["schedules"] == ({"nightly": {"task": "shop:Report", "cron": "0 3 * * *"}}, in_pyproject)
    assert found["broker_timeout_s"] == (60.0, "default")


def test_secrets_are_asterisks() -> None:
    found = shown()

    assert found["redis_password"][0] == "*" * 10
    assert found["signing_keys"][0] == {"k1": "*" * 10}
    assert found["postgres_url"][0] == "postgresql://***@h/db"


def test_the_command_line_wins_but_a_bare_name_keeps_the_address_of_that_driver() -> None:
    assert shown("--driver", "sqlite")["driver"] == ("sqlite", "the command line")
    assert shown("--driver", "redis")["driver"] == ("redis://***@localhost/2", "the environment")


def test_people_get_a_table() -> None:
    lines = {line.split()[0]: line.split() for line in show().splitlines()}

    assert lines["setting"] == ["setting", "value", "from"]
    assert lines["sqlite_path"][1:] == ["-", "default"]
    assert lines["concurrency"][1] == "4"


def test_a_wrong_setting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_CONCURENCY", "4")

    done = CliRunner().invoke(app, ["config", "show"])

    assert done.exit_code == ExitCode.CONFIGURATION
    assert "did you mean 'concurrency'?" in done.output
