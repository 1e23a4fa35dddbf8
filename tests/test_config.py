"""Where settings come from, which source wins, and what a wrong one is told."""

from pathlib import Path
from typing import Any

import pytest

import asynctasq
from asynctasq.config import Settings, load_settings
from asynctasq.core import setup
from asynctasq.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pyproject(root: Path, table: str) -> None:
    (root / "pyproject.toml").write_text(f"[tool.asynctasq]\n{table}\n")


def dotenv(root: Path, text: str) -> None:
    (root / ".env").write_text(f"{text}\n")


def test_nothing_configured_is_sqlite(root: Path) -> None:
    assert load_settings().driver == "sqlite"


def test_pyproject_wins_over_the_default(root: Path) -> None:
    pyproject(root, "concurrency = 2")

    assert load_settings().concurrency == 2


def test_dotenv_wins_over_pyproject(root: Path) -> None:
    pyproject(root, "concurrency = 2")
    dotenv(root, "ASYNCTASQ_CONCURRENCY=3")

    assert load_settings().concurrency == 3


def test_the_environment_wins_over_dotenv(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(root, "ASYNCTASQ_CONCURRENCY=3")
    monkeypatch.setenv("ASYNCTASQ_CONCURRENCY", "4")

    assert load_settings().concurrency == 4


def test_what_is_given_wins_over_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_CONCURRENCY", "4")

    assert load_settings({"concurrency": 5}).concurrency == 5


def test_an_empty_variable_counts_as_absent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(root, "ASYNCTASQ_CONCURRENCY=3")
    monkeypatch.setenv("ASYNCTASQ_CONCURRENCY", "")

    assert load_settings().concurrency == 3


def test_an_unknown_key_given_names_the_nearest(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"init\(\) has an unknown setting 'concurency'; did you mean 'concurrency'"):
        load_settings({"concurency": 1})


def test_an_unknown_variable_names_the_nearest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_REDIS_ULR", "x")

    with pytest.raises(ConfigError, match="the environment has an unknown setting 'redis_ulr'; did you mean 'redis_u"):
        load_settings()


def test_the_factor_for_deadlines_of_tests_is_no_setting(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_TEST_PATIENCE", "2")

    assert load_settings(root=root).driver == "sqlite"


def test_an_unknown_line_of_dotenv_names_the_file_and_the_nearest(root: Path) -> None:
    dotenv(root, "ASYNCTASQ_DRIVR=redis")

    with pytest.raises(ConfigError, match=r"\.env has an unknown setting 'drivr'; did you mean 'driver'"):
        load_settings()


def test_an_unknown_key_in_pyproject_names_the_file_and_the_nearest(root: Path) -> None:
    pyproject(root, 'queue = "a"')

    with pytest.raises(ConfigError, match=r"pyproject\.toml has an unknown setting 'queue'; did you mean 'queues'"):
        load_settings()


def test_variables_of_others_are_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(root, "DJANGO_DRIVR=redis")
    monkeypatch.setenv("ASYNCTAS_NOTHING", "x")

    assert load_settings().driver == "sqlite"


@pytest.mark.parametrize("text", ["not toml =", "[tool]\nasynctasq = 5"])
def test_a_broken_pyproject_is_told_by_its_path(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"pyproject\.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", 0),
        ("concurrency", "many"),
        ("lease_s", 0),
        ("lease_s", float("nan")),
        ("shutdown_timeout_s", -1),
        ("sqlite_durability", "none"),
        ("body_bytes_max", -1),
        ("driver", 5),
    ],
)
def test_a_wrong_value_is_told_by_the_name_of_its_setting(root: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"wrong setting: {name}: "):
        load_settings({name: value})


def test_modules_are_separated_by_commas(root: Path) -> None:
    assert load_settings({"app": "shop.tasks, mail ,"}).app == ("shop.tasks", "mail")


@pytest.mark.parametrize("source", ["environment", "dotenv"])
def test_signing_keys_are_a_json_object_outside_of_python(
    root: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("ASYNCTASQ_SIGNING_KEYS", '{"a": "hunter2"}')
    else:
        dotenv(root, """ASYNCTASQ_SIGNING_KEYS='{"a": "hunter2"}'""")

    assert setup.signing_key_bytes(load_settings()) == {"a": b"hunter2"}


@pytest.mark.parametrize(
    "given",
    [
        {"signing_keys": "hunter2"},
        {"signing_keys": {"a": ["hunter2"]}},
        {"redis_password": ["hunter2"]},
        {"redis_url": ["redis://:hunter2@host"]},
        {"redis_url": "redis://:hunter2@host:port", "driver": "redis"},
        {"driver": "redis://user:hunter2@host:port"},
        {"driver": "nosuch://user:hunter2@host"},
    ],
)
def test_no_secret_is_in_an_error(root: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as wrong:
        asynctasq.init(given)

    assert "hunter2" not in f"{wrong.value!r}{wrong.value.__cause__!r}"


@pytest.mark.parametrize(
    "given",
    [
        {"redis_url": "redis://:hunter2@host"},
        {"driver": "redis://:hunter2@host"},
        {"postgres_url": "postgresql://user:hunter2@host/db"},
        {"redis_password": "hunter2"},
        {"signing_keys": {"a": "hunter2"}},
    ],
)
def test_no_secret_is_shown_by_settings(root: Path, given: dict[str, Any]) -> None:
    settings = Settings(**given)

    assert "hunter2" not in f"{settings!r}{settings}"


def test_init_twice_leaves_the_second(root: Path) -> None:
    asynctasq.init(driver="memory", concurrency=1)

    asynctasq.init({"driver": "memory", "concurrency": 2})

    assert setup.current_setup().settings.concurrency == 2


def test_a_wrong_init_leaves_the_earlier(root: Path) -> None:
    asynctasq.init(driver="memory", concurrency=1)

    with pytest.raises(ConfigError):
        asynctasq.init(concurrency=0)

    assert setup.current_setup().settings.concurrency == 1


def test_init_after_a_pinned_setup_is_ignored(root: Path) -> None:
    setup.install(setup.Setup(load_settings({"driver": "memory", "concurrency": 7})), pin=True)

    asynctasq.init(driver="memory", concurrency=1)

    assert setup.current_setup().settings.concurrency == 7


def test_init_after_a_pinned_setup_is_still_checked(root: Path) -> None:
    setup.install(setup.Setup(load_settings({"driver": "memory"})), pin=True)

    with pytest.raises(ConfigError, match="concurency"):
        asynctasq.init(concurency=1)


def test_without_init_the_environment_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCTASQ_DRIVER", "memory")

    assert str(setup.default_queue().driver) == "memory (this process only)"
