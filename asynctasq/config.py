"""Settings: `init({...})`, then environment `ASYNCTASQ_*`, then `.env`, then `[tool.asynctasq]` in pyproject.toml."""

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from asynctasq.drivers.urls import names_kind_of, redact
from asynctasq.errors import ConfigError
from asynctasq.kernel.schedule import Misfire
from asynctasq.tasks.configured import check_lifespan, check_middleware
from asynctasq.tasks.project import project_file, project_root

if TYPE_CHECKING:
    from asynctasq.tasks.schedules import Schedule

__all__ = ["ENV_PREFIX", "GIVEN", "ScheduleSetting", "Settings", "load_settings", "setting_sources"]

ENV_PREFIX = "ASYNCTASQ_"
GIVEN, ENVIRONMENT = "init()", "the environment"
"""What two of the sources are called."""
NO_SETTINGS = frozenset({"test_patience"})
"""Variables with the prefix that tests read, in `asynctasq.testing`."""
NEVER_EMPTY = frozenset({"signing_keys"})
"""Settings that must not be switched off by a variable that was meant to hold a value."""
ADDRESSES = frozenset({"driver", "redis_url", "postgres_url", "mysql_url", "sqs_endpoint_url", "sqs_queue_url_prefix"})
"""Settings that may hold a password."""
Names = Annotated[tuple[str, ...], NoDecode]
Objects = Annotated[tuple[object, ...], NoDecode]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveCount = Annotated[int, Field(ge=1)]


class ScheduleSetting(BaseModel):
    """One schedule in the settings: the task as `module:name`, and `cron` or `every`, seconds or {minutes = 5}."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(pattern=r".+:.+")
    cron: str | None = None
    every: float | Mapping[Literal["weeks", "days", "hours", "minutes", "seconds"], float] | None = None
    tz: str | None = None
    misfire: Misfire = "run_once"
    jitter: float = 0
    arguments: Mapping[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.schedule()
        return self

    def schedule(self) -> "Schedule":
        """Return the schedule; raise ValueError if it can't work."""
        from asynctasq.tasks.schedules import Cron, Every  # few configurations have any

        if (self.cron is None) == (self.every is None):
            raise ValueError("give either cron or every")
        if self.cron is not None:
            tz = self.tz or "UTC"
            return Cron(self.cron, tz=tz, misfire=self.misfire, jitter=self.jitter, arguments=self.arguments)
        if self.tz is not None:
            raise ValueError("every has no time zone; leave tz out, or use cron")
        every = self.every
        if isinstance(every, Mapping):
            every = timedelta(**{str(unit): count for unit, count in every.items()}).total_seconds()
        return Every(seconds=every or 0.0, misfire=self.misfire, jitter=self.jitter, arguments=self.arguments)


class Settings(BaseSettings):
    """Every setting there is. Names in the environment are these, upper case, after `ASYNCTASQ_`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    driver: str = Field("sqlite", description="Where tasks go: a driver's name or a URL.")
    sqlite_path: str | None = Field(None, description="File of the SQLite driver; default: .asynctasq/queue.db.")
    sqlite_durability: Literal["full", "normal"] | None = Field(
        None, description="full: a commit survives power loss; normal: it survives a crash of the process."
    )
    redis_url: str | None = Field(None, description="redis:// or rediss:// address; also +sentinel:// and +cluster://.")
    redis_password: SecretStr | None = Field(None, description="Password, when it should not be in the URL.")
    redis_db: int | None = Field(None, ge=0, description="Number of the Redis database.")
    redis_max_connections: PositiveCount | None = Field(None, description="Connections per event loop.")
    postgres_url: str | None = Field(None, description="postgresql:// address.")
    mysql_url: str | None = Field(None, description="mysql:// or mariadb:// address.")
    sqs_region: str | None = Field(None, description="AWS region.")
    sqs_endpoint_url: str | None = Field(None, description="Another endpoint than AWS's, such as a test server.")
    sqs_queue_url_prefix: str | None = Field(
        None, description="What queue URLs start with, if the worker may not look them up."
    )
    app: Names = Field((), description="Modules that define tasks, separated by commas.")
    schedules: Annotated[Mapping[str, ScheduleSetting], NoDecode] = Field(
        {}, description="Name -> task and when workers run it: cron or every, and tz, misfire, jitter, arguments."
    )
    middleware: Objects = Field(
        (), description="What is wrapped around dispatches and attempts, outermost first: package.module:name, ..."
    )
    lifespan: Objects = Field((), description="What a worker enters before its first task: package.module:name, ...")
    queues: str = Field("default", description="Queues of a worker: a,b in strict order or a:3,b:1 by weight.")
    concurrency: PositiveCount = Field(10, description="Attempts at once in a worker.")
    process_pool_size: PositiveCount | None = Field(
        None, description="Child processes; default: the number of processors."
    )
    process_pool_max_tasks_per_child: PositiveCount | None = Field(
        None, description="Replace a child after so many tasks."
    )
    lease_s: PositiveSeconds = Field(30.0, description="Seconds a message is held without renewal.")
    shutdown_timeout_s: Annotated[float, Field(ge=0)] = Field(
        30.0, description="Seconds running attempts may take to end after the first signal."
    )
    broker_timeout_s: PositiveSeconds = Field(60.0, description="Seconds without the backend before a worker gives up.")
    health: str | None = Field(
        None, description="PORT or HOST:PORT at which a worker answers health checks; default: nowhere."
    )
    ready_file: str | None = Field(None, description="File that is there while a worker takes tasks; default: none.")
    body_bytes_max: PositiveCount = Field(10 * 1024 * 1024, description="Largest encoded message, in bytes.")
    dead_ttl: PositiveSeconds | None = Field(
        None, description="Seconds until a dead letter is removed; default: 90 days. Not for SQS."
    )
    dead_max: PositiveCount | None = Field(
        None, description="Dead letters kept in a queue, the newest; default: 100,000. Not for SQS."
    )
    signing_keys: Annotated[Mapping[str, SecretStr] | None, NoDecode] = Field(
        None, description="Key id -> secret; bodies are signed with the first and accepted with any."
    )
    signing_ttl_s: PositiveSeconds | None = Field(
        None, description="Seconds after a message is due until its signature is refused; default: never."
    )

    @field_validator("app", "middleware", "lifespan", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("schedules", mode="before")
    @classmethod
    def _read_schedules(cls, value: object) -> object:
        """Read the JSON object that the environment and .env hold."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(
                'must be a JSON object such as {"nightly": {"task": "shop:Report", "cron": "0 3 * * *"}}'
            ) from None

    @field_validator("middleware", "lifespan")
    @classmethod
    def _check_objects(cls, value: tuple[object, ...], info: ValidationInfo) -> tuple[object, ...]:
        for entry in value:
            if not isinstance(entry, str):
                (check_middleware if info.field_name == "middleware" else check_lifespan)(entry)
        return value

    @field_validator("signing_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: object) -> object:
        """Read the JSON object that the environment and .env hold; nothing in it is a mistake, not a wish."""
        if value is None:  # the default
            return None
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise ValueError('must be a JSON object such as {"2026": "the secret"}') from None
        if not value:
            raise ValueError("holds no key; give one, or leave the setting out to sign nothing")
        return value

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact(value) if name in ADDRESSES and isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return init_settings, env_settings


def load_settings(given: Mapping[str, Any] | None = None, *, root: Path | None = None) -> Settings:
    """Read all sources; `given` wins. `.env` and pyproject.toml are looked for in the project root.

    A driver given by its bare name keeps an address of that driver that another source has.

    Raises: ConfigError for an unknown key, naming the nearest right one, a wrong value, or a file that another user may
    have placed there. Secrets are not shown.
    """
    sources = _read_sources(given, root)
    values: dict[str, Any] = {}
    for source in reversed(sources):
        if source.title == ENVIRONMENT:  # which pydantic reads itself
            values = {name: value for name, value in values.items() if name not in source.names}
        else:
            values |= source.names
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def setting_sources(given: Mapping[str, Any] | None = None, *, root: Path | None = None) -> dict[str, str]:
    """Return where the value of each setting comes from that is not the default: what `load_settings` would take.

    Raises: ConfigError for an unknown key.
    """
    sources = reversed(_read_sources(given, root))
    return {name: source.title for source in sources for name in source.names}


class _Source(NamedTuple):
    title: str
    names: Mapping[str, Any]


def _read_sources(given: Mapping[str, Any] | None, root: Path | None) -> list[_Source]:
    """Return the sources, the one that wins first."""
    root = root or project_root()
    files = [source for source in (_from_dotenv(root), _from_pyproject(root)) if source is not None]
    environment, arguments = _Source(ENVIRONMENT, _names_in_environment(os.environ)), dict(given or {})
    for title, names in ((GIVEN, arguments), environment):
        _check_names(title, names)
        for name in NEVER_EMPTY.intersection(names):
            if names[name] is None or names[name] == "":  # which pydantic would take for a setting left out
                raise ConfigError(f"{title} sets {name} to nothing; give it a value or leave it out")
    configured = next((found for source in (environment, *files) if (found := source.names.get("driver"))), None)
    if configured and names_kind_of(str(arguments.get("driver")), str(configured)):
        del arguments["driver"]
    return [_Source(GIVEN, arguments), environment, *files]


def _names_in_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {
        name[len(ENV_PREFIX) :].lower(): value
        for name, value in environment.items()
        if name.upper().startswith(ENV_PREFIX) and (value or name[len(ENV_PREFIX) :].lower() in NEVER_EMPTY)
    }
    return {name: value for name, value in names.items() if name not in NO_SETTINGS}


def _from_dotenv(root: Path) -> _Source | None:
    path = project_file(root, ".env")
    if path is None:
        return None
    from dotenv import dotenv_values

    names = _names_in_environment({key: value or "" for key, value in dotenv_values(path).items()})
    _check_names(str(path), names)
    return _Source(str(path), names)


def _from_pyproject(root: Path) -> _Source | None:
    path = project_file(root, "pyproject.toml")
    if path is None:
        return None
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("asynctasq", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"asynctasq under [tool] in {path} must be a table: [tool.asynctasq]")
    source = _Source(f"[tool.asynctasq] in {path}", cast("dict[str, Any]", table))
    _check_names(*source)
    return source


def _check_names(source: str, names: Mapping[str, object]) -> None:
    for name in names:
        if name not in Settings.model_fields:
            nearest = get_close_matches(name, Settings.model_fields, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(Settings.model_fields)}"
            raise ConfigError(f"{source} has an unknown setting {name!r}; {hint}")


def _explain(error: ValidationError) -> str:
    lines = [
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors(include_input=False)
    ]
    return "wrong setting: " + "; ".join(lines)
