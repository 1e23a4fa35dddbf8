"""How a message ended, and how far one is, as SQLite statements; and checks that calls which wait share."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet

from asynctasq.drivers.damaged import read_bytes, read_instant_us
from asynctasq.drivers.sqlite_driver.schema import Step, Steps
from asynctasq.drivers.sqlite_driver.statements import held
from asynctasq.kernel.messages import Lease, Progress

__all__ = ["EndChecks", "fetch_result", "living", "report_progress"]


def fetch_result(message_id: str) -> Steps[tuple[int, bytes] | None]:
    """Return when a result expires, and the result."""
    rows = yield Step("SELECT expires_us, body FROM asynctasq_result WHERE id = ?", (message_id,))
    return (read_instant_us(rows[0][0]), read_bytes(rows[0][1])) if rows else None


def living(message_ids: Sequence[str]) -> Steps[AbstractSet[str]]:
    """Return those of the ids whose messages have not ended."""
    rows = yield Step(
        "SELECT id FROM asynctasq_message WHERE id IN (SELECT value FROM json_each(?)) AND death IS NULL",
        (json.dumps(message_ids),),
    )
    return {message_id for (message_id,) in rows}


def report_progress(reports: Sequence[tuple[Lease, Progress]]) -> Steps[None]:
    """Store the progress of messages whose leases are held."""
    arrivals, _ = yield from held([lease for lease, _ in reports])
    rows = [
        (progress.to_json(), arrival)
        for (_, progress), arrival in zip(reports, arrivals, strict=True)
        if arrival is not None
    ]
    yield Step("UPDATE asynctasq_message SET progress = ? WHERE arrival = ?", rows, many=True)


class EndChecks:
    """Asks about all messages at once that calls of one event loop want to know of: one commit may wake all of them."""

    def __init__(self, living: Callable[[Sequence[str]], Awaitable[AbstractSet[str]]]) -> None:
        self._living = living
        self._next: dict[asyncio.AbstractEventLoop, tuple[list[str], asyncio.Task[AbstractSet[str]]]] = {}

    async def has_ended(self, message_id: str) -> bool:
        """Say whether a message has ended."""
        loop, ids = asyncio.get_running_loop(), list[str]()
        if loop not in self._next:
            self._next[loop] = ids, loop.create_task(self._ask(loop, ids))
            self._next[loop][1].add_done_callback(_retrieve)
        ids, asking = self._next[loop]
        ids.append(message_id)
        return message_id not in await asyncio.shield(asking)

    async def _ask(self, loop: asyncio.AbstractEventLoop, ids: Sequence[str]) -> AbstractSet[str]:
        try:
            await asyncio.sleep(0)  # whoever was woken in the same step asks, too
        finally:
            del self._next[loop]
        return await self._living(ids)


def _retrieve(asking: "asyncio.Task[AbstractSet[str]]") -> None:
    """Let an error be no news to asyncio when all who asked were cancelled."""
    if not asking.cancelled():
        asking.exception()
