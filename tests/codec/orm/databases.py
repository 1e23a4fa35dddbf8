"""The two databases that ORM tests run on: a SQLite file and a database of the run's PostgreSQL server."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from asynctasq.testing.servers import Servers

KINDS = ("sqlite", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """An empty database under the URLs of each library."""

    kind: str
    path: Path
    host: str = ""
    port: int = 0
    name: str = ""

    @property
    def sqlalchemy_sync(self) -> str:
        return f"sqlite:///{self.path}" if self.kind == "sqlite" else f"postgresql+psycopg://{self._rest}"

    @property
    def sqlalchemy_async(self) -> str:
        return f"sqlite+aiosqlite:///{self.path}" if self.kind == "sqlite" else f"postgresql+asyncpg://{self._rest}"

    @property
    def tortoise(self) -> str:
        return f"sqlite://{self.path}" if self.kind == "sqlite" else f"asyncpg://{self._rest}"

    @property
    def django(self) -> dict[str, object]:
        if self.kind == "sqlite":
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(self.path)}
        engine = "django.db.backends.postgresql"
        return {"ENGINE": engine, "NAME": self.name, "USER": "postgres", "HOST": self.host, "PORT": str(self.port)}

    @property
    def dsn(self) -> str:
        """The address of the PostgreSQL database, as its own libraries want it."""
        return f"postgresql://{self._rest}"

    @property
    def _rest(self) -> str:
        return f"postgres@{self.host}:{self.port}/{self.name}"


@contextmanager
def database(kind: str, servers: Servers, folder: Path) -> Iterator[Database]:
    """Make a database and remove it."""
    name = f"orm_{uuid.uuid4().hex[:12]}"
    if kind == "sqlite":
        yield Database(kind=kind, path=folder / f"{name}.db")
        return
    url = servers.postgres().url
    parts = urlsplit(url)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield Database(kind=kind, path=folder, host=parts.hostname or "", port=parts.port or 5432, name=name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
