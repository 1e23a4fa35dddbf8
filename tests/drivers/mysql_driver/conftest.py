"""A MySQL of the tests' own, and a connection beside the driver's."""

from collections.abc import AsyncIterator

import pytest

from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.pool import Connection, connect
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from asynctasq.testing.servers import Servers


@pytest.fixture
async def store(conformance_servers: Servers) -> AsyncIterator[MySQLHarness]:
    harness = MySQLHarness(conformance_servers.mysql())
    await harness.prepare()
    yield harness
    for driver in harness.drivers:
        await driver.close()
    await harness.clean_up()


@pytest.fixture
async def connection(store: MySQLHarness) -> AsyncIterator[Connection]:
    """A connection beside the driver's."""
    connection = await connect(parse_address(store.url, command_timeout_s=30))
    yield connection
    await connection.close()
