"""Apply the migrations a database lacks, and refuse one that is outdated; knows no dialect."""

from collections.abc import Sequence
from typing import Protocol

from asynctasq.drivers.base import Migration
from asynctasq.errors import DriverMisconfigured

__all__ = ["MigrationStore", "apply_pending", "check_schema_version"]


class MigrationStore(Protocol):
    """Where migrations are applied: one connection that holds the driver's migration lock."""

    async def version(self) -> int:
        """Return the version recorded last, 0 if none."""
        ...

    async def apply(self, migration: Migration) -> None:
        """Run the statements and record the version, in one transaction where the database can."""
        ...


async def apply_pending(store: MigrationStore, migrations: Sequence[Migration]) -> list[int]:
    """Apply what the database lacks, in order; return those versions. Call it under the migration lock.

    A database that is newer than this program is left alone.
    """
    have = await store.version()
    pending = [migration for migration in migrations if migration.version > have]
    for migration in pending:
        await store.apply(migration)
    return [migration.version for migration in pending]


def check_schema_version(have: int, migrations: Sequence[Migration], *, driver: str, where: str) -> None:
    """Raise `DriverMisconfigured` naming the command to run if the schema is missing or outdated.

    A newer schema is accepted: a migration keeps workers of the version before it running.
    """
    need = migrations[-1].version
    if have >= need:
        return
    found = f"has version {have} of our tables" if have else "does not have our tables"
    raise DriverMisconfigured(f"{where} {found}, version {need} is needed; run: asynctasq migrate --driver {driver}")
