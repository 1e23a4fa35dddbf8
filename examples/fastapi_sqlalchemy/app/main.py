"""The web application: what it commits is there before a worker looks for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asynctasq
from asynctasq.integrations.sqlalchemy import on_commit
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import User, async_session, create_tables, engine
from app.tasks import ScoreUser, SendWelcome


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    asynctasq.init()  # reads ASYNCTASQ_* and pyproject.toml, and says at once if a setting is wrong
    await create_tables()
    yield
    await asynctasq.close()
    await engine.dispose()


async def session() -> AsyncIterator[AsyncSession]:
    async with async_session() as opened:
        yield opened


app = FastAPI(lifespan=lifespan)
Session = Annotated[AsyncSession, Depends(session)]


class NewUser(BaseModel):
    email: str


@app.post("/users", status_code=201)
async def register(new: NewUser, session: Session) -> dict[str, int]:
    async with session.begin():
        user = User(email=new.email)
        session.add(user)
        await session.flush()  # gives the user a key, which is what travels
        on_commit(SendWelcome(user=user), session)
        on_commit(ScoreUser(user=user), session)
    return {"id": user.id}


@app.get("/users/{number}")
async def show(number: int, session: Session) -> dict[str, Any]:
    user = await session.get(User, number)
    if user is None:
        raise HTTPException(404)
    return {"email": user.email, "welcomed": user.welcomed_at is not None, "score": user.score}
