"""References to Tortoise models; imports nothing of Tortoise but what the application has imported already."""

import asyncio
import enum
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import ConfigError

__all__ = ["TortoiseAdapter"]

Key = tuple[object, ...]


class TortoiseAdapter:
    """Loads through the model's own queries.

    A model travels as `app.ModelName` and is looked up in `Tortoise.apps`.
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
        """Return the primary key of a saved row; never touches the database."""
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
        query = cast("Any", model).filter(pk__in=[key[0] for key in keys])
        if not foreign_loop:
            return _by_key(await query)
        connection, is_ours = await _connection_for_this_loop(model)
        try:
            return _by_key(await query.using_db(connection))
        finally:
            if is_ours:
                await connection.close()


def _by_key(rows: Sequence[Any]) -> dict[Key, object]:
    return {(row.pk,): row for row in rows}


async def _connection_for_this_loop(model: type) -> tuple[Any, bool]:
    """Return a connection that works here, and whether it was made for this.

    SQLite's belong to no loop, and one in memory is the database itself. Asked outside of any loop, Tortoise does
    not replace a connection because it was made in another one.
    """
    connection: Any = await asyncio.to_thread(lambda: cast("Any", model)._meta.db)  # noqa: SLF001
    if connection.capabilities.dialect == "sqlite":
        return connection, False
    from tortoise import connections

    return connections._create_connection(connection.connection_name), True  # noqa: SLF001
