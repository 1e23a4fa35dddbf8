"""A Redis Cluster by its seed list: nodes that are gone, slots by namespace, a master killed while tasks run."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from asynctasq.drivers.urls import create_driver
from asynctasq.errors import DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Message, Release
from tests.drivers.redis_driver.cluster import Cluster, redis_cluster
from tests.drivers.redis_driver.server import RedisServer, driving, free_port
from tests.patience import SOON_S, until

TASKS = """
import asyncio
from asynctasq import task

@task(retry_delay=0)
async def note(number: int) -> None:
    with open("notes", "a") as file:
        file.write(f"{number}\\n")
    await asyncio.sleep(0.02)
"""
DISPATCH = """
import asynctasq, noting

asynctasq.init({{"driver": "{url}"}})
for number in range({count}):
    noting.note(number).dispatch_sync()
"""
COUNT = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with redis_cluster("--enable-debug-command", "yes") as cluster:
        yield cluster


def namespace_elsewhere(cluster: Cluster, name: str) -> str:
    """Return a namespace whose slot another master has."""
    candidates = (f"other{number}" for number in range(100))
    return next(one for one in candidates if cluster.master_of(one) is not cluster.master_of(name))


async def test_any_one_living_node_of_the_list_is_enough(cluster: Cluster) -> None:
    for node in cluster.nodes:
        url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{node.port}?namespace=any{node.port}"
        driver = create_driver(url)
        await driver.enqueue([Message(id="m", queue="q", body=b"x")])
        assert (await driver.depth("q")).ready == 1
        await driver.close()


async def test_fair_keys_take_turns_in_one_slot_and_leave_nothing(cluster: Cluster) -> None:
    async with driving(cluster.url, namespace="fair") as driver:
        messages = [Message(id=name, queue="q", body=b"x", fair_key=name[0]) for name in ("a1", "a2", "a3", "b1", "c1")]
        await driver.enqueue(messages)
        assert await driver.cancel(["c1"]) == {"c1"}

        leases = await driver.reserve(["q"], limit=9, lease_s=60)

        assert [lease.message_id for lease in leases] == ["a1", "a2", "b1", "a3"]
        await driver.settle([(lease, Complete()) for lease in leases])
        assert await driver.command("KEYS", "{fair}*") == []


async def test_namespaces_lie_on_different_nodes_and_wait_there(cluster: Cluster) -> None:
    for namespace in ("mail", namespace_elsewhere(cluster, "mail")):
        async with (
            driving(cluster.url, namespace=namespace) as driver,
            driving(cluster.url, namespace=namespace) as other,
        ):
            waiting = asyncio.create_task(driver.reserve(["q"], limit=1, lease_s=60, wait_s=10 * SOON_S))
            master = cluster.master_of(namespace)
            await until(
                lambda master=master: b"blocked_clients:1" in master.ask("INFO clients"), "the wait blocks there"
            )

            await other.enqueue([Message(id="m", queue="q", body=b"x")])

            async with asyncio.timeout(SOON_S):
                [lease] = await waiting
            assert await driver.settle([(lease, Complete())]) == set()


async def test_a_slot_that_is_moved_is_a_pause_and_no_script_is_done_by_half(cluster: Cluster) -> None:
    namespace = "moving"
    old, new = cluster.master_of(namespace), cluster.master_of(namespace_elsewhere(cluster, namespace))
    slot = key_slot(f"{{{namespace}}}".encode())
    async with driving(cluster.url, namespace=namespace) as driver:
        await driver.enqueue([Message(id=f"m{number}", queue="q", body=b"x") for number in range(4)])
        one, two, three = await driver.reserve(["q"], limit=3, lease_s=600)
        new.ask(f"CLUSTER SETSLOT {slot} IMPORTING {id_of(old)}")
        old.ask(f"CLUSTER SETSLOT {slot} MIGRATING {id_of(new)}")
        before = contents(old, slot)

        for call in (
            lambda: driver.enqueue([Message(id="new", queue="new", body=b"x")]),
            lambda: driver.settle([(one, Complete(result=b"r", result_ttl_s=600))]),
            lambda: driver.settle([(two, Bury(reason=DeadReason.FAILED, error=None))]),
            lambda: driver.turn([(three, Release(counted=True))], ["q"], limit=1, lease_s=60),
            lambda: driver.purge("q"),
            lambda: driver.depth("q"),
        ):
            with pytest.raises(DriverUnavailable, match="moves the slot of these keys"):
                await call()
        assert contents(old, slot) == before
        for key in before:
            old.ask(f"MIGRATE 127.0.0.1 {new.port} {key.decode()} 0 5000")
        for node in (new, old):
            node.ask(f"CLUSTER SETSLOT {slot} NODE {id_of(new)}")

        settled = [
            (one, Complete()),
            (two, Bury(reason=DeadReason.FAILED, error=None)),
            (three, Release(counted=False)),
        ]
        assert await driver.settle(settled) == set()
        depth = await driver.depth("q")
        assert (depth.ready, depth.reserved, depth.dead) == (2, 0, 1)


def id_of(node: RedisServer) -> str:
    return node.ask("CLUSTER MYID").split()[1].decode()


def contents(node: RedisServer, slot: int) -> dict[bytes, bytes]:
    """Return the keys of a slot with a digest of what each holds."""
    keys = [line for line in node.ask(f"CLUSTER GETKEYSINSLOT {slot} 100").split() if line.startswith(b"{")]
    return {key: node.ask(f"DEBUG DIGEST-VALUE {key.decode()}") for key in sorted(keys)}


async def test_servers_that_are_no_cluster_are_refused() -> None:
    with RedisServer() as server:
        async with driving(server.url.replace("redis://", "redis+cluster://")) as driver:
            with pytest.raises(DriverMisconfigured, match="cluster support disabled"):
                await driver.open()


async def test_a_wrong_password_is_refused_by_the_first_node() -> None:
    with RedisServer("--cluster-enabled", "yes", "--requirepass", "right") as server:
        async with driving(server.url.replace("redis://", "redis+cluster://:wrong@")) as driver:
            with pytest.raises(DriverMisconfigured, match="refused access"):
                await driver.open()


async def test_nodes_that_are_gone_are_named() -> None:
    first, second = free_port(), free_port()
    async with driving(f"redis+cluster://127.0.0.1:{first},127.0.0.1:{second}") as driver:
        with pytest.raises(DriverUnavailable, match=f"no node of the cluster knows.*:{first} .*:{second} "):
            await driver.open()


def start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=log, stderr=log, env={**os.environ})


async def test_a_master_that_is_killed_while_tasks_run_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "noting.py").write_text(TASKS)
    with redis_cluster() as cluster:
        master = cluster.master_of("asynctasq")
        dispatching = start(tmp_path, "-c", DISPATCH.format(url=cluster.url, count=COUNT))
        assert await asyncio.to_thread(dispatching.wait, SOON_S) == 0, (tmp_path / "log").read_text()

        def noted() -> set[str]:
            file = tmp_path / "notes"
            return set(file.read_text().split()) if file.exists() else set()

        worker = start(
            tmp_path, "-m", "asynctasq", "worker", "-c", "2", "--lease", "3", "--app", "noting", "--driver", cluster.url
        )
        async with driving(cluster.url) as driver:
            await until(lambda: len(noted()) > 20, "tasks run")
            assert (await driver.depth("default")).ready > 0
            master.kill()

            async def is_stored() -> bool:
                try:
                    await driver.enqueue([Message(id="after", queue="after", body=b"x")])
                except DriverUnavailable:
                    return False
                return True

            await until(is_stored, "the replica has taken over", within_s=4 * SOON_S)
            await until(
                lambda: noted() == {str(number) for number in range(COUNT)}, "all tasks ran", within_s=4 * SOON_S
            )

            async def is_settled() -> bool:
                depth = await driver.depth("default")
                return (depth.ready, depth.scheduled, depth.reserved, depth.dead) == (0, 0, 0, 0)

            await until(is_settled, "all tasks are settled", within_s=4 * SOON_S)
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, SOON_S) == 0, (tmp_path / "log").read_text()
