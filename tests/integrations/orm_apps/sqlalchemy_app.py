"""An application of the test: SQLAlchemy models and one task in each mode; `python sqlalchemy_app.py` dispatches."""

import asyncio
import os
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool

from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    total: Mapped[float]


engine = create_async_engine(os.environ["APP_DATABASE"], poolclass=AsyncAdaptedQueuePool, pool_pre_ping=True)
async_session = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
Base._asynctasq_session_factory = async_session


def note(task: "Two", *more: object) -> None:
    """Append a line: which task ran with what, and how many connections are out of the pool meanwhile."""
    line = " ".join(map(str, (type(task).__name__, task.user.name, task.order.total, *more)))
    with open(os.environ["APP_NOTES"], "a") as notes:
        notes.write(f"{line} held={engine.pool.checkedout()}\n")


class Two:
    order: Order
    user: User

    def __init__(self, order: Order, user: User, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order
        self.user = user


class InLoop(Two, AsyncTask[None]):
    async def execute(self) -> None:
        async with async_session() as session:
            fresh = await session.get(User, self.user.id)
            merged = await session.merge(self.order)
        note(self, fresh.name, merged.total)


class InThread(Two, SyncTask[None]):
    def execute(self) -> None:
        note(self)


class InLoopOfProcess(Two, AsyncProcessTask[None]):
    async def execute(self) -> None:
        async with async_session() as session:
            fresh = await session.get(User, self.user.id)
        note(self, fresh.name)


class InProcess(Two, SyncProcessTask[None]):
    def execute(self) -> None:
        note(self)


class Fails(Two, SyncProcessTask[None]):
    max_attempts = 1

    def execute(self) -> None:
        raise ValueError

    def failed(self, exception: Exception) -> None:
        note(self, type(exception).__name__)


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_session() as session:
        session.add_all([User(id=1, name="old"), Order(id=100, user_id=1, total=9.5)])
        await session.commit()
        user, order = await session.get(User, 1), await session.get(Order, 100)
        for kind in (InLoop, InThread, InLoopOfProcess, InProcess, Fails):
            for _ in range(2):
                await kind(order=order, user=user).dispatch()
        user.name = "new"
        await session.commit()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
