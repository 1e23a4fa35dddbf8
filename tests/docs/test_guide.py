"""Every Python block of the guide, which specifies the public API, runs as written.

The guide is not part of the project; these tests run where it lies beside the checkout. Dispatches land in a
FakeQueue, and what needs neither network nor database is then executed, too.
"""

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asynctasq
from asynctasq.core import setup
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.tasks import AsyncProcessTask, AsyncTask, SyncProcessTask, SyncTask
from asynctasq.testing import FakeQueue
from asynctasq.utils.loop import run as uv_run

GUIDE = Path(__file__).parents[3] / "shared" / "seed" / "class-based-tasks.md"
BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
NOT_INSTALLED = ("numpy", "aiofiles")
NEEDS_NETWORK = ("httpx", "requests")
NEEDS_DATABASE = ("from sqlalchemy", "from django", "from tortoise")


def blocks() -> list[str]:
    if not GUIDE.is_file():
        return []
    return [textwrap.dedent(text) for text in BLOCK.findall(GUIDE.read_text(encoding="utf-8"))]


BLOCKS = blocks()
PLAIN = [(number, text) for number, text in enumerate(BLOCKS) if not any(word in text for word in NEEDS_DATABASE)]


def block_with(words: str) -> str:
    return next(text for text in BLOCKS if words in text)


class TaskClass(AsyncTask[None]):
    """What the guide's syntax pattern calls a task."""

    def __init__(self, param: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.param = param

    async def execute(self) -> None: ...


class SendEmail(AsyncTask[bool]):
    """What one fragment dispatches without defining it."""

    def __init__(self, to: str, subject: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    async def execute(self) -> bool:
        return True


def namespace(name: str) -> dict[str, Any]:
    """Return the globals of a block: the names that fragments of the guide use without importing them."""
    return {
        "__name__": name,
        "AsyncProcessTask": AsyncProcessTask,
        "AsyncTask": AsyncTask,
        "SendEmail": SendEmail,
        "SyncProcessTask": SyncProcessTask,
        "SyncTask": SyncTask,
        "TaskClass": TaskClass,
        "asyncio": asyncio,
        "driver": MemoryDriver(),
        "uv_run": uv_run,
        "value": 1,
    }


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for missing in NOT_INSTALLED:
        monkeypatch.setitem(sys.modules, missing, types.ModuleType(missing))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(setup, "_current", None)
    yield
    setup._replaced.clear()


async def execute(code: str, name: str) -> dict[str, Any]:
    """Run a block's statements, awaiting at top level where it does."""
    names = namespace(name)
    module = types.ModuleType(name)
    names.setdefault("__builtins__", __builtins__)
    module.__dict__.update(names)
    sys.modules[name] = module
    compiled = compile(code, f"<guide {name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(compiled, module.__dict__)
    if inspect.isawaitable(result):
        running = asyncio.ensure_future(result)
        await asyncio.sleep(0)
        worker = module.__dict__.get("worker")
        if isinstance(worker, Worker):
            while not running.done():
                worker.stop(immediate=True)
                await asyncio.sleep(0)
        await running
    return module.__dict__


@pytest.mark.parametrize(("number", "text"), PLAIN, ids=[f"block{number}" for number, _ in PLAIN])
async def test_block_runs(number: int, text: str) -> None:
    async with FakeQueue() as queue:
        names = await execute(text, f"guide_block_{number}")
        main = names.get("main")
        if main is not None:
            await main()
            assert queue.dispatched()
        if not any(word in text for word in NEEDS_NETWORK):
            result = await queue.run_until_idle()
            assert result.errors == ()
            assert result.succeeded == len(queue.dispatched())


def test_the_guide_has_as_many_blocks_as_we_know() -> None:
    if GUIDE.is_file():
        assert len(BLOCKS) == 54


@pytest.mark.skipif(not BLOCKS, reason="the guide is not beside this checkout")
async def test_sqlalchemy_block_dispatches_references(tmp_path: Path) -> None:
    text = block_with("Base._asynctasq_session_factory")
    text = text.replace("postgresql+asyncpg://user:pass@localhost/db", f"sqlite+aiosqlite:///{tmp_path}/db")

    async with FakeQueue() as queue:
        names = await execute(text, "guide_sqlalchemy")
        async with names["engine"].begin() as connection:
            await connection.run_sync(names["Base"].metadata.create_all)
        async with names["async_session"]() as session:
            session.add(names["User"](id=1, email="a@b.c", name="Ada"))
            session.add(names["Order"](id=100, user_id=1, total=9.5))
            await session.commit()
        await names["main"]()
        await names["engine"].dispose()

        queue.assert_dispatched(names["SendWelcomeEmail"], times=1)
        [order] = queue.dispatched(names["ProcessOrder"])
        assert len(order.message.body) < 400


DJANGO = """
import asyncio, django, pathlib, sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["guide_app"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.db import connection
from guide_app import models
with connection.schema_editor() as editor:
    editor.create_model(models.User)
    editor.create_model(models.Product)
models.User.objects.create(id=1, email="a@b.c", name="Ada")
models.Product.objects.create(id=5, name="Pen", price="1.50")
from asynctasq.testing import FakeQueue
with FakeQueue() as queue:
    asyncio.run(models.main())
    queue.assert_dispatched(models.SendWelcomeEmail, times=1)
    queue.assert_dispatched(models.UpdateProductPrice, times=1, new_price=99.99)
print("done")
"""


@pytest.mark.skipif(not BLOCKS, reason="the guide is not beside this checkout")
def test_django_block_dispatches_references(tmp_path: Path) -> None:
    app = tmp_path / "guide_app"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "models.py").write_text(block_with("from django.db import models"), encoding="utf-8")

    script = [sys.executable, "-c", DJANGO, str(tmp_path / "db")]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "done\n", done.stderr


TORTOISE = """
import asyncio
import guide_models as names
from tortoise import Tortoise
from asynctasq.testing import FakeQueue

async def dispatch():
    await Tortoise.init(db_url="sqlite://:memory:", modules={"models": ["guide_models"]})
    await Tortoise.generate_schemas()
    user = await names.User.create(id=1, email="a@b.c", name="Ada")
    await names.Post.create(id=10, title="First", author=user)
    async with FakeQueue() as queue:
        await names.main()
        queue.assert_dispatched(names.NotifyNewPost, times=1)
    await Tortoise.close_connections()

asyncio.run(dispatch())
print("done")
"""


@pytest.mark.skipif(not BLOCKS, reason="the guide is not beside this checkout")
def test_tortoise_block_dispatches_references(tmp_path: Path) -> None:
    (tmp_path / "guide_models.py").write_text(block_with("from tortoise import fields"), encoding="utf-8")

    script = [sys.executable, "-c", TORTOISE]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "done\n", done.stderr


def test_init_with_a_bare_driver_name_opens_nothing() -> None:
    asynctasq.init({"driver": "redis"})

    assert str(setup.current_setup().queue.driver)
