"""References to Tortoise models; imports nothing of Tortoise: the model brings its queries."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported

__all__ = ["TortoiseAdapter"]

Key = tuple[object, ...]


class TortoiseAdapter:
    """Loads through the model's own queries; the application must have run `Tortoise.init`."""

    name = "tortoise"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` derives from `tortoise.models.Model`."""
        return any(base.__module__ == "tortoise.models" and base.__name__ == "Model" for base in cls.__mro__)

    def key_of(self, value: object) -> Key:
        """Return the primary key of a saved row; never touches the database."""
        row = cast("Any", value)
        if row.pk is None or not row._saved_in_db:  # noqa: SLF001 - the only mark of a saved row
            raise Unsupported(f"{type(value)} is not saved, so it has no primary key; save it before dispatch")
        return (row.pk,)

    async def load(self, model: type, keys: Sequence[Key]) -> Mapping[Key, object]:
        """Return the rows that exist, by key."""
        rows = {(row.pk,): row for row in await cast("Any", model).filter(pk__in=[key[0] for key in keys])}
        return cast("dict[Key, object]", rows)
