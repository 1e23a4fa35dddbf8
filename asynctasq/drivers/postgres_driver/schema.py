"""The schema of the PostgreSQL driver as migrations; each one leaves workers of the version before it running."""

from typing import Any

from asynctasq.drivers.base import Migration
from asynctasq.drivers.postgres_driver.statements import Names
from asynctasq.drivers.postgres_driver.storing_statements import HOLDS_KEY, RANKED
from asynctasq.drivers.sql.identifiers import quote
from asynctasq.drivers.sql.migrations import apply_pending

__all__ = ["migrate", "migrations", "schema_version"]

# Leases and settlements leave dead row versions behind at the pace of the work, so vacuum goes by their
# number, not by a share of the table, and does not pause. The free third of each page keeps new versions near.
STORAGE = (
    "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000, "
    "autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000"
)


def migrations(names: Names) -> list[Migration]:
    """Return all steps in order. Their statements are complete: run by hand, they record their version too."""
    messages, results, store = names.table("messages"), names.table("results"), names.table("store")

    versions, schema, dead = names.table("migrations"), quote(names.schema), "reason IS NOT NULL"

    def index(suffix: str) -> str:
        return quote(f"{names.prefix}_{suffix}")

    return [
        Migration(
            version=1,
            title="messages, results",
            statements=(
                # CREATE SCHEMA IF NOT EXISTS asks for a right that is not needed when the schema is there.
                f"""DO $$ BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
END $$""",
                f"""CREATE TABLE {versions} (
    version integer NOT NULL PRIMARY KEY,
    title text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)""",
                f"""CREATE TABLE {messages} (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    visible_us bigint NOT NULL,
    enqueued_us bigint NOT NULL,
    token bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    leased boolean NOT NULL DEFAULT false,
    body bytea NOT NULL,
    reason text,
    error text
) WITH ({STORAGE})""",
                f"CREATE INDEX {index('messages_claim')} ON {messages} (queue, visible_us, seq) WHERE reason IS NULL",
                f"CREATE INDEX {index('messages_dead')} ON {messages} (queue, visible_us, seq) WHERE {dead}",
                f"""CREATE TABLE {results} (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    result bytea NOT NULL,
    expires_us bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05)""",
                f"CREATE INDEX {index('results_expiry')} ON {results} (expires_us)",
                f"CREATE TABLE {store} (id text NOT NULL PRIMARY KEY)",
                f"INSERT INTO {store} (id) VALUES (gen_random_uuid()::text)",
                f"INSERT INTO {versions} (version, title) VALUES (1, 'messages, results')",
            ),
        ),
        Migration(
            version=2,
            title="holder and progress of a lease",
            statements=(
                # Columns without a default are added without rewriting the table.
                f"""ALTER TABLE {messages} ADD COLUMN reserved_us bigint, ADD COLUMN reserved_by text,
    ADD COLUMN progress text""",
                f"INSERT INTO {versions} (version, title) VALUES (2, 'holder and progress of a lease')",
            ),
        ),
        Migration(
            version=3,
            title="unique keys",
            statements=(
                f'ALTER TABLE {messages} ADD COLUMN unique_key text COLLATE "C", ADD COLUMN unique_started boolean',
                # It reads the table once; of rows without a key it has nothing, and nothing is written for them.
                f"CREATE UNIQUE INDEX {index('messages_unique')} ON {messages} (unique_key) WHERE {HOLDS_KEY}",
                f"INSERT INTO {versions} (version, title) VALUES (3, 'unique keys')",
            ),
        ),
        Migration(
            version=4,
            title="fair keys",
            statements=(
                f'ALTER TABLE {messages} ADD COLUMN fair_key text COLLATE "C"',
                f"CREATE INDEX {index('messages_fair')} ON {messages} (queue, fair_key, visible_us) WHERE {RANKED}",
                f"INSERT INTO {versions} (version, title) VALUES (4, 'fair keys')",
            ),
        ),
    ]


async def schema_version(connection: Any, names: Names) -> int:
    """Return the version recorded in the database, 0 if there is none."""
    table = names.table("migrations")
    if await connection.fetchval("SELECT to_regclass($1::text)", table) is None:
        return 0
    return await connection.fetchval(f"SELECT COALESCE(max(version), 0) FROM {table}") or 0


async def migrate(connection: Any, names: Names) -> list[int]:
    """Apply what is missing, all in one transaction, one process at a time."""
    async with connection.transaction():
        # Held until the transaction ends: a second migration waits here, then finds nothing to do.
        await connection.fetchval("SELECT pg_advisory_xact_lock($1::bigint)", names.lock_key)
        return await apply_pending(_MigrationStore(connection, names), migrations(names))


class _MigrationStore:
    """One connection inside the transaction of `migrate`."""

    def __init__(self, connection: Any, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def version(self) -> int:
        return await schema_version(self._connection, self._names)

    async def apply(self, migration: Migration) -> None:
        for statement in migration.statements:
            await self._connection.execute(statement)
