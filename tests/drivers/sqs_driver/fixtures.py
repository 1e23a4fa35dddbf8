"""The server, the proxy and the driver that the tests of the SQS driver share; import all of it with `*`."""

import os
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from aiobotocore.session import AioSession

from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.kernel.messages import Lease, Message
from asynctasq.testing.servers import Server, start_server

from .proxy import FaultProxy

__all__ = ["credentials", "driver", "prefix", "proxy", "raw", "server"]

REGION = "eu-central-1"
SECRET = "not-to-be-seen"


@pytest.fixture(scope="module")
def server() -> Generator[Server, None, None]:
    server = start_server("sqs")
    yield server
    server.remove()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.name)) % 10**9}-"


@pytest.fixture
async def proxy(server: Server) -> AsyncGenerator[FaultProxy, None]:
    async with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def driver(proxy: FaultProxy, prefix: str) -> AsyncGenerator[SQSDriver, None]:
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix)
    yield driver
    await driver.close()


@pytest.fixture
async def raw(server: Server) -> AsyncGenerator[Any, None]:
    """A plain client, as the console is."""
    session: Any = AioSession()
    async with session.create_client("sqs", region_name=REGION, endpoint_url=server.url) as client:
        yield client


def message(message_id: str, *, queue: str = "q", body: bytes = b"body", delay_s: float = 0.0) -> Message:
    return Message(id=message_id, queue=queue, body=body, delay_s=delay_s)


async def take(
    driver: SQSDriver, *, limit: int = 1, queue: str = "q", lease_s: float = 60, wait_s: float = 5
) -> list[Lease]:
    return await driver.reserve([queue], limit=limit, lease_s=lease_s, wait_s=wait_s)


async def take_one(driver: SQSDriver, **how: Any) -> Lease:
    leases = await take(driver, **how)
    assert len(leases) == 1
    return leases[0]


async def url_of(raw: Any, name: str) -> str:
    url: str = (await raw.get_queue_url(QueueName=name))["QueueUrl"]
    return url


async def attributes_of(raw: Any, name: str) -> dict[str, str]:
    reply = await raw.get_queue_attributes(QueueUrl=await url_of(raw, name), AttributeNames=["All"])
    found: dict[str, str] = reply["Attributes"]
    return found
