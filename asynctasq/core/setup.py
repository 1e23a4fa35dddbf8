"""The application's default queue: made by `init`, or from the environment when it is first needed."""

import atexit
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.config import ENV_PREFIX, Settings, load_settings
from asynctasq.drivers.base import Driver
from asynctasq.drivers.urls import SCHEMES, create_driver, names_kind_of, split_options, sqlite_url
from asynctasq.errors import ConfigError, DispatchError
from asynctasq.logs import get_logger
from asynctasq.queue import MessageFactory, Queue, background_loop
from asynctasq.tasks.dispatching import set_default_dispatcher
from asynctasq.tasks.project import project_root

__all__ = [
    "Setup",
    "application_settings",
    "close",
    "current_setup",
    "default_queue",
    "dispatch_to_only",
    "driver_from",
    "init",
    "install",
    "installed_setup",
]

logger = get_logger(__name__)


class Setup:
    """Settings, and the drivers made from them: one per name. `in_use` says that a worker runs with them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.in_use = False
        self._drivers: dict[str, Driver] = {}
        self._lock = threading.Lock()
        secrets = signing_key_bytes(settings)
        self.queue = Queue(
            self.driver(settings.driver),
            find_driver=self.driver,
            factory=MessageFactory(
                keys=None if secrets is None else SigningKeys(secrets),
                signing_ttl_s=settings.signing_ttl_s,
                limits=Limits(body_bytes_max=settings.body_bytes_max),
            ),
            middleware=settings.middleware,
        )

    def driver(self, name: str) -> Driver:
        """Return the driver of a name or URL, configured by the settings of its kind."""
        with self._lock:
            if name not in self._drivers:
                self._drivers[name] = driver_from(self.settings, name)
            return self._drivers[name]

    def adopt(self, other: Settings) -> None:
        """Take middleware and lifespan of these settings, which hold in every process of the application.

        A worker that runs already keeps its own.
        """
        wanted = {"middleware": other.middleware, "lifespan": other.lifespan}
        if not self.in_use:
            self.settings = self.settings.model_copy(update=wanted)
            self.queue.middleware = other.middleware
        elif wanted != {"middleware": self.settings.middleware, "lifespan": self.settings.lifespan}:
            logger.error(
                "init() gave middleware or a lifespan in a module that was imported when the worker ran already, which "
                "goes on without them; name that module with --app, or write them into pyproject.toml"
            )

    async def close(self) -> None:
        """Close what every driver has open in the running loop."""
        for driver in list(self._drivers.values()):
            await driver.close()


def driver_from(settings: Settings, name: str) -> Driver:
    """Return a new driver for a URL (as it stands, but for the password) or a name.

    A name's address is the setting of its kind, else that of the application's driver if it is of that kind.
    """
    kind, is_url, _ = name.partition("://")
    options: dict[str, Any] = {}
    address = settings.driver if names_kind_of(name, settings.driver) else name
    if kind.split("+")[0] in ("redis", "rediss"):
        password = settings.redis_password
        options = {
            "password": None if password is None else password.get_secret_value(),
            "db": settings.redis_db,
            "max_connections": settings.redis_max_connections,
        }
        address = name if is_url else settings.redis_url or address
    elif kind in ("postgres", "postgresql"):
        address = name if is_url else settings.postgres_url or address
    elif kind in ("mysql", "mariadb"):
        address = name if is_url else settings.mysql_url or address
    elif kind == "sqs":
        options = {
            "region": settings.sqs_region,
            "endpoint_url": settings.sqs_endpoint_url,
            "queue_url_prefix": settings.sqs_queue_url_prefix,
        }
    elif kind == "sqlite" and not is_url:
        options = {"durability": settings.sqlite_durability}
        address = address if settings.sqlite_path is None else sqlite_url(Path(settings.sqlite_path))
    if kind in SCHEMES and kind != "sqs":
        in_url = split_options(address)[1]
        kept = {"dead_ttl": settings.dead_ttl, "dead_max": settings.dead_max}
        options |= {option: value for option, value in kept.items() if option not in in_url}
    return create_driver(address, **{key: value for key, value in options.items() if value is not None})


def signing_key_bytes(settings: Settings) -> dict[str, bytes] | None:
    """Return the signing keys as bytes by id; None if there are none."""
    if settings.signing_keys is None:
        return None
    return {key_id: secret.get_secret_value().encode() for key_id, secret in settings.signing_keys.items()}


_current: Setup | None = None
_replaced: list[Setup] = []
_pinned = False
_lock = threading.RLock()


def init(config: Mapping[str, Any] | None = None, **settings: Any) -> None:
    """Configure the application: `init({"driver": "redis"})` or `init(driver="redis")`.

    Opens nothing. Calling it again replaces the earlier configuration. Inside a worker it only checks: the
    worker's own configuration stands, but for `middleware` and `lifespan`, which the worker takes before it starts.

    Raises: ConfigError for unknown or wrong settings.
    """
    install(Setup(load_settings({**(config or {}), **settings})))


def install(setup: Setup, *, pin: bool = False) -> None:
    """Make `setup` the application's; with `pin`, later ones are ignored (a worker's command line wins)."""
    global _current, _pinned
    with _lock:
        if _pinned and not pin:
            if _current is not None:
                _current.adopt(setup.settings)
            return
        if _current is not None:
            _replaced.append(_current)
        _current, _pinned = setup, pin


def dispatch_to_only(url: str) -> None:
    """Let dispatches of this process go to this driver, whatever is configured; refuse them if `url` is empty."""
    if url:
        install(Setup(load_settings({"driver": url})), pin=True)
    else:
        set_default_dispatcher(_refuse_dispatch)


def _refuse_dispatch() -> Queue:
    raise DispatchError(
        "a task in a child process of a test can't dispatch to this driver, which no other process reaches by a URL; "
        "use a task that runs in the test's process, or a driver such as sqlite"
    )


def current_setup() -> Setup:
    """Return the application's configuration; read it from the environment if `init` was not called."""
    with _lock:
        if _current is None:
            install(Setup(load_settings()))
        if _current is None:
            raise ConfigError("no configuration could be made")
        return _current


def installed_setup() -> Setup | None:
    """Return the configuration made so far; None if the environment was not read yet and `init` not called."""
    return _current


_read: tuple[object, Settings | None] = (None, None)
"""What was read from the environment without installing it, and the state of the environment it was read from."""


def application_settings() -> Settings:
    """Return the settings that hold, those of the environment if `init` was not called; installs nothing.

    The environment is read again when it, or a file of the project root, has changed.

    Raises: ConfigError.
    """
    global _read  # noqa: PLW0603 - reading the files at every start of a worker costs more than a whole test may
    if _current is not None:
        return _current.settings
    sources, read = _sources(), _read
    if read[1] is None or read[0] != sources:
        _read = read = (sources, load_settings())
    assert read[1] is not None, "just read"
    return read[1]


def _sources() -> object:
    root = str(project_root())
    environment = [(name, os.environ.get(name)) for name in os.environ if name.upper().startswith(ENV_PREFIX)]
    return (root, environment, *(_changed_at(os.path.join(root, name)) for name in (".env", "pyproject.toml")))


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def default_queue() -> Queue:
    """Return the queue that dispatches go to by default."""
    return current_setup().queue


async def close() -> None:
    """Close what the application's drivers, replaced ones included, have open in the running loop."""
    with _lock:
        setups = [*_replaced, *([] if _current is None else [_current])]
    for setup in setups:
        await setup.close()


atexit.register(background_loop.run_if_started, close)
