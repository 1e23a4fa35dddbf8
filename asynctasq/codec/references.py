"""ORM models travel as class and primary key, and are loaded fresh; no module that a payload names is imported."""

import asyncio
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Protocol, cast

from asynctasq.codec._orm_django import DjangoAdapter
from asynctasq.codec._orm_sqlalchemy import SQLAlchemyAdapter
from asynctasq.codec._orm_tortoise import TortoiseAdapter
from asynctasq.codec._structure import LEAVES
from asynctasq.codec.placeholders import ModelReference
from asynctasq.codec.records import kind_of, remake
from asynctasq.errors import AsyncTasqError, UndecodableBody

__all__ = [
    "MissingRow",
    "ReferenceAdapter",
    "UnresolvedArguments",
    "adapter_for",
    "reference_to",
    "register_adapter",
    "resolve_references",
]

Key = tuple[object, ...]
Rows = dict[tuple[type, Key], object]


class MissingRow(AsyncTasqError, LookupError):
    """A row that a task was dispatched with no longer exists."""


class UnresolvedArguments(dict[str, object]):
    """Arguments with at least one `ModelReference` in them, for `resolve_references`."""


class ReferenceAdapter(Protocol):
    """How the models of one ORM are recognised and loaded. Must not import its ORM before it has met a model."""

    @property
    def name(self) -> str:
        """The name that travels."""
        ...

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` is a mapped class of this ORM."""
        ...

    def key_of(self, value: object) -> Key:
        """Return the primary key; raise `extensions.Unsupported` for a row that is not saved."""
        ...

    async def load(self, model: type, keys: Sequence[Key]) -> Mapping[Key, object]:
        """Return the rows that exist, by the key they were asked with."""
        ...


_adapters: dict[str, ReferenceAdapter] = {
    adapter.name: adapter for adapter in (SQLAlchemyAdapter(), DjangoAdapter(), TortoiseAdapter())
}


def register_adapter(adapter: ReferenceAdapter) -> None:
    """Add an ORM, or replace the adapter of that name."""
    _adapters[adapter.name] = adapter
    _adapter_for.cache_clear()


def adapter_for(cls: type) -> ReferenceAdapter | None:
    """Return the adapter whose model `cls` is, or None."""
    return _adapter_for(cls)


@functools.lru_cache(maxsize=2048)
def _adapter_for(cls: type) -> ReferenceAdapter | None:
    return next((adapter for adapter in _adapters.values() if adapter.is_model(cls)), None)


def reference_to(value: object) -> ModelReference | None:
    """Return the reference to a model's row, or None if `value` is no model.

    Raises: Unsupported if the row is not saved.
    """
    cls = type(value)
    adapter = adapter_for(cls)
    if adapter is None:
        return None
    module = _main_name() if cls.__module__ == "__main__" else cls.__module__
    key = adapter.key_of(value)
    return ModelReference(orm=adapter.name, class_path=f"{module}:{cls.__qualname__}", key=key)


def _main_name() -> str:
    """Return the name under which the script that runs can be imported."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name.removesuffix(".__main__")
    return PurePath(getattr(main, "__file__", None) or "__main__").stem


# --- worker ----------------------------------------------------------------------------------------------------


async def resolve_references(arguments: dict[str, object]) -> dict[str, object]:
    """Return the arguments with every row loaded: one load per class, all at the same time.

    Raises: MissingRow naming class and key, UndecodableBody for a class that is not one of the application's models,
    and whatever the ORM raises.
    """
    if not isinstance(arguments, UnresolvedArguments) and ModelReference not in set(map(type, arguments.values())):
        return arguments
    wanted: dict[type, dict[Key, None]] = {}
    for reference in _references_in(list(arguments.values())):
        wanted.setdefault(_model_of(reference), {})[reference.key] = None
    loads = [_load(model, list(keys)) for model, keys in wanted.items()]
    rows: Rows = {}
    for loaded in await asyncio.gather(*loads, return_exceptions=True):
        if isinstance(loaded, BaseException):
            raise loaded
        rows |= loaded
    return {name: _with_rows(value, rows) for name, value in arguments.items()}


async def _load(model: type, keys: list[Key]) -> Rows:
    adapter = adapter_for(model)
    assert adapter is not None
    found = await adapter.load(model, keys)
    for key in keys:
        if key not in found:
            shown = key[0] if len(key) == 1 else key
            raise MissingRow(
                f"no row of {model.__module__}.{model.__qualname__} has the primary key {shown!r}: "
                "it was deleted after the dispatch, or its transaction was not committed"
            )
    return {(model, key): found[key] for key in keys}


def _model_of(reference: ModelReference) -> type:
    """Return the class: the annotation's, or an already imported one that is a model of that ORM."""
    adapter = _adapters.get(reference.orm)
    if adapter is None:
        raise UndecodableBody(f"a reference of the ORM {reference.orm!r}, for which there is no adapter here")
    found = reference.model if reference.model is not None else _imported(reference.class_path)
    if not isinstance(found, type) or not adapter.is_model(found):
        raise UndecodableBody(
            f"the message refers to the model {reference.class_path!r}, which is not an imported "
            f"{reference.orm} model; import it in the worker's app, or annotate the task's parameter with it"
        )
    return found


def _imported(class_path: str) -> object:
    """Return the object of that path if its module is imported already; looks only, and runs no code."""
    module_name, _, qualname = class_path.partition(":")
    found: object = sys.modules.get(module_name)
    if found is None and module_name == _main_name():
        found = sys.modules["__main__"]
    for name in qualname.split("."):
        # Not getattr: a module's own __getattr__ may import.
        if not isinstance(found, ModuleType | type):
            return None
        found = vars(found).get(name)
    return found


def _references_in(layer: list[object]) -> Iterable[ModelReference]:
    while layer:
        below: list[object] = []
        for value in layer:
            if isinstance(value, ModelReference):
                yield value
            else:
                below += [part for part in _parts(value) if type(part) not in LEAVES]
        layer = below


def _parts(value: object) -> Iterable[object]:
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        return [*mapping, *mapping.values()]
    if cls in {list, tuple, set, frozenset}:
        return cast("list[object]", value)
    kind = kind_of(cls)
    return [] if kind is None or adapter_for(cls) else [part for _, part in kind.parts(value)]


def _with_rows(value: object, rows: Rows) -> object:
    if isinstance(value, ModelReference):
        return rows[_model_of(value), value.key]
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        return {_with_rows(key, rows): _with_rows(item, rows) for key, item in mapping.items()}
    if cls in {list, tuple, set, frozenset}:
        return remake(cls, [_with_rows(item, rows) for item in cast("list[object]", value)])
    kind = kind_of(cls)
    if kind is None or not any(True for _ in _references_in([value])):
        return value
    return kind.put_together(cls, kind.map_parts(cls, kind.take_apart(value), lambda _, part: _with_rows(part, rows)))
