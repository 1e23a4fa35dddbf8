"""The databases of the tests of the PostgreSQL driver."""

from collections.abc import AsyncIterator

import pytest

from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.servers import Servers


@pytest.fixture
async def store(conformance_servers: Servers) -> AsyncIterator[PostgresHarness]:
    harness = PostgresHarness(conformance_servers.postgres())
    await harness.prepare()
    yield harness
    for driver in harness.drivers:
        await driver.close()
    await harness.clean_up()


@pytest.fixture
async def bare(conformance_servers: Servers) -> AsyncIterator[PostgresHarness]:
    """A database without our tables."""
    harness = PostgresHarness(conformance_servers.postgres())
    async with harness.admin() as admin:
        await admin.execute(f'CREATE DATABASE "{harness.database}"')
    yield harness
    for driver in harness.drivers:
        await driver.close()
    await harness.clean_up()
