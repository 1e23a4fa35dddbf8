"""The guide's three sections on ORMs as written, on real databases: dispatched by one process, run by a worker's."""

import json
from pathlib import Path

import pytest

from tests.codec.orm.databases import KINDS, database
from tests.docs.test_guide import BLOCKS, block_with
from tests.integrations.test_orm_workers import Project

pytestmark = pytest.mark.skipif(not BLOCKS, reason="the guide is not beside this checkout")

SQLALCHEMY = """
import asyncio
from guide_app import *

async def prepare():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_session() as session:
        session.add_all([User(id=1, email="a@b.c", name="Ada"), Order(id=100, user_id=1, total=9.5)])
        await session.commit()
    await main()
    async with async_session() as session:
        (await session.get(User, 1)).name = "Ada L."
        await session.commit()
    await engine.dispose()

asyncio.run(prepare())
"""
DJANGO = """
import asyncio, django
django.setup()
from django.db import connection
from guide_app import models
with connection.schema_editor() as editor:
    editor.create_model(models.User)
    editor.create_model(models.Product)
models.User.objects.create(id=1, email="a@b.c", name="Ada")
models.Product.objects.create(id=5, name="Pen", price="1.50")
asyncio.run(models.main())
models.Product.objects.update(name="Pencil")
"""
TORTOISE = """
import asyncio
import guide_app as names
from tortoise import Tortoise
from settings import TORTOISE_ORM

async def prepare():
    await Tortoise.init(config=TORTOISE_ORM)
    await Tortoise.generate_schemas()
    user = await names.User.create(id=1, email="a@b.c", name="Ada")
    await names.Post.create(id=10, title="First", author=user)
    await names.main()
    await names.User.all().update(name="Ada L.")
    await Tortoise.close_connections()

asyncio.run(prepare())
"""


@pytest.fixture(params=KINDS)
def project(request, conformance_servers, tmp_path: Path):
    (tmp_path / "pyproject.toml").touch()
    with database(request.param, conformance_servers, tmp_path) as made:
        yield Project(folder=tmp_path, database=made)


def test_sqlalchemy(project: Project) -> None:
    text = block_with("Base._asynctasq_session_factory")
    text = text.replace("postgresql+asyncpg://user:pass@localhost/db", project.database.sqlalchemy_async)
    (project.folder / "guide_app.py").write_text(text, encoding="utf-8")
    project.python("-c", SQLALCHEMY)

    said = project.work("--queues", "emails,orders")

    assert "Sending welcome email to a@b.c (ID: 1)" in said
    assert "Processing order 100 for user Ada L." in said


def test_django(project: Project) -> None:
    app = project.folder / "guide_app"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(block_with("from django.db import models"), encoding="utf-8")
    settings = {
        "INSTALLED_APPS": ["guide_app"],
        "DATABASES": {"default": project.database.django},
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (project.folder / "settings.py").write_text("\n".join(lines), encoding="utf-8")
    project.python("-c", DJANGO, DJANGO_SETTINGS_MODULE="settings")

    said = project.work("--queues", "emails,products", DJANGO_SETTINGS_MODULE="settings")

    assert "Sending welcome email to a@b.c" in said
    assert "Updating Pencil to $99.99" in said


def test_tortoise(project: Project) -> None:
    (project.folder / "guide_app.py").write_text(block_with("from tortoise import fields"), encoding="utf-8")
    config = {
        "connections": {"default": project.database.tortoise},
        "apps": {"models": {"models": ["guide_app"], "default_connection": "default"}},
    }
    (project.folder / "settings.py").write_text(f"TORTOISE_ORM = {config!r}\n", encoding="utf-8")
    quiet = {"PYTHONWARNINGS": "error,ignore::DeprecationWarning"}  # the guide's `pk=True` is Tortoise's old spelling
    project.python("-c", TORTOISE, **quiet)

    said = project.work("--queues", "notifications", TORTOISE_ORM="settings.TORTOISE_ORM", **quiet)

    assert "New post 'First' by Ada L." in said
