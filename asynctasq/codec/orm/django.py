"""References to Django models; imports nothing of Django but what the application has imported already."""

import enum
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import ConfigError

__all__ = ["DjangoAdapter", "release_connections"]

Key = tuple[object, ...]


class DjangoAdapter:
    """Loads through the model's base manager, as Django itself does for related rows.

    A model is stored as `app_label.ModelName` and is looked up in `django.apps`; so is the alias of its database.
    """

    name = "django"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` derives from `django.db.models.Model`."""
        return any(base.__module__ == "django.db.models.base" and base.__name__ == "Model" for base in cls.__mro__)

    def name_of(self, cls: type) -> str:
        """Return `app_label.ModelName`."""
        return cast("str", cast("Any", cls)._meta.label)  # noqa: SLF001 - documented

    def find(self, model_name: str) -> Sequence[type]:
        """Return the model that is registered under this label.

        Raises: ConfigError if Django is not set up in this process.
        """
        registry: Any = sys.modules.get("django.apps")
        if registry is None or not registry.apps.apps_ready:
            raise ConfigError(
                f"the message refers to the Django model {model_name}, but Django is not set up here: "
                "set DJANGO_SETTINGS_MODULE, or call django.setup() in a module that is given with --app"
            )
        label, _, name = model_name.partition(".")
        try:
            return [registry.apps.get_registered_model(label, name)]
        except LookupError:
            return []

    def reference(self, value: object) -> tuple[Key, str | None]:
        """Return the primary key of a saved row and its database's alias; does no I/O."""
        row = cast("Any", value)
        if row.pk is None or row._state.adding:  # noqa: SLF001 - Django documents `_state`
            raise Unsupported(f"{type(value)} is not saved, so it has no primary key; save it before dispatch")
        fields = _key_fields(type(value))
        values = cast("Key", row.pk) if len(fields) > 1 else (row.pk,)
        key = tuple(_plain(field, part) for field, part in zip(fields, values, strict=True))
        database = cast("str | None", row._state.db)  # noqa: SLF001
        return key, None if database == "default" else database

    def needs_event_loop(self, model: type) -> bool:  # noqa: ARG002
        """Return False: Django's asynchronous methods run the synchronous ones in a thread."""
        return False

    async def load(
        self,
        model: type,
        keys: Sequence[Key],
        database: str | None = None,
        *,
        foreign_loop: bool = False,  # noqa: ARG002
    ) -> Mapping[Key, object]:
        """Return the rows that exist, by key, from the database they came from.

        The connection is released afterwards by Django's own rule (CONN_MAX_AGE): the task may run in another thread,
        and for hours.

        Raises: ConfigError if this process knows no such database.
        """
        from asgiref.sync import sync_to_async
        from django.db import connections  # type: ignore[import-untyped] # no stubs

        alias = database or "default"
        if alias not in connections:
            raise ConfigError(
                f"a {self.name_of(model)} came from the database {alias!r}, which DATABASES does not name here; "
                "give the worker the settings of the process that dispatches"
            )
        manager = cast("Any", model)._base_manager.using(alias)  # noqa: SLF001 - documented; no filter narrows it
        try:
            return await _rows(manager, keys)
        finally:
            await sync_to_async(release_connections)()


def release_connections(*, all_of_them: bool = False) -> None:
    """Close the connections of this thread, all or those of Django's own rule (CONN_MAX_AGE, broken ones).

    A connection inside a transaction stays open: in a simulation it is the test's.
    """
    from django.db import connections

    mine = cast("list[Any]", connections.all(initialized_only=True))
    for connection in mine:
        if not connection.in_atomic_block:
            if all_of_them:
                connection.close()
            else:
                connection.close_if_unusable_or_obsolete()


async def _rows(manager: Any, keys: Sequence[Key]) -> dict[Key, object]:
    rows: dict[Key, object] = {}
    if len(keys) > 1 and all(len(key) == 1 for key in keys):
        rows = {(pk,): row for pk, row in (await manager.ain_bulk([key[0] for key in keys])).items()}
    for key in keys:
        if key not in rows:
            row = await manager.filter(pk=_orm_key(key)).afirst()
            if row is not None:
                rows[key] = row
    return rows


def _key_fields(model: type) -> list[Any]:
    pk = cast("Any", model)._meta.pk  # noqa: SLF001 - documented
    return list(getattr(pk, "fields", None) or [pk])  # CompositePrimaryKey


def _orm_key(key: Key) -> object:
    """Return a simple key as Django takes it, a composite one as a tuple."""
    return key if len(key) > 1 else next(iter(key))


def _plain(field: Any, part: object) -> object:
    """Return the value as a row read from the database has it."""
    return field.to_python(part.value if isinstance(part, enum.Enum) else part)
