"""References to Django models; imports nothing of Django: the model brings its manager."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported

__all__ = ["DjangoAdapter"]

Key = tuple[object, ...]


class DjangoAdapter:
    """Loads through the model's base manager, as Django itself does for related rows."""

    name = "django"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` derives from `django.db.models.Model`."""
        return any(base.__module__ == "django.db.models.base" and base.__name__ == "Model" for base in cls.__mro__)

    def key_of(self, value: object) -> Key:
        """Return the primary key of a saved row; never touches the database."""
        row = cast("Any", value)
        if row.pk is None or row._state.adding:  # noqa: SLF001 - Django documents `_state`
            raise Unsupported(f"{type(value)} is not saved, so it has no primary key; save it before dispatch")
        key = cast("object", row.pk)
        return cast("Key", key) if isinstance(key, tuple) else (key,)

    async def load(self, model: type, keys: Sequence[Key]) -> Mapping[Key, object]:
        """Return the rows that exist, by key."""
        manager = cast("Any", model)._base_manager  # noqa: SLF001 - documented, and not narrowed by a custom filter
        rows: dict[Key, object] = {}
        if len(keys) > 1 and all(len(key) == 1 for key in keys):
            rows = {(pk,): row for pk, row in (await manager.ain_bulk([key[0] for key in keys])).items()}
        for key in keys:
            if key not in rows:
                row = await manager.filter(pk=_bare(key)).afirst()
                if row is not None:
                    rows[key] = row
        return rows


def _bare(key: Key) -> object:
    """Return a simple key as the ORM takes it, a composite one as a tuple."""
    return key if len(key) > 1 else next(iter(key))
