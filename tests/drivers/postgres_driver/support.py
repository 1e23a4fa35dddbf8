"""What the tests of the PostgreSQL driver share."""

from typing import Any

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.kernel.messages import Lease, Message
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness

Q = "q"


def make(store: PostgresHarness, **options: Any) -> PostgresDriver:
    driver = PostgresDriver(store.url, **options)
    store.drivers.append(driver)
    return driver


def messages(*ids: str, queue: str = Q, **options: Any) -> list[Message]:
    return [Message(id=message_id, queue=queue, body=message_id.encode(), **options) for message_id in ids]


def ids(leases: list[Lease]) -> list[str]:
    return [lease.message_id for lease in leases]


async def waits_for_lock(store: PostgresHarness) -> bool:
    """Ask on a connection of its own: inside a transaction the server shows the same activity again."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1"
    async with store.admin() as admin:
        return bool(await admin.fetchval(waiting, store.database))
