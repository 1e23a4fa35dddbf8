"""How a worker and its children set Django and Tortoise up, and what they close in the end."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from tortoise import Tortoise, fields
from tortoise.models import Model

from asynctasq.core.orms import attempt_scope, open_orms, set_up_django
from asynctasq.errors import ConfigError

TORTOISE_ORM = {
    "connections": {"default": "sqlite://:memory:"},
    "apps": {"models": {"models": [__name__]}},
}


class Note(Model):
    id = fields.IntField(primary_key=True)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.delenv("TORTOISE_ORM", raising=False)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)


class Elsewhere(Base):
    __tablename__ = "elsewhere"
    id: Mapped[int] = mapped_column(primary_key=True)


# --- Tortoise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["environment", "tortoise", "aerich"])
async def test_tortoise_is_initialised_from_the_configuration_that_is_named(place, tmp_path, monkeypatch):
    if place == "environment":
        monkeypatch.setenv("TORTOISE_ORM", f"{__name__}.TORTOISE_ORM")
    else:
        (tmp_path / "pyproject.toml").write_text(f'[tool.{place}]\ntortoise_orm = "{__name__}.TORTOISE_ORM"\n')

    async with open_orms(tmp_path):
        await Tortoise.generate_schemas()
        assert await Note.all().count() == 0


async def test_nothing_is_initialised_where_nothing_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\n")

    async with open_orms(tmp_path):
        assert not Tortoise._inited


async def test_what_the_application_has_initialised_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TORTOISE_ORM", "nowhere.AT_ALL")
    await Tortoise.init(config=TORTOISE_ORM)
    await Tortoise.generate_schemas()

    async with open_orms(tmp_path):
        pass

    assert await Note.all().count() == 0
    await Tortoise.close_connections()


@pytest.mark.parametrize("name", ["nowhere.AT_ALL", f"{__name__}.ABSENT", "bare"])
async def test_a_configuration_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORTOISE_ORM", name)

    with pytest.raises(ConfigError, match=f"named as '{name}', which can't be imported"):
        async with open_orms(tmp_path):
            pass


async def test_a_broken_pyproject_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool")

    with pytest.raises(ConfigError, match=r"pyproject\.toml can't be read"):
        async with open_orms(tmp_path):
            pass


# --- SQLAlchemy ------------------------------------------------------------------------------------------------


async def test_pools_are_closed_in_the_end(tmp_path, monkeypatch):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db", poolclass=AsyncAdaptedQueuePool)
    other = create_engine(f"sqlite:///{tmp_path}/b.db", poolclass=QueuePool)
    monkeypatch.setattr(Base, "_asynctasq_session_factory", async_sessionmaker(engine), raising=False)
    monkeypatch.setattr(Elsewhere, "_asynctasq_session_factory", sessionmaker(binds={Elsewhere: other}), raising=False)

    async with open_orms(tmp_path):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        other.connect().close()
        kept = (engine.pool.checkedin(), other.pool.checkedin())

    assert kept == (1, 1)
    assert (engine.pool.checkedin(), other.pool.checkedin()) == (0, 0)


# --- Django ----------------------------------------------------------------------------------------------------


def test_without_settings_nothing_of_django_is_touched():
    set_up_django()

    assert attempt_scope() is None or "django.db" in sys.modules


def test_settings_that_cannot_be_used_are_named():
    code = "from asynctasq.core.orms import set_up_django; set_up_django()"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "no_such_settings"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    assert "ConfigError: DJANGO_SETTINGS_MODULE is 'no_such_settings', but Django can't be set up" in done.stderr


def test_two_attempts_do_not_wait_for_each_other_in_djangos_thread(tmp_path: Path):
    """Each needs the other to be inside its synchronous call at the same time."""
    (tmp_path / "settings.py").write_text("DATABASES = {}\n")
    code = """
        import asyncio, threading
        from asgiref.sync import sync_to_async
        from tests.patience import SOON_S
        from asynctasq.core.orms import attempt_scope, set_up_django
        set_up_django()
        set_up_django()
        import django.db
        both = threading.Barrier(2, timeout=SOON_S)

        async def attempt():
            async with attempt_scope():
                await sync_to_async(both.wait)()

        async def main():
            await asyncio.gather(attempt(), attempt())
            print("met")

        asyncio.run(main())
    """
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.stdout == "met\n", done.stderr
