"""What stands in a decoded value where a class of the application is still to be put."""

from dataclasses import dataclass, field

__all__ = ["ModelReference", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """A plain value that the task's annotations turn into an enum, dataclass, named tuple or pydantic model.

    `name` only chooses between the classes that the annotation names; nothing is ever looked up by it.
    Compared and hashed by identity, so that it can stand in a set or as a key until it is rebuilt.
    """

    name: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """A row to load: which ORM, the model's name in that ORM's own registry, and the row's primary key.

    `database` is the alias of the database it came from, where the ORM says so. `model` is the class, where the
    task's own annotation names it; it is no part of what the reference means.
    """

    orm: str
    model_name: str
    key: tuple[object, ...]
    database: str | None = None
    model: type | None = field(default=None, compare=False)
