"""Find the address of a queue; create the queue when allowed, else name the command that does."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from asynctasq.drivers.sqs_driver.client import Connection
from asynctasq.drivers.sqs_driver.errors import QueueGone
from asynctasq.drivers.sqs_driver.names import QueueNames
from asynctasq.errors import DriverUnavailable, UnknownQueue
from asynctasq.logs import get_logger

__all__ = ["QueueDirectory"]

logger = get_logger(__name__)
T = TypeVar("T")

RETENTION_S = 1_209_600
"""14 days, the longest SQS keeps a message; its default is 4."""
RECEIVES_MAX = 1000
"""SQS's largest limit: we count crashes ourselves, but the rule is what makes the console offer a redrive."""
CREATED_PAUSES_S = (0.0, 0.5, 1.0, 2.0)
"""A new queue may take more than a second until every server of SQS knows it."""


class QueueDirectory:
    """The addresses of the queues of one driver, found once; shared by its loops."""

    def __init__(self, names: QueueNames, *, url_prefix: str | None, create: bool) -> None:
        self.names = names
        self._url_prefix = url_prefix.rstrip("/") + "/" if url_prefix else None
        self._create = create
        self._urls: dict[str, str] = {}

    async def run(
        self, connection: Connection, queue: str, action: Callable[[str], Awaitable[T]], *, dead: bool = False
    ) -> T:
        """Call `action` with the address of a queue; create the queue if it is missing and `create` allows.

        Raises: UnknownQueue
        """
        name = self.names.encode(queue, dead=dead)
        for pause_s in CREATED_PAUSES_S:
            await asyncio.sleep(pause_s)
            url = await self.address(connection, queue, dead=dead)
            try:
                return await action(url)
            except QueueGone:
                self._urls.pop(name, None)
                if self._url_prefix is not None:
                    await self._create_queue(connection, queue, dead=dead)
        raise DriverUnavailable(
            f"{connection.endpoint.label}: queue {name!r} was found or created, but SQS still says it does not exist; "
            "a deleted queue can be created again after 60 seconds: try again later"
        )

    async def address(self, connection: Connection, queue: str, *, dead: bool = False) -> str:
        """Return the address; find it, or create the queue, at the first time.

        Raises: UnknownQueue
        """
        name = self.names.encode(queue, dead=dead)
        url = self._urls.get(name)
        if url is None:
            async with connection.create_lock:
                url = self._urls.get(name) or await self._find(connection, name)
                if url is None:
                    url = await self._create_queue_locked(connection, queue, dead=dead)
                self._urls[name] = url
        return url

    async def find(self, connection: Connection, queue: str, *, dead: bool = False) -> str | None:
        """Return the address of a queue that exists, else None; create nothing."""
        name = self.names.encode(queue, dead=dead)
        url = self._urls.get(name) or await self._find(connection, name)
        if url is not None:
            self._urls[name] = url
        return url

    def forget(self, queue: str, *, dead: bool = False) -> None:
        """Forget the address, so that the queue is looked up again."""
        self._urls.pop(self.names.encode(queue, dead=dead), None)

    async def _find(self, connection: Connection, name: str) -> str | None:
        if self._url_prefix is not None:
            return self._url_prefix + name
        try:
            reply = await connection.call("get_queue_url", QueueName=name)
        except QueueGone:
            return None
        return reply.text("QueueUrl")

    async def _create_queue(self, connection: Connection, queue: str, *, dead: bool) -> str:
        async with connection.create_lock:
            return await self._create_queue_locked(connection, queue, dead=dead)

    async def _create_queue_locked(self, connection: Connection, queue: str, *, dead: bool) -> str:
        name = self.names.encode(queue, dead=dead)
        if not self._create:
            raise UnknownQueue(
                f"queue {queue!r} has no SQS queue {name!r} at {connection.endpoint.label} and create_queues is off; "
                f"create it with: {self._command(connection, queue, name)}"
            )
        attributes = self._attributes(queue)
        if not dead:
            attributes["RedrivePolicy"] = await self._redrive_policy(connection, queue)
        parameters = {"QueueName": name, "Attributes": attributes}
        if self.names.decode(name) is None and not dead:
            parameters["tags"] = {"asynctasq:queue": queue}
        reply = await connection.call("create_queue", **parameters)
        logger.info("created SQS queue %s for queue %s", name, queue)
        return reply.text("QueueUrl")

    def _attributes(self, queue: str) -> dict[str, str]:
        attributes = {"MessageRetentionPeriod": str(RETENTION_S)}
        if self.names.is_fifo(queue):
            attributes["FifoQueue"] = "true"
        return attributes

    async def _redrive_policy(self, connection: Connection, queue: str) -> str:
        dead_name = self.names.encode(queue, dead=True)
        dead_url = self._urls.get(dead_name) or await self._find(connection, dead_name)
        try:
            if dead_url is None:
                raise QueueGone
            arn = await self._arn(connection, dead_url)
        except QueueGone:
            dead_url = await self._create_queue_locked(connection, queue, dead=True)
            arn = await self._arn(connection, dead_url)
        self._urls[dead_name] = dead_url
        return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES_MAX})

    async def _arn(self, connection: Connection, url: str) -> str:
        reply = await connection.call("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        return replace(reply, data=reply.data.get("Attributes", {})).text("QueueArn")

    def _command(self, connection: Connection, queue: str, name: str) -> str:
        attributes = json.dumps(self._attributes(queue), separators=(",", ":"))
        command = f"aws sqs create-queue --queue-name {name} --attributes '{attributes}'"
        endpoint = connection.endpoint
        if endpoint.profile:
            command += f" --profile {endpoint.profile}"
        if endpoint.region:
            command += f" --region {endpoint.region}"
        return command + (f" --endpoint-url {endpoint.endpoint_url}" if endpoint.endpoint_url else "")
