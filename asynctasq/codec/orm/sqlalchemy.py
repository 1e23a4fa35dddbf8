"""References to SQLAlchemy models; imports SQLAlchemy only once the application has."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import ConfigError

__all__ = ["SQLAlchemyAdapter", "session_factories"]

FACTORY_ATTRIBUTE = "_asynctasq_session_factory"
KEYS_PER_QUERY = 500

Key = tuple[object, ...]
Factory = Callable[[], Any]


class SQLAlchemyAdapter:
    """Loads through the session factory that stands on the model's Base, async or sync.

    A model is stored as `module:qualname` and is looked up among the mapped classes of every registry there is.
    """

    name = "sqlalchemy"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` is mapped (declarative or imperative)."""
        mappers = (vars(base)["__mapper__"] for base in cls.__mro__ if "__mapper__" in vars(base))
        return any(type(mapper).__module__ == "sqlalchemy.orm.mapper" for mapper in mappers)

    def name_of(self, cls: type) -> str:
        """Return `module:qualname`; the script that runs has its importable name."""
        return f"{_importable_module(cls.__module__)}:{cls.__qualname__}"

    def find(self, model_name: str) -> Sequence[type]:
        """Return the mapped classes of that name; a class that was defined twice may be there twice."""
        return [cls for cls in _mapped_classes() if self.name_of(cls) == model_name]

    def reference(self, value: object) -> tuple[Key, str | None]:
        """Return the identity the session gave the row; does no I/O."""
        import sqlalchemy

        state = sqlalchemy.inspect(value)
        if state.identity is None:
            raise Unsupported(
                f"{type(value)} is not saved, so it has no primary key; flush or commit it before dispatch"
            )
        if state.deleted or state.was_deleted:
            raise Unsupported(f"{type(value)} is deleted, so no worker could load it; pass the values it needs")
        _factory_of(type(value))
        return tuple(state.identity), None

    def needs_event_loop(self, model: type) -> bool:
        """Return whether loading awaits network or threads, so that a simulated loop can't do it."""
        factory = _factory_of(model)
        session = factory()
        return _is_async(session)

    async def load(
        self,
        model: type,
        keys: Sequence[Key],
        database: str | None = None,  # noqa: ARG002 - the factory knows
        *,
        foreign_loop: bool = False,  # noqa: ARG002 - an engine without pool works in every loop
    ) -> Mapping[Key, object]:
        """Return the rows that exist, by key, detached; the session is closed before this returns."""
        factory = _factory_of(model)
        session = factory()
        if not _is_async(session):
            session.close()  # it may be bound to this thread, and has not connected yet
            return await asyncio.to_thread(_load_in_thread, factory, model, keys)
        async with session:
            rows = await session.run_sync(_load, model, keys)
        return cast("dict[Key, object]", rows)


def _importable_module(module: str) -> str:
    """Return `module`; for `__main__` the name under which other processes can import the script that runs."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name.removesuffix(".__main__")
    return PurePath(getattr(main, "__file__", None) or "__main__").stem


def session_factories() -> list[Factory]:
    """Return the factories that the application has set on its models, each once."""
    found: dict[int, Factory] = {}
    for cls in _mapped_classes():
        factory = getattr(cls, FACTORY_ATTRIBUTE, None)
        if factory is not None:
            found[id(factory)] = factory
    return list(found.values())


def _mapped_classes() -> list[type]:
    """Return every mapped class of the application. Nothing is imported: there are none before SQLAlchemy is."""
    mapperlib: Any = sys.modules.get("sqlalchemy.orm.mapper")
    if mapperlib is None:
        return []
    # Private, but the only list there is of registries that need not share a base; SQLAlchemy 2.0 and 2.1 have it.
    return [mapper.class_ for registry in mapperlib._all_registries() for mapper in registry.mappers]  # noqa: SLF001


def _factory_of(model: type) -> Factory:
    factory = getattr(model, FACTORY_ATTRIBUTE, None)
    if not callable(factory):
        problem = (
            "no session factory" if factory is None else f"{factory!r}, which can't be called, is the session factory"
        )
        raise ConfigError(
            f"{problem} for {model.__module__}.{model.__qualname__}, so no worker could load its rows: "
            f"set {_base_of(model)}.{FACTORY_ATTRIBUTE} = async_sessionmaker(engine, expire_on_commit=False), "
            "or a sessionmaker, once where the engine is made"
        )
    # A scoped session is the current one of other code, which closing it would break.
    if type(factory).__name__ in {"scoped_session", "async_scoped_session"}:
        factory = cast("Any", factory).session_factory
    return cast("Factory", factory)


def _base_of(model: type) -> str:
    """Return the name of the declarative base, where the factory is to be set for all of its models."""
    bases = [
        base for base in model.__mro__ if "registry" in vars(base) and not base.__module__.startswith("sqlalchemy.")
    ]
    return bases[-1].__name__ if bases else model.__name__


def _is_async(session: Any) -> bool:
    asynchronous: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if asynchronous is not None and isinstance(session, asynchronous.AsyncSession):
        return True
    from sqlalchemy.orm import Session

    if isinstance(session, Session):
        return False
    raise ConfigError(
        f"{FACTORY_ATTRIBUTE} must return a Session or an AsyncSession, it returned {session!r}; "
        "use sessionmaker(engine) or async_sessionmaker(engine)"
    )


def _load_in_thread(factory: Factory, model: type, keys: Sequence[Key]) -> dict[Key, object]:
    with factory() as session:
        return _load(session, model, keys)


def _load(session: Any, model: type, keys: Sequence[Key]) -> dict[Key, object]:
    """Load rows with a simple key in one query; those it did not find are queried one by one."""
    import sqlalchemy
    from sqlalchemy.orm import undefer

    columns = cast("Any", sqlalchemy.inspect(model)).primary_key
    complete = [undefer("*")]
    kept: list[object] = []  # the session's identity map, where `get` finds them, is weak
    if len(columns) == 1 and len(keys) > 1:
        for start in range(0, len(keys), KEYS_PER_QUERY):
            chunk = [key[0] for key in keys[start : start + KEYS_PER_QUERY]]
            kept += session.scalars(sqlalchemy.select(model).where(columns[0].in_(chunk)).options(*complete)).unique()
    found = {key: session.get(model, _orm_key(key), options=complete) for key in keys}
    rows = {key: row for key, row in found.items() if row is not None}
    for row in rows.values():
        _complete(session, row)
    return rows


def _complete(session: Any, row: object) -> None:
    """Load the columns that only a subclass of the model has, which a detached row can't load."""
    import sqlalchemy

    state: Any = sqlalchemy.inspect(row)
    missing = state.unloaded.intersection(state.mapper.column_attrs.keys())
    if missing:
        session.refresh(row, sorted(missing))


def _orm_key(key: Key) -> object:
    """Return a simple key as the ORM takes it, a composite one as a tuple."""
    return key if len(key) > 1 else next(iter(key))
