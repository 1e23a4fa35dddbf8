"""The harness of the SQS driver: queues with a prefix of their own, on the server of the run or on a real account.

A real account is one that `ASYNCTASQ_SQS_URL` names (`https://sqs.REGION.amazonaws.com`); region and
credentials then come from botocore's own chain, and the queues are deleted after each test.
"""

import os
import socket
import threading
import uuid
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.session import AioSession

from asynctasq.drivers.base import Driver
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.testing.conformance.harness import DriverHarness, NotPossible
from asynctasq.testing.servers import Server, Servers

__all__ = ["Relay", "SQSHarness", "make_harness"]

PRIVATE_REGION = "eu-central-1"
PRIVATE_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


class Relay:
    """A TCP relay to a server that can't cut its connections itself."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with suppress(OSError):
                    far = socket.create_connection(self._target)
                    with self._lock:
                        self._links |= {near: None, far: None}
                    for source, sink in (near, far), (far, near):
                        threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()
                    continue
                near.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        self._cut([source, sink])

    def _cut(self, links: list[socket.socket]) -> None:
        for link in links:
            with self._lock:
                known = link in self._links
                self._links.pop(link, None)
            if known:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
                link.close()

    def cut_all(self) -> None:
        """Cut every connection there is."""
        with self._lock:
            links = list(self._links)
        self._cut(links)

    def close(self) -> None:
        """Accept no more, and cut what there is."""
        # A blocked accept() does not notice close(); shutdown() wakes it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()


class SQSHarness(DriverHarness):
    """Queues whose names begin alike; each driver made here looks them up again, as another process would."""

    name = "sqs"
    pace = 0.1

    def __init__(self, server: Server) -> None:
        self._server = server
        self._prefix = f"t{uuid.uuid4().hex[:12]}-"
        self._relay: Relay | None = None
        if server.owned:
            for name, value in PRIVATE_CREDENTIALS.items():
                os.environ.setdefault(name, value)
            address = urlsplit(server.url)
            self._relay = Relay(address.hostname or "127.0.0.1", address.port or 80)

    @property
    def _url(self) -> str:
        return self._relay.url if self._relay else self._server.url

    @property
    def _region(self) -> str | None:
        return PRIVATE_REGION if self._server.owned else None

    def create(self) -> Driver:
        return SQSDriver(region=self._region, endpoint_url=self._url, queue_name_prefix=self._prefix)

    def advance(self, seconds: float) -> None:
        raise NotPossible(f"SQS's clock can't be moved by {seconds} s")

    async def break_connections(self) -> None:
        if self._relay is None:
            raise NotPossible("connections to a real SQS can't be cut from its side")
        self._relay.cut_all()

    async def restart_server(self) -> None:
        raise NotPossible("moto, which replaces SQS here, keeps messages in memory only; SQS itself can't be restarted")

    async def clean_up(self) -> None:
        session: Any = AioSession()
        context = session.create_client("sqs", region_name=self._region, endpoint_url=self._server.url)
        async with context as client:
            found = await client.list_queues(QueueNamePrefix=self._prefix)
            for url in found.get("QueueUrls", ()):
                await client.delete_queue(QueueUrl=url)
        if self._relay is not None:
            self._relay.close()


def make_harness(servers: Servers) -> DriverHarness:
    """Return an empty store on the run's SQS stand-in, or on the account that the environment names."""
    return SQSHarness(servers.sqs())
