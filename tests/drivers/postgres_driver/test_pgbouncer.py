"""PgBouncer between us and the server: a plain address works, whether it pools transactions or sessions."""

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.postgres_driver.address import told_of_pooler
from asynctasq.kernel.messages import Complete, Message
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from asynctasq.testing.conformance.test_connections import *  # noqa: F403 - the tests
from asynctasq.testing.conformance.test_transactions import *  # noqa: F403 - the tests
from asynctasq.testing.conformance.test_turn import *  # noqa: F403 - the tests
from asynctasq.testing.conformance.test_waiting import *  # noqa: F403 - the tests
from tests.drivers.postgres_driver.pgbouncer import PgBouncer
from tests.patience import SOON_S, until

CONFORMANCE_DRIVERS = ("tests.drivers.postgres_driver.pgbouncer:make_harness",)
CONFORMANCE_PINNED = True
SAID = "is behind a pooler of connections"
TASKS = """
from asynctasq import task

@task
async def note(text: str) -> None:
    with open("notes", "a") as file:
        file.write(text + "\\n")
"""

DISPATCH = """
import asyncio, asynctasq, noting

async def dispatch():
    asynctasq.init({{"driver": "{url}"}})
    await asyncio.gather(*(noting.note(str(number)).dispatch() for number in range(40)))

asyncio.run(dispatch())
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SOON_S, check=False)


async def test_a_plain_address_serves_migrate_dispatch_and_a_worker(bare: PostgresHarness, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "noting.py").write_text(TASKS)
    with PgBouncer(bare.url) as pooler:
        dispatching = DISPATCH.format(url=pooler.url)
        migrated = await asyncio.to_thread(run, tmp_path, "-m", "asynctasq", "migrate", "--driver", pooler.url)
        dispatched = await asyncio.to_thread(run, tmp_path, "-c", dispatching)
        worker = ("-m", "asynctasq", "worker", "--burst", "--app", "noting", "--driver", pooler.url)
        worked = await asyncio.to_thread(run, tmp_path, *worker)

    assert "applied 1" in migrated.stdout, migrated.stderr
    assert dispatched.returncode == 0, dispatched.stderr
    assert worked.returncode == 0, worked.stderr
    assert sorted(map(int, (tmp_path / "notes").read_text().split())) == list(range(40))
    # Once, though the thread that renews leases has connections of its own.
    assert worked.stderr.count(SAID) == 1


async def test_clients_that_share_server_connections_do_not_disturb_each_other(bare: PostgresHarness) -> None:
    with PgBouncer(bare.url) as pooler:
        drivers = [PostgresDriver(pooler.url, auto_migrate=True) for _ in range(4)]

        async def serve(driver: PostgresDriver, name: str) -> None:
            for number in range(30):
                await driver.enqueue([Message(id=f"{name}-{number}", queue=name, body=b"x")])
                [lease] = await driver.reserve([name], limit=1, lease_s=60)
                assert await driver.settle([(lease, Complete(result=b"r", result_ttl_s=60))]) == set()
                assert (await driver.depth(name)).reserved == 0

        await drivers[0].open()
        await asyncio.gather(*(serve(driver, f"q{number}") for number, driver in enumerate(drivers)))
        for driver in drivers:
            await driver.close()


async def test_what_is_named_holds_where_sessions_are_pooled(bare: PostgresHarness) -> None:
    with PgBouncer(bare.url, "session") as pooler:
        named = f"{pooler.url}?auto_migrate=yes&statement_cache=yes&listen=yes"
        driver = PostgresDriver.from_url(named)
        waiting = asyncio.create_task(driver.wait_visible(["q"], wait_s=SOON_S))

        async def listens() -> bool:
            return bool(await driver._fetch("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))

        await until(listens)
        assert await driver._fetch("SELECT name FROM pg_prepared_statements") != []
        waiting.cancel()
        await driver.close()


async def test_a_server_without_a_pooler_is_told_from_one_with(
    bare: PostgresHarness, caplog: pytest.LogCaptureFixture
) -> None:
    told_of_pooler.clear()
    with PgBouncer(bare.url) as pooler, caplog.at_level(logging.WARNING):
        for url, said in [(bare.url, 0), (pooler.url, 1), (pooler.url, 1)]:
            driver = PostgresDriver(url, auto_migrate=True)
            await driver.open()
            await driver.close()
            assert caplog.text.count(SAID) == said
