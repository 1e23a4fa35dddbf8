"""What stands in a decoded value where a class of the application is still to be put."""

from dataclasses import dataclass

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
    """A row to load: which ORM, `module:qualname` of the model, and its primary key.

    `model` is the class, where the task's own annotation names it.
    """

    orm: str
    class_path: str
    key: tuple[object, ...]
    model: type | None = None
