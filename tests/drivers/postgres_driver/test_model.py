"""The PostgreSQL driver and the memory driver, step by step through the same random program."""

import pytest

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from tests.drivers.redis_driver.test_model import Program


@pytest.mark.parametrize("statement_cache", [True, False])
@pytest.mark.parametrize("seed", range(8))
async def test_does_what_the_memory_driver_does(store: PostgresHarness, seed: int, statement_cache: bool) -> None:
    driver = PostgresDriver(store.url, statement_cache=statement_cache)
    program = Program(driver, seed)  # type: ignore[arg-type] # any driver will do

    for _ in range(120):
        await program.step()
        await program.compare()

    await driver.close()
