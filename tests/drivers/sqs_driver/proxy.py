"""An HTTP proxy between a driver and an SQS server that loses replies, throttles, halves batches and duplicates."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Fault", "FaultProxy", "SeenRequest", "first", "nothing"]

# Before Python 3.12, asking for "the current loop" where none was ever set makes one that nobody closes, and
# the plugin that runs coroutine tests asks.
asyncio.set_event_loop(None)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    `lose`: done by the server, the reply cut. `refuse`: cut before the server saw it. `status`: not done, answered
    with this HTTP status and `code`. `half`: the first half of a batch is done, the rest reported as failed.
    `twice`: done two times. `hold`: done, answered when `FaultProxy.held` is set.
    """

    kind: str
    status: int = 503
    code: str = "ServiceUnavailable"


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request that went by: its operation, how many of that kind came before, its parameters."""

    operation: str
    number: int
    body: dict[str, Any]


Plan = Callable[[SeenRequest], Fault | None]


def nothing(_: SeenRequest) -> Fault | None:
    """Let everything pass."""
    return None


def first(operation: str, fault: Fault, *, times: int = 1, after: int = 0) -> Plan:
    """Disturb the requests number `after` to `after + times` of an operation from now on."""
    met = 0

    def plan(seen: SeenRequest) -> Fault | None:
        nonlocal met
        if seen.operation != operation:
            return None
        met += 1
        return fault if after < met <= after + times else None

    return plan


@dataclass(slots=True)
class FaultProxy:
    """`url` is what the driver gets as its endpoint; `requests` counts what came, `log` keeps it."""

    target: str
    plan: Plan = nothing
    url: str = ""
    requests: Counter[str] = field(default_factory=Counter)
    log: list[SeenRequest] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _links: dict[asyncio.StreamWriter, None] = field(default_factory=dict)

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.held.set()
        self._server.close()
        for link in list(self._links):
            link.close()
        while self._links:  # each handler takes its own out
            await asyncio.sleep(0.005)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links[writer] = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            del self._links[writer]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, body = await _read(reader)
        operation = _header(head, "x-amz-target").rpartition(".")[2]
        seen = SeenRequest(operation, self.requests[operation], json.loads(body or b"{}"))
        self.requests[operation] += 1
        self.log.append(seen)
        self.arrived.set()
        fault = self.plan(seen)
        kind = fault.kind if fault else ""
        if kind == "refuse":
            return False
        if fault is not None and kind == "status":
            writer.write(_error(fault))
            return True
        reply = await self._forward(head, body) if kind != "half" else await self._half(head, seen)
        if kind == "twice":
            reply = await self._forward(head, body)
        if kind == "hold":
            await self.held.wait()
        if kind == "lose":
            return False
        writer.write(reply)
        await writer.drain()
        return True

    async def _half(self, head: bytes, seen: SeenRequest) -> bytes:
        entries = seen.body["Entries"]
        done, failed = entries[: len(entries) // 2], entries[len(entries) // 2 :]
        reply: dict[str, Any] = {"Successful": [], "Failed": []}
        if done:
            raw = await self._forward(head, json.dumps({**seen.body, "Entries": done}).encode())
            reply |= json.loads(raw.partition(b"\r\n\r\n")[2])
        reply["Failed"] = [*reply.get("Failed", []), *(_failed(entry) for entry in failed)]
        return _reply(200, reply)

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        address = urlsplit(self.target)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            lines = [
                line
                for line in head.split(b"\r\n")
                if line and not line.lower().startswith((b"content-length:", b"connection:"))
            ]
            lines += [b"Content-Length: %d" % len(body), b"Connection: close"]
            writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            reply_head, reply = await _read(reader)
            kept = [line for line in reply_head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
            return b"\r\n".join(kept) + b"\r\n\r\n" + reply
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(_header(head, "content-length") or 0)
    return head, await reader.readexactly(length)


def _header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def _failed(entry: dict[str, Any]) -> dict[str, Any]:
    return {"Id": entry["Id"], "SenderFault": False, "Code": "InternalError", "Message": "half of it failed"}


def _error(fault: Fault) -> bytes:
    return _reply(fault.status, {"__type": f"com.amazonaws.sqs#{fault.code}", "message": "made by the test"})


def _reply(status: int, body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    return (
        b"HTTP/1.1 %d Because\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"
        % (status, len(text))
    ) + text
