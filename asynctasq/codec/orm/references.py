"""References to ORM models: a name and a primary key, loaded when the task runs. Imports nothing a payload names."""

import asyncio
import dataclasses
import functools
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from asynctasq.codec._structure import LEAVES, check_hashes
from asynctasq.codec.extensions import ENCODERS, Unsupported
from asynctasq.codec.orm.django import DjangoAdapter, release_connections
from asynctasq.codec.orm.sqlalchemy import SQLAlchemyAdapter, session_factories
from asynctasq.codec.orm.tortoise import TortoiseAdapter
from asynctasq.codec.records import kind_of, make_container
from asynctasq.errors import ModelNotFoundError, UndecodableBody
from asynctasq.kernel.envelope import MISSING_DEFAULT, Missing
from asynctasq.logs import get_logger

__all__ = [
    "LoadInAnotherLoop",
    "ModelReference",
    "ReferenceAdapter",
    "UnresolvedArguments",
    "adapter_for",
    "has_references",
    "reference_to",
    "register_adapter",
    "release_connections",
    "resolve_for_hooks",
    "resolve_references",
    "session_factories",
    "with_references",
]

logger = get_logger(__name__)

Key = tuple[object, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ModelReference:
    """A row to load: which ORM, the model's name in that ORM's own registry, and the row's primary key.

    `database` is the alias of the database it came from, where the ORM says so. `model` is the class, where the
    task's own annotation names it, `allowed` the classes that the annotation allows, None for any; two references that
    differ only in these are equal.
    """

    orm: str
    model_name: str
    key: tuple[object, ...]
    database: str | None = None
    model: type | None = dataclasses.field(default=None, compare=False)
    allowed: tuple[type, ...] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        """Show the row as a reader of a failing test knows it: `Post pk=13`."""
        name = self.model_name.rpartition(":")[2].rpartition(".")[2]
        key = self.key[0] if len(self.key) == 1 else self.key
        return f"{name} pk={key!r}{'' if self.database in (None, 'default') else f' in {self.database!r}'}"


Rows = Mapping[ModelReference, object]
LoadInAnotherLoop = Callable[[Callable[[], Coroutine[Any, Any, Mapping[Key, object]]]], Awaitable[Mapping[Key, object]]]
"""Runs a load in another event loop, which can do I/O, for callers whose own loop can't."""

KEY_TYPES = LEAVES.union(ENCODERS) - {type(None)}


class UnresolvedArguments(dict[str, object]):
    """Arguments with at least one `ModelReference` in them, for `resolve_references`."""


class ReferenceAdapter(Protocol):
    """How the models of one ORM are recognised and loaded. Must not import its ORM before the application has."""

    @property
    def name(self) -> str:
        """The ORM's name, as references hold it."""
        ...

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` is a mapped class of this ORM."""
        ...

    def name_of(self, cls: type) -> str:
        """Return the model's name, as references hold it."""
        ...

    def find(self, model_name: str) -> Sequence[type]:
        """Return the models of that name in the ORM's own registry.

        Raises: ConfigError if the ORM is not set up here.
        """
        ...

    def reference(self, value: object) -> tuple[Key, str | None]:
        """Return primary key and database alias without any I/O.

        Raises: `extensions.Unsupported` for a row that is not saved, ConfigError if no worker could load it.
        """
        ...

    def needs_event_loop(self, model: type) -> bool:
        """Return whether `load` awaits threads or sockets of its own, which a simulated loop can't serve."""
        ...

    async def load(
        self, model: type, keys: Sequence[Key], database: str | None = None, *, foreign_loop: bool = False
    ) -> Mapping[Key, object]:
        """Return the rows that exist, by the key they were asked with; hold no connection afterwards.

        `foreign_loop` says that this is not the loop of the application's own connections.
        """
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


# --- dispatch --------------------------------------------------------------------------------------------------


def reference_to(value: object) -> ModelReference | None:
    """Return the reference to a model's row, or None if `value` is no model.

    Raises: Unsupported if the row is not saved or its key can't be serialized, ConfigError if no worker could load it.
    """
    cls = type(value)
    adapter = adapter_for(cls)
    if adapter is None:
        return None
    key, database = adapter.reference(value)
    return ModelReference(
        orm=adapter.name,
        model_name=adapter.name_of(cls),
        key=tuple(_plain_key(part, cls) for part in key),
        database=database,
    )


def _plain_key(part: object, cls: type) -> object:
    if isinstance(part, uuid.UUID):  # asyncpg has a class of its own
        return uuid.UUID(int=part.int)
    if type(part) not in KEY_TYPES:
        raise Unsupported(
            f"the primary key of {cls} holds {part!r}, a {type(part)}, which can't be serialized in a reference"
        )
    return part


def with_references(value: object) -> object:
    """Return `value` with references in place of the models in it, for comparing; unsaved ones stay."""
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        return {with_references(key): with_references(item) for key, item in mapping.items()}
    if cls in {list, tuple, set, frozenset}:
        return make_container(cls, [with_references(item) for item in cast("list[object]", value)])
    try:
        return reference_to(value) or value
    except Unsupported:
        return value


# --- worker ----------------------------------------------------------------------------------------------------


async def resolve_references(
    arguments: dict[str, object],
    *,
    missing: Missing = MISSING_DEFAULT,
    load_in_another_loop: LoadInAnotherLoop | None = None,
) -> dict[str, object]:
    """Return the arguments with every row loaded: one load per class and database, all at the same time.

    With `missing="none"` a row that does not exist is None. `load_in_another_loop` loads what the running loop can't.

    Raises: ModelNotFoundError naming class and key, UndecodableBody for a class that is not one of the application's
    models, ConfigError for an ORM that is not set up, and whatever the ORM raises.
    """
    references = list(_references_in(list(arguments.values())))
    try:
        check_hashes(references)
    except Unsupported as error:
        raise UndecodableBody(f"the message refers to models by keys that no database has: {error}") from error
    models: dict[ModelReference, type] = {}
    for reference in references:
        if reference not in models:
            models[reference] = _model_of(reference)
        _check_allowed(reference, models[reference])
    rows: dict[ModelReference, object] = {}
    loads = [_load(group, load_in_another_loop) for group in _groups(models)]
    for loaded in await asyncio.gather(*loads, return_exceptions=True):
        if isinstance(loaded, BaseException):
            raise loaded
        rows |= loaded
    for reference, model in models.items():
        if reference not in rows:
            if missing != "none":
                raise _not_found(reference, model, final=missing == "fail")
            rows[reference] = None
    return {name: _with_rows(value, rows) for name, value in arguments.items()}


async def resolve_for_hooks(
    arguments: dict[str, object],
    *,
    timeout_s: float | None = None,
    load_in_another_loop: LoadInAnotherLoop | None = None,
) -> dict[str, object]:
    """Do `resolve_references` for an instance whose attempt has failed: None for each row not loaded in time.

    Raises: UndecodableBody.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await resolve_references(arguments, missing="none", load_in_another_loop=load_in_another_loop)
    except UndecodableBody:
        raise
    except Exception:
        logger.exception("the models of a task could not be loaded for its hooks, which get None for them")
        rows = dict.fromkeys(_references_in(list(arguments.values())))
        return {name: _with_rows(value, rows) for name, value in arguments.items()}


def has_references(arguments: dict[str, object]) -> bool:
    """Return whether there is anything in the arguments to be loaded."""
    return isinstance(arguments, UnresolvedArguments) or ModelReference in set(map(type, arguments.values()))


_Group = tuple[type, str | None, list[ModelReference]]


def _groups(models: Mapping[ModelReference, type]) -> list[_Group]:
    """Return what is loaded together: the rows of one class in one database."""
    groups: dict[tuple[type, str | None], list[ModelReference]] = {}
    for reference, model in models.items():
        groups.setdefault((model, reference.database), []).append(reference)
    return [(model, database, references) for (model, database), references in groups.items()]


async def _load(group: _Group, load_in_another_loop: LoadInAnotherLoop | None) -> dict[ModelReference, object]:
    model, database, references = group
    adapter = adapter_for(model)
    assert adapter is not None, "_model_of returns models only"
    keys = [reference.key for reference in references]
    if load_in_another_loop is not None and adapter.needs_event_loop(model):
        found = await load_in_another_loop(lambda: _load_in_foreign_loop(adapter, model, keys, database))
    else:
        found = await adapter.load(model, keys, database)
    return {reference: found[reference.key] for reference in references if reference.key in found}


async def _load_in_foreign_loop(
    adapter: ReferenceAdapter, model: type, keys: Sequence[Key], database: str | None
) -> Mapping[Key, object]:
    return await adapter.load(model, keys, database, foreign_loop=True)


def _not_found(reference: ModelReference, model: type, *, final: bool) -> ModelNotFoundError:
    key = reference.key
    shown = key[0] if len(key) == 1 else key
    place = "" if reference.database is None else f" in the database {reference.database!r}"
    name = f"{model.__module__}.{model.__qualname__}"
    return ModelNotFoundError(
        f"no row of {name} has the primary key {shown!r}{place}: "
        "it was deleted after the dispatch, or its transaction is not committed yet",
        model=name,
        key=key,
        final=final,
    )


def _check_allowed(reference: ModelReference, model: type) -> None:
    """Raise UndecodableBody for a row of a class that the annotation of its place does not name."""
    if reference.allowed is not None and not issubclass(model, reference.allowed):
        names = ", ".join(sorted(cls.__qualname__ for cls in reference.allowed)) or "no model"
        raise UndecodableBody(
            f"the message refers to the {reference.orm} model {model.__qualname__} where the task's annotation names "
            f"{names}; annotate the parameter with the model if it may be there"
        )


def _model_of(reference: ModelReference) -> type:
    """Return the class: the annotation's if that has the name, else the one the ORM's own registry has under it."""
    adapter = _adapters.get(reference.orm)
    if adapter is None:
        raise UndecodableBody(f"a reference of the ORM {reference.orm!r}, for which there is no adapter here")
    annotated = reference.model
    if annotated is not None:
        if not adapter.is_model(annotated):
            annotated = None
        elif adapter.name_of(annotated) == reference.model_name:
            return annotated
    found = adapter.find(reference.model_name)
    if len(found) == 1:
        return found[0]
    if annotated is not None:  # the same class in a module that has another name here
        return annotated
    if found:
        raise UndecodableBody(
            f"the message refers to the {reference.orm} model {reference.model_name!r}, of which there are "
            f"{len(found)} here; annotate the task's parameter with the one that is meant"
        )
    raise UndecodableBody(
        f"the message refers to {reference.model_name!r}, which is not an imported {reference.orm} model; "
        "import it in the worker's app, or annotate the task's parameter with it"
    )


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
        return rows[value]
    cls = type(value)
    if cls is dict:
        mapping = cast("dict[object, object]", value)
        return {_with_rows(key, rows): _with_rows(item, rows) for key, item in mapping.items()}
    if cls in {list, tuple, set, frozenset}:
        return make_container(cls, [_with_rows(item, rows) for item in cast("list[object]", value)])
    kind = kind_of(cls)
    if kind is None or not any(True for _ in _references_in([value])):
        return value
    return kind.put_together(cls, kind.map_parts(cls, kind.take_apart(value), lambda _, part: _with_rows(part, rows)))
