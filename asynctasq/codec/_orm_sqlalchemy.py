"""References to SQLAlchemy models; imports SQLAlchemy only once a model has shown that the application did."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from asynctasq.codec.extensions import Unsupported
from asynctasq.errors import ConfigError

__all__ = ["SQLAlchemyAdapter"]

FACTORY_ATTRIBUTE = "_asynctasq_session_factory"
KEYS_PER_QUERY = 500

Key = tuple[object, ...]


class SQLAlchemyAdapter:
    """Loads through the session factory that stands on the model's Base, async or sync."""

    name = "sqlalchemy"

    def is_model(self, cls: type) -> bool:
        """Return whether `cls` is mapped (declarative or imperative)."""
        mappers = (vars(base)["__mapper__"] for base in cls.__mro__ if "__mapper__" in vars(base))
        return any(type(mapper).__module__ == "sqlalchemy.orm.mapper" for mapper in mappers)

    def key_of(self, value: object) -> Key:
        """Return the identity the session gave the row; never touches the database."""
        import sqlalchemy

        identity = sqlalchemy.inspect(value).identity
        if identity is None:
            raise Unsupported(
                f"{type(value)} is not saved, so it has no primary key; flush or commit it before dispatch"
            )
        return tuple(identity)

    async def load(self, model: type, keys: Sequence[Key]) -> Mapping[Key, object]:
        """Return the rows that exist, by key, detached from their session."""
        factory = cast("Callable[[], Any] | None", getattr(model, FACTORY_ATTRIBUTE, None))
        if factory is None:
            raise ConfigError(
                f"no session factory for {model.__module__}.{model.__qualname__}: "
                f"set Base.{FACTORY_ATTRIBUTE} = async_sessionmaker(engine, expire_on_commit=False)"
            )
        session = factory()
        if not hasattr(session, "__aenter__"):
            session.close()  # it may be bound to this thread, and has not connected yet
            return await asyncio.to_thread(_load_in_thread, factory, model, keys)
        async with session:
            rows = await session.run_sync(_load, model, keys)
        return cast("dict[Key, object]", rows)


def _load_in_thread(factory: Callable[[], Any], model: type, keys: Sequence[Key]) -> dict[Key, object]:
    with factory() as session:
        return _load(session, model, keys)


def _load(session: Any, model: type, keys: Sequence[Key]) -> dict[Key, object]:
    """One query for many rows with a simple key; what that did not find is asked for one by one."""
    import sqlalchemy

    columns = cast("Any", sqlalchemy.inspect(model)).primary_key
    kept: list[object] = []  # the session's identity map, where `get` finds them, is weak
    if len(columns) == 1 and len(keys) > 1:
        for start in range(0, len(keys), KEYS_PER_QUERY):
            chunk = [key[0] for key in keys[start : start + KEYS_PER_QUERY]]
            kept += session.scalars(sqlalchemy.select(model).where(columns[0].in_(chunk))).unique()
    found = {key: session.get(model, _bare(key)) for key in keys}
    return {key: row for key, row in found.items() if row is not None}


def _bare(key: Key) -> object:
    """Return a simple key as the ORM takes it, a composite one as a tuple."""
    return key if len(key) > 1 else next(iter(key))
