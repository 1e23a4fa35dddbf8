"""A private cluster: three masters, each with one replica."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.drivers.redis_driver.server import RedisServer
from tests.patience import wait_until

OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--save", "", "--appendonly", "yes"),
    *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
)


@dataclass(frozen=True)
class Cluster:
    """The nodes, and the address that names all of them."""

    nodes: list[RedisServer]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def master_of(self, namespace: str) -> RedisServer:
        """Return the node that is in charge of the namespace's slot."""
        key = f"{{{namespace}}}:sequence"
        [node] = [node for node in self.nodes if b"MOVED" not in node.ask(f"EXISTS {key}") and is_master(node)]
        return node


def is_master(node: RedisServer) -> bool:
    return b"role:master" in node.ask("INFO replication")


@contextmanager
def redis_cluster(*options: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(RedisServer(*OPTIONS, *options)) for _ in range(6)]
        hosts = [f"127.0.0.1:{node.port}" for node in nodes]
        create = ["redis-cli", "--cluster", "create", *hosts, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True)
        wait_until(lambda: all(map(is_complete, nodes)), "every node knows the cluster, every replica is in step")
        yield Cluster(nodes)


def is_complete(node: RedisServer) -> bool:
    replication = node.ask("INFO replication")
    in_step = b"state=online" in replication if is_master(node) else b"master_link_status:up" in replication
    return in_step and b"cluster_state:ok" in node.ask("CLUSTER INFO")
