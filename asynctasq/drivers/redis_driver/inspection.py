"""What an operator sees and removes in Redis; nothing here is on the path of a worker."""

import itertools
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from asynctasq.drivers.base import Page
from asynctasq.drivers.batches import chunks
from asynctasq.drivers.checks import is_message_id
from asynctasq.drivers.damaged import queue_names, read_text
from asynctasq.drivers.levels import all_lines_of
from asynctasq.drivers.redis_driver.codec import decode_stored
from asynctasq.drivers.redis_driver.pool import Argument
from asynctasq.kernel.messages import CANCELLED_TTL_S, State, StoredMessage, cancelled_mark, microseconds

__all__ = ["CommandRunner", "Inspection"]

PURGE_BATCH = 5000
SCAN_BATCH = 5000
IDS_PER_CALL = 10_000


class CommandRunner(Protocol):
    """How the driver reaches the server."""

    async def script(self, name: str, *arguments: Argument) -> Any:
        """Run a script that may be repeated, under the shifted clock."""
        ...

    async def command(self, *arguments: Argument) -> Any:
        """Run a command that may be repeated."""
        ...


class Inspection:
    """The operations of `Inspectable` over the keys that start with `base`."""

    def __init__(self, server: CommandRunner, base: str) -> None:
        self._server = server
        self._base = base

    async def queues(self) -> list[str]:
        return queue_names(await self._server.command("SMEMBERS", f"{self._base}queues"))

    async def find(self, message_id: str) -> StoredMessage | None:
        found = await self._show([message_id.encode()] if is_message_id(message_id) else [])
        return found[0] if found else None

    async def page(self, queue: str, *, state: State | None, limit: int, cursor: str | None) -> Page:
        """Return one page in the order of arrival.

        The sorted sets are in the order of delivery, so a page reads the names (not the bodies) of all messages
        of the queue, batch by batch: a long queue costs the caller time and never blocks the server.
        """
        members = await self._members(queue, state, int(cursor) if cursor else 0)
        found: list[StoredMessage] = []
        arrivals: list[int] = []
        for batch in chunks(members, limit + 1):
            arrival_of = {read_text(member[16:]): int(member[:16]) for member in batch}
            for message in await self._show([member[16:] for member in batch]):
                if message.queue == queue and state in {None, message.state}:
                    found.append(message)
                    arrivals.append(arrival_of[message.id])
            if len(found) > limit:
                return Page(messages=found[:limit], cursor=str(arrivals[limit - 1]))
        return Page(messages=found, cursor=None)

    async def _members(self, queue: str, state: State | None, after: int) -> list[bytes]:
        """Return arrival and id of messages after the cursor that could be in that state, by arrival.

        `_show` says which of them are. scripts/common.lua has the shape of the members.
        """
        now = int((await self._server.script("show"))[0])
        members: set[bytes] = set()
        for sorted_set, line in itertools.product(_sorted_sets(state), all_lines_of(queue)):
            async for member, score in self._scan(f"{self._base}{sorted_set}:{line}"):
                if _arrival(member) > after and (state is not State.READY or score <= now):
                    members.add(member[:16] + member[65:] if sorted_set == "leased" else member)
        return sorted(members)

    async def _scan(self, key: str) -> AsyncIterator[tuple[bytes, float]]:
        cursor = b"0"
        while True:
            cursor, reply = await self._server.command("ZSCAN", key, cursor, "COUNT", SCAN_BATCH)
            for member, score in zip(reply[::2], reply[1::2], strict=True):
                yield member, float(score)
            if cursor == b"0":
                return

    async def _show(self, ids: Sequence[bytes]) -> list[StoredMessage]:
        return decode_stored(await self._server.script("show", *ids)) if ids else []

    async def remove(self, kind: str, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Remove those that are 'waiting' (scheduled, ready, lease ran out) or 'dead'; return their ids."""
        return await self._done_to("remove", kind, message_ids=message_ids)

    async def redrive_ids(self, message_ids: Sequence[str]) -> AbstractSet[str]:
        """Do `Inspectable.redrive_ids`."""
        return await self._done_to("redrive_ids", message_ids=message_ids)

    async def _done_to(self, script: str, *arguments: str, message_ids: Sequence[str]) -> set[str]:
        """Return the ids that a script has done something to."""
        done: set[str] = set()
        for batch in chunks([message_id for message_id in message_ids if is_message_id(message_id)], IDS_PER_CALL):
            done.update(read_text(found) for found in await self._server.script(script, *arguments, *batch))
        return done

    async def cancel_running(self, message_ids: Sequence[str]) -> dict[str, str]:
        """Do `CancelsRunning.cancel_running`."""
        tokens: dict[str, str] = {}
        kept = microseconds(CANCELLED_TTL_S), cancelled_mark("")
        for batch in chunks([message_id for message_id in message_ids if is_message_id(message_id)], IDS_PER_CALL):
            reply = [read_text(part) for part in await self._server.script("cancel", *kept, *batch)]
            tokens.update(zip(reply[::2], reply[1::2], strict=True))
        return tokens

    async def purge(self, queue: str) -> int:
        total, last = 0, b""
        for line in all_lines_of(queue):
            removed = PURGE_BATCH
            while removed >= PURGE_BATCH:
                reply = await self._server.script("purge", line, PURGE_BATCH, last)
                removed, last = int(reply[0]), reply[1]
                total += removed
        return total


def _arrival(member: bytes) -> int:
    """Return the arrival in a member of a sorted set, 0 if it is damaged: no message can be found by that."""
    return int(member[:16]) if len(member) > 16 and member[:16].isdigit() else 0


def _sorted_sets(state: State | None) -> tuple[str, ...]:
    match state:
        case None:
            return ("due", "leased", "dead")
        case State.SCHEDULED:
            return ("due",)
        case State.READY:
            return ("due", "leased")
        case State.RESERVED:
            return ("leased",)
        case State.DEAD:
            return ("dead",)
        case State.COMPLETED | State.CANCELLED:
            return ()
