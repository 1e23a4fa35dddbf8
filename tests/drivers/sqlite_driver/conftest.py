"""The file and the driver of the tests of the SQLite driver."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    driver = SQLiteDriver(path)
    yield driver
    await driver.close()
