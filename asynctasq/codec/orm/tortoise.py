"""References to Tortoise models; imports nothing of Tortoise but what the application has imported already."""

import asyncio
import copy
import enum
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import ConfigError

__all__ = ["TortoiseAdapter"]

KEYS_PER_QUERY = 500

Key = tuple[object, ...]


class TortoiseAdapter:
    """Loads through the model's own queries.

    A model is stored as `app.ModelName` and is looked up in `Tortoise.apps`.
    """

    name = "tortoise"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` derives from `tortoise.models.Model`."""
        return any(base.__module__ == "tortoise.models" and base.__name__ == "Model" for base in cls.__mro__)

    def name_of(self, cls: type) -> str:
        """Return `app.ModelName`; the app is known once `Tortoise.init` has run."""
        return f"{cast('Any', cls)._meta.app}.{cls.__name__}"  # noqa: SLF001 - Tortoise documents `_meta`

    def find(self, model_name: str) -> Sequence[type]:
        """Return the model that is registered under this name.

        Raises: ConfigError if Tortoise is not initialised in this context.
        """
        module: Any = sys.modules.get("tortoise")
        apps = None if module is None else module.Tortoise.apps
        if not apps:
            raise ConfigError(
                f"the message refers to the Tortoise model {model_name}, but Tortoise is not initialised here: "
                "name your configuration, like app.settings.TORTOISE_ORM, in pyproject.toml ([tool.tortoise] "
                "tortoise_orm) or in the environment variable TORTOISE_ORM"
            )
        app, _, name = model_name.partition(".")
        models: Mapping[str, type] = apps[app] if app in apps else {}  # noqa: SIM401 - Tortoise 1's Apps has no get
        return [models[name]] if name in models else []

    def reference(self, value: object) -> tuple[Key, str | None]:
        """Return the primary key of a saved row; does no I/O."""
        row = cast("Any", value)
        if row.pk is None or not row._saved_in_db:  # noqa: SLF001 - the only mark of a saved row
            raise Unsupported(f"{type(value)} is not saved, so it has no primary key; save it before dispatch")
        part: object = row.pk.value if isinstance(row.pk, enum.Enum) else row.pk
        return (row._meta.pk.to_python_value(part),), None  # noqa: SLF001

    def needs_event_loop(self, model: type) -> bool:  # noqa: ARG002
        """Return True: every driver awaits a thread or a socket."""
        return True

    async def load(
        self,
        model: type,
        keys: Sequence[Key],
        database: str | None = None,  # noqa: ARG002 - a row does not say which connection it came from
        *,
        foreign_loop: bool = False,
    ) -> Mapping[Key, object]:
        """Return the rows that exist, by key. With `foreign_loop`, leave the application's connections as they are."""
        wanted = [key[0] for key in keys]
        if not foreign_loop:
            return await _rows(model, wanted)
        async with _connection_for_this_loop(model):
            return await _rows(model, wanted)


async def _rows(model: type, wanted: list[object]) -> dict[Key, object]:
    found: dict[Key, object] = {}
    for start in range(0, len(wanted), KEYS_PER_QUERY):
        chunk = wanted[start : start + KEYS_PER_QUERY]
        found |= {(row.pk,): row for row in await cast("Any", model).filter(pk__in=chunk)}
    return found


@asynccontextmanager
async def _connection_for_this_loop(model: type) -> AsyncGenerator[None]:
    """Let queries of this context use a connection that works here.

    Tortoise would replace a connection that was made in another loop, and lose a database in memory with it, but not
    when asked outside of any loop. SQLite's connections work in every loop; for other databases a new one is made.
    """
    connection: Any = await asyncio.to_thread(lambda: cast("Any", model)._meta.db)  # noqa: SLF001
    from tortoise import connections

    shared = connection.capabilities.dialect == "sqlite"
    if shared:
        here = copy.copy(connection)
        here._bound_loop = None  # noqa: SLF001
    else:
        here = connections._create_connection(connection.connection_name)  # noqa: SLF001
    token = connections.set(connection.connection_name, here)
    try:
        yield
    finally:
        connections.reset(token)
        if not shared:
            await here.close()
