"""Sets up an application's ORMs in the process that runs its tasks; does nothing for an ORM that is not used.

SQLAlchemy's sessions are opened and closed by the codec. Django binds connections to threads, so they are released in
the thread that an attempt used; Tortoise is initialised in an event loop, so the worker and its children do it.
"""

import asyncio
import importlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from asynctasq.codec.orm.references import release_connections, session_factories
from asynctasq.errors import ConfigError
from asynctasq.tasks.project import project_file

__all__ = ["attempt_scope", "open_orms", "release_thread_connections", "set_up_django", "thread_sensitive_call"]

DJANGO = "django.db"


# -- set-up --------------------------------------------------------------------------------------


def set_up_django() -> None:
    """Do what every program of a Django project does, if DJANGO_SETTINGS_MODULE says that this is one.

    Call it before modules of the application are imported. Repeating it changes nothing.

    Raises: ConfigError if the settings can't be used.
    """
    name = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not name or importlib.util.find_spec("django") is None:
        return
    django: Any = importlib.import_module("django")
    if importlib.import_module("django.apps").apps.ready:
        return
    try:
        django.setup()
    except Exception as error:  # the settings and the apps are user code
        raise ConfigError(
            f"DJANGO_SETTINGS_MODULE is {name!r}, but Django can't be set up: {type(error).__name__}: {error}"
        ) from error


@asynccontextmanager
async def open_orms(root: Path | None) -> AsyncGenerator[None]:
    """Initialise Tortoise if a configuration is named for it; at the end close what any ORM keeps open in this loop.

    The name is `module.VARIABLE`, in the environment variable TORTOISE_ORM or in the pyproject.toml of `root`
    ([tool.tortoise] or [tool.aerich], `tortoise_orm`), which is where Tortoise's own commands look.

    Raises: ConfigError if that name does not lead to a configuration.
    """
    name = _tortoise_name(root)
    tortoise: Any = None
    if name and importlib.util.find_spec("tortoise") is not None:
        tortoise = importlib.import_module("tortoise").Tortoise
        if tortoise._inited:  # noqa: SLF001 - the name that every version has
            tortoise = None
        else:
            await tortoise.init(config=_tortoise_config(name))
    try:
        yield
    finally:
        if tortoise is not None:
            await tortoise.close_connections()
        await _dispose_engines()


def _tortoise_name(root: Path | None) -> str:
    name = os.environ.get("TORTOISE_ORM", "")
    path = None if name else project_file(root or Path(), "pyproject.toml")
    if path is None:
        return name
    try:
        tools = cast("Mapping[str, Any]", tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} can't be read: {error}") from error
    return next((str(tools[tool]["tortoise_orm"]) for tool in ("tortoise", "aerich") if _names(tools, tool)), "")


def _names(tools: Mapping[str, Any], tool: str) -> bool:
    return "tortoise_orm" in tools.get(tool, {})


def _tortoise_config(name: str) -> object:
    module, _, variable = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), variable)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"Tortoise's configuration is named as {name!r}, which can't be imported: {error}; "
            "name a variable in a module that can be imported, like app.settings.TORTOISE_ORM"
        ) from error


async def _dispose_engines() -> None:
    """Close the pools of SQLAlchemy's engines, so that a server sees its clients leave."""
    engines: dict[int, Any] = {}
    for factory in session_factories():
        options: Mapping[str, Any] = getattr(factory, "kw", {})
        bound: Mapping[object, Any] = options.get("binds") or {}
        for engine in (options.get("bind"), *bound.values()):
            if callable(getattr(engine, "dispose", None)):
                engines[id(engine)] = engine
    for engine in engines.values():
        done = engine.dispose()
        if done is not None:
            await done


# -- one attempt ---------------------------------------------------------------------------------


def attempt_scope() -> AbstractAsyncContextManager[None] | None:
    """Return the context manager that an attempt in the event loop runs in, None where there is nothing to do.

    With Django each attempt has a thread of its own for synchronous code, as a request has under ASGI: attempts do not
    wait for each other, and the connections of one are closed without closing another's.
    """
    return _DjangoScope() if DJANGO in sys.modules else None


class _DjangoScope(AbstractAsyncContextManager[None]):
    """A class, since an event loop closes the generators that a crash left open, which would change a simulation."""

    def __init__(self) -> None:
        self._sync: Any = importlib.import_module("asgiref.sync")
        self._threads: Any = self._sync.ThreadSensitiveContext()

    async def __aenter__(self) -> None:
        await self._threads.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._threads in self._sync.SyncToAsync.context_to_thread_executor:  # a thread was used
                await self._sync.sync_to_async(release_connections)(all_of_them=True)
        finally:
            await self._threads.__aexit__(kind, error, trace)


def thread_sensitive_call() -> Callable[[Callable[[], Any]], "asyncio.Future[Any]"] | None:
    """Return what starts a blocking call in the thread that Django's tests use; None where Django is not set up.

    The rows of a test's transaction are seen there alone; from another thread a task would wait for their locks.
    """
    if DJANGO not in sys.modules or not sys.modules["django.conf"].settings.configured:
        return None
    sync: Any = importlib.import_module("asgiref.sync")

    def start(call: Callable[[], Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.ensure_future(sync.sync_to_async(call, thread_sensitive=True)())
        return future

    return start


def release_thread_connections() -> None:
    """Release the connections that Django opened in this thread, by its own rule (CONN_MAX_AGE, broken ones)."""
    if DJANGO in sys.modules:
        db: Any = sys.modules[DJANGO]
        if sys.modules["django.conf"].settings.configured:
            db.reset_queries()
            release_connections()
