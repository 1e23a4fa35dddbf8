"""Which workers there are: each keeps a message of its own under a lease, and whose lease has run out is gone."""

import asyncio
import json
import math
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, cast

from asynctasq import __version__
from asynctasq.clock import Clock
from asynctasq.codec.schedule import decode_note, encode_note
from asynctasq.drivers.base import Driver, Inspectable
from asynctasq.errors import DriverError
from asynctasq.kernel.messages import Complete, Lease, Message, State, StoredMessage
from asynctasq.logs import get_logger

__all__ = ["QUEUE_PREFIX", "WorkerEntry", "WorkerRegistration", "forget_gone", "registered_workers"]

logger = get_logger(__name__)

QUEUE_PREFIX: Final = "asynctasq.worker."
"""How the names of the queues begin that have one worker's message each: so a worker reserves its own and no other."""
ID_PREFIX: Final = "worker:"
LEASE_S: Final = 30.0
"""For how long a worker counts as there after its last sign; it gives one at a third of that."""
FORGET_S: Final = 86_400.0
"""How long a worker that ended without saying so is still shown."""
FORGOTTEN_AT_START: Final = 10
"""How many of those a worker removes at its start, at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEntry:
    """A worker as it has entered itself. Instants are seconds since the epoch, `last_seen_at` of the store's clock.

    `alive` is False once it has given no sign for `LEASE_S`, and before its first one: `entered` tells which. What it
    entered itself is empty if it can't be read.
    """

    id: str
    alive: bool
    entered: bool
    last_seen_at: float
    name: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    queues: tuple[str, ...] = ()
    concurrency: int = 0
    started_at: float = 0.0


class WorkerRegistration:
    """The entry of one worker, from `start` until `stop`; a worker that is killed leaves it to run out.

    A driver that can't be inspected has none.
    """

    def __init__(self, driver: Driver, name: str, *, queues: Sequence[str], concurrency: int, clock: Clock) -> None:
        self._driver = driver
        self._facts = {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "queues": list(queues),
            "concurrency": concurrency,
        }
        key = blake2b(name.encode("utf-8", "replace"), digest_size=12).hexdigest()
        self._id, self._queue = f"{ID_PREFIX}{key}", f"{QUEUE_PREFIX}{key}"
        self._started_at = clock.now()
        self.lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Enter the worker, and give a sign of it again and again; without its backend it tries again."""
        if self._driver.capabilities.inspects:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="asynctasq worker's entry")

    async def stop(self) -> None:
        """Remove the entry. What the backend says to that does not matter: the entry runs out."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None
        if self.lease is not None:
            lease, self.lease = self.lease, None
            with suppress(DriverError):
                await self._driver.settle([(lease, Complete())])

    async def _keep(self) -> None:
        store = cast("Inspectable", self._driver)  # `inspects` claims it
        is_first = True
        while True:
            try:
                await self.sign()
                if is_first:
                    await forget_gone(store, await registered_workers(store), most=FORGOTTEN_AT_START)
                    is_first = False
            except DriverError as error:
                logger.debug("the entry of this worker was not renewed: %s", error)
            await asyncio.sleep(LEASE_S / 3)

    async def sign(self) -> None:
        """Give one sign of the worker; enter it if it is not there.

        Raises: DriverError.
        """
        if self.lease is not None and not await self._driver.extend([self.lease], lease_s=LEASE_S):
            return
        body = encode_note(json.dumps({**self._facts, "started_at": self._started_at}))
        await self._driver.enqueue([Message(id=self._id, queue=self._queue, body=body)])
        self.lease = next(iter(await self._driver.reserve([self._queue], limit=1, lease_s=LEASE_S)), None)


async def registered_workers(store: Inspectable) -> list[WorkerEntry]:
    """Return the workers that have entered themselves, by name.

    Raises: DriverError.
    """
    found: list[WorkerEntry] = []
    for queue in await store.queues():
        if queue.startswith(QUEUE_PREFIX):
            stored = await store.find(ID_PREFIX + queue.removeprefix(QUEUE_PREFIX))
            if stored is not None:
                found.append(_entry(stored))
    return sorted(found, key=lambda entry: (entry.name, entry.id))


async def forget_gone(store: Inspectable, entries: Sequence[WorkerEntry], *, most: int) -> list[WorkerEntry]:
    """Remove the entries of workers that have been gone for `FORGET_S`, `most` of them; return the others.

    Raises: DriverError.
    """
    latest = max((entry.last_seen_at for entry in entries), default=-math.inf)
    old = [entry.id for entry in entries if not entry.alive and entry.last_seen_at < latest - FORGET_S][:most]
    if old:
        await store.cancel(old)
    return [entry for entry in entries if entry.id not in old]


def _entry(stored: StoredMessage) -> WorkerEntry:
    alive = stored.state is State.RESERVED
    entered = alive or stored.visible_at - stored.enqueued_at > LEASE_S / 2  # until its first lease it is due at once
    try:
        facts: Any = json.loads("".join(decode_note(stored.body)[:1]))
        return WorkerEntry(
            id=stored.id,
            alive=alive,
            entered=entered,
            last_seen_at=stored.visible_at - LEASE_S,
            name=str(facts["name"]),
            host=str(facts["host"]),
            pid=int(facts["pid"]),
            version=str(facts["version"]),
            queues=tuple(str(name) for name in facts["queues"]),
            concurrency=int(facts["concurrency"]),
            started_at=float(facts["started_at"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # not of a worker's making
        return WorkerEntry(id=stored.id, alive=False, entered=True, last_seen_at=stored.visible_at - LEASE_S)
