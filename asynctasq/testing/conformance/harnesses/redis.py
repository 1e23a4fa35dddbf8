"""The harness of the Redis driver: a namespace of its own on a private server, or on the one of the environment."""

import asyncio
import uuid
from typing import Any
from urllib.parse import urlencode

from asynctasq.drivers.base import Driver
from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.testing.conformance.harness import DriverHarness, NotPossible
from asynctasq.testing.servers import Server, Servers

__all__ = ["RedisHarness", "make_harness"]


class RedisHarness(DriverHarness):
    """One namespace; its keys are removed at the end, whatever else the server holds stays."""

    name = "redis"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._namespace = f"conformance-{uuid.uuid4()}"
        self._clock_offset = 0.0
        self._drivers: list[RedisDriver] = []

    def create(self) -> Driver:
        driver = RedisDriver(self._server.url, namespace=self._namespace, clock_offset=self._clock_offset)
        self._drivers.append(driver)
        return driver

    def advance(self, seconds: float) -> None:
        self._clock_offset += seconds
        for driver in self._drivers:
            driver.clock_offset = self._clock_offset

    def address(self) -> str:
        options = {"namespace": self._namespace, "clock_offset": self._clock_offset}
        return f"{self._server.url}{'&' if '?' in self._server.url else '?'}{urlencode(options)}"

    async def break_connections(self) -> None:
        """Have the server close every client connection but the one that asks."""
        if not self._server.owned:
            raise NotPossible("the server is shared: cutting its connections would disturb others")
        await self._control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def restart_server(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def clean_up(self) -> None:
        cursor = b"0"
        while True:
            cursor, keys = await self._control("SCAN", cursor, "MATCH", f"{{{self._namespace}}}:*", "COUNT", 1000)
            if keys:
                await self._control("UNLINK", *keys)
            if cursor == b"0":
                return

    async def _control(self, *command: str | bytes | int) -> Any:
        """Run a command on a connection that is not one of the tested drivers'."""
        driver = RedisDriver(self._server.url)
        try:
            return await driver.command(*command)
        finally:
            await driver.close()


def make_harness(servers: Servers) -> DriverHarness:
    """Return an empty namespace on the run's Redis."""
    return RedisHarness(servers.redis())
