"""What the SQL drivers share: names in statements, checks before storing, migrations, waiting; imports no library."""

import asyncio
import random
import re
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from asynctasq.drivers.base import Migration, Settlements
from asynctasq.errors import BodyTooLarge, ConfigError, DispatchError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.lifecycle import derive_state
from asynctasq.kernel.messages import (
    MICROSECONDS,
    Complete,
    DeadReason,
    Depth,
    ErrorRecord,
    Message,
    State,
    StoredMessage,
    check_queue_name,
)

__all__ = [
    "ID_CHARACTERS_MAX",
    "MigrationStore",
    "Pace",
    "Waiter",
    "Wakeups",
    "apply_pending",
    "check_at_least",
    "check_follow_ups",
    "check_identifier",
    "check_messages",
    "check_queue_names",
    "check_schema_version",
    "chunks",
    "depth_from",
    "independent_batches",
    "is_plain",
    "quote",
    "retry_conflicts",
    "stored_message",
    "wait_until_visible",
]

T = TypeVar("T")

ID_CHARACTERS_MAX = 128
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
CONFLICT_TRIES = 10
CONFLICT_PAUSE_S = 0.005
CONFLICT_PAUSE_S_MAX = 0.5


# -- names ---------------------------------------------------------------------------------------


def check_identifier(name: str, what: str, *, characters_max: int = 40) -> str:
    """Return `name`, or raise `ConfigError` if it is not a plain SQL name; `what` says which setting it is.

    The limit leaves room for the suffixes that drivers add (databases take 63 or 64 characters).
    """
    # A setting may come from anywhere, so what is not a text is refused too.
    if isinstance(name, str) and len(name) <= characters_max and IDENTIFIER.match(name):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        return name
    raise ConfigError(
        f"{what} {name!r} is not valid: use 1 to {characters_max} letters, digits or '_', not starting with a digit"
    )


def quote(name: str, *, mark: str = '"') -> str:
    """Return a name in the quotes of the dialect: `"` for PostgreSQL, a backtick for MySQL."""
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


def check_at_least(least: float, **options: float) -> None:
    """Raise `ConfigError` naming the first option that is smaller than `least`."""
    for name, value in options.items():
        if value < least:
            raise ConfigError(f"option {name!r} is {value}; it must be at least {least}")


# -- before storing ------------------------------------------------------------------------------


def check_messages(messages: Iterable[Message], *, body_bytes_max: int | None) -> None:
    """Raise before anything is stored: InvalidQueueName, BodyTooLarge, or DispatchError for an unusable id."""
    for message in messages:
        check_queue_name(message.queue)
        if not (0 < len(message.id) <= ID_CHARACTERS_MAX and message.id.isprintable()):
            raise DispatchError(
                f"message id {message.id[:200]!r} is not valid: use 1 to {ID_CHARACTERS_MAX} printable characters"
            )
        if body_bytes_max is not None and len(message.body) > body_bytes_max:
            raise BodyTooLarge(
                f"message {message.id} has {len(message.body)} bytes; this driver takes {body_bytes_max}"
            )


def check_follow_ups(settlements: Settlements, *, body_bytes_max: int | None) -> None:
    """Do `check_messages` for the follow-ups, before anything is settled."""
    for _, settlement in settlements:
        if settlement.follow_ups:
            check_messages(settlement.follow_ups, body_bytes_max=body_bytes_max)


def check_queue_names(names: Iterable[str]) -> None:
    """Raise InvalidQueueName for the first name that a driver could misread."""
    for name in names:
        check_queue_name(name)


def chunks(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Part a sequence into pieces of at most `length`."""
    for start in range(0, len(items), length):
        yield items[start : start + length]


def independent_batches(settlements: Settlements) -> tuple[list[Settlements], set[str]]:
    """Part settlements into batches that one statement each may apply in any order, and name what is lost already.

    A statement applies its entries at once, while the contract lets them follow each other. That differs
    only where one lease comes twice (the second is lost) or where a follow-up has the id of a message
    that the same batch settles; then each entry is a batch of its own, in the order given.
    """
    seen: set[tuple[str, str]] = set()
    lost: set[str] = set()
    entries: list[tuple[int, str]] = []
    for index, (lease, _) in enumerate(settlements):
        key = (lease.message_id, lease.token)
        if key in seen:
            lost.add(lease.message_id)
        else:
            seen.add(key)
            entries.append((index, lease.message_id))
    unique = settlements if not lost else [settlements[index] for index, _ in entries]
    settled = {message_id for _, message_id in entries}
    if any(message.id in settled for _, settlement in unique for message in settlement.follow_ups):
        return [[entry] for entry in unique], lost
    return [unique] if unique else [], lost


# -- rows ----------------------------------------------------------------------------------------


def stored_message(
    row: tuple[str, str, bytes, bool, int, int, int, int, str | None, str | None], now_us: int
) -> StoredMessage:
    """Return what an operator sees of one row.

    Its columns: id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error (JSON).
    """
    message_id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error = row
    state = State.DEAD if reason is not None else derive_state(leased=leased, visible_at=visible_us, now=now_us)
    return StoredMessage(
        id=message_id,
        queue=queue,
        body=body,
        state=state,
        attempts=attempts,
        crashes=crashes,
        enqueued_at=enqueued_us / MICROSECONDS,
        visible_at=visible_us / MICROSECONDS,
        reason=DeadReason(reason) if reason is not None else None,
        error=ErrorRecord.from_json(error) if error is not None else None,
    )


def depth_from(*, ready: int, scheduled: int, reserved: int, dead: int, oldest_us: int | None, now_us: int) -> Depth:
    """Return a `Depth` from counts and the smallest visible_us among the ready."""
    age_s = None if oldest_us is None else (now_us - oldest_us) / MICROSECONDS
    return Depth(ready=ready, scheduled=scheduled, reserved=reserved, dead=dead, oldest_age_s=age_s)


def is_plain(settlements: Settlements) -> bool:
    """Say whether all are `Complete` with neither result nor follow-ups: the hot path, one DELETE."""
    return all(
        type(settlement) is Complete and settlement.result is None and not settlement.follow_ups
        for _, settlement in settlements
    )


# -- conflicts -----------------------------------------------------------------------------------


async def retry_conflicts(
    operation: Callable[[], Awaitable[T]], *, is_conflict: Callable[[Exception], bool], rng: random.Random
) -> T:
    """Run `operation` again while the server rolled it back as a whole (deadlock, serialization failure).

    Only for operations whose failure leaves nothing behind. The last error is raised as it is.
    """
    pause_s = CONFLICT_PAUSE_S
    for _ in range(CONFLICT_TRIES - 1):
        try:
            return await operation()
        except Exception as error:
            if not is_conflict(error):
                raise
        await asyncio.sleep(rng.uniform(0, pause_s))
        pause_s = min(2 * pause_s, CONFLICT_PAUSE_S_MAX)
    return await operation()


# -- migrations ----------------------------------------------------------------------------------


class MigrationStore(Protocol):
    """Where migrations are applied: one connection that holds the driver's migration lock."""

    async def version(self) -> int:
        """Return the version recorded last, 0 if none."""
        ...

    async def apply(self, migration: Migration) -> None:
        """Run the statements and record the version, in one transaction where the database can."""
        ...


async def apply_pending(store: MigrationStore, migrations: Sequence[Migration]) -> list[int]:
    """Apply what the database lacks, in order; return those versions. Call it under the migration lock.

    A database that is newer than this program is left alone.
    """
    have = await store.version()
    pending = [migration for migration in migrations if migration.version > have]
    for migration in pending:
        await store.apply(migration)
    return [migration.version for migration in pending]


def check_schema_version(have: int, migrations: Sequence[Migration], *, driver: str, where: str) -> None:
    """Raise `DriverMisconfigured` naming the command to run if the schema is missing or outdated.

    A newer schema is accepted: a migration keeps workers of the version before it running.
    """
    need = migrations[-1].version
    if have >= need:
        return
    found = f"has version {have} of our tables" if have else "does not have our tables"
    raise DriverMisconfigured(f"{where} {found}, version {need} is needed; run: asynctasq migrate --driver {driver}")


# -- waiting -------------------------------------------------------------------------------------


class Waiter:
    """One waiting call: woken by a notice for one of its queues, or ended by `close`."""

    __slots__ = ("__weakref__", "_event", "closed", "loop", "queues")

    def __init__(self, queues: Iterable[str]) -> None:
        self.queues = frozenset(queues)
        self.loop = asyncio.get_running_loop()
        self.closed = False
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Sleep until woken (True) or `timeout_s` later (False); a wake-up that came before counts."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    async def unless_closed(self, call: Awaitable[T]) -> T | None:
        """Await a call of the driver; None if it failed because `close` took its connection away."""
        try:
            return await call
        except DriverUnavailable:
            if self.closed:
                return None
            raise

    def set(self) -> None:
        """Wake it; only from its own loop."""
        self._event.set()


class Wakeups:
    """Who waits in this process for which queues of one store; every method may be called from any thread."""

    _shared: "WeakValueDictionary[str, Wakeups]" = WeakValueDictionary()
    _shared_lock = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[Waiter, None] = {}

    @classmethod
    def of(cls, store: str) -> "Wakeups":
        """Return the one for a store, so that driver instances of one process wake each other."""
        with cls._shared_lock:
            found = cls._shared.get(store)
            if found is None:
                found = cls._shared[store] = cls()
            return found

    @contextmanager
    def waiting(self, queues: Iterable[str], *, into: "set[Waiter] | None" = None) -> Generator[Waiter, None, None]:
        """Register a waiter; notices from now on are not missed. `into` collects the waiters of one owner."""
        waiter = Waiter(queues)
        with self._lock:
            self._waiters[waiter] = None
        if into is not None:
            into.add(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)
            if into is not None:
                into.discard(waiter)

    def wake(self, queues: AbstractSet[str] | None = None) -> None:
        """Wake who waits for one of these queues; everybody for None."""
        if not self._waiters:
            return
        with self._lock:
            chosen = [waiter for waiter in self._waiters if queues is None or not queues.isdisjoint(waiter.queues)]
        running = asyncio._get_running_loop()  # noqa: SLF001 - the public one raises outside a loop
        for waiter in chosen:
            if waiter.loop is running:
                waiter.set()
            else:
                _call_in(waiter.loop, waiter.set)


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # That loop was closed meanwhile, and its waiters with it.


class Pace:
    """How long to sleep between looks when nothing wakes us: growing from `first_s` to `longest_s`, with jitter."""

    __slots__ = ("_factor", "_first_s", "_longest_s", "_next_s", "_rng")

    def __init__(self, *, first_s: float, longest_s: float, rng: random.Random, factor: float = 2.0) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._factor = factor
        self._rng = rng

    def reset(self) -> None:
        """Start anew from `first_s`: something was found."""
        self._next_s = self._first_s

    def pause_s(self) -> float:
        """Return the next pause, between three quarters of the step and all of it."""
        pause_s = self._next_s * self._rng.uniform(0.75, 1.0)
        self._next_s = min(self._next_s * self._factor, self._longest_s)
        return pause_s


async def wait_until_visible(
    waiter: Waiter, due_in_s: Callable[[], Awaitable[float | None]], *, wait_s: float, pace: Pace
) -> bool:
    """Sleep until `due_in_s()` is zero or less (True), `wait_s` seconds passed or the waiter was closed (False).

    `due_in_s` asks the server how long it is until the next message of the queues is visible, None if there
    is none. Between looks: the earliest of that instant, a wake-up, the pace and the deadline.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while not waiter.closed:
        due_s = await due_in_s()
        if due_s is not None and due_s <= 0:
            pace.reset()
            return True
        remaining_s = deadline - loop.time()
        if remaining_s <= 0 or waiter.closed:
            return False
        pause_s = min(remaining_s, pace.pause_s())
        await waiter.wait(pause_s if due_s is None else min(pause_s, due_s))
    return False
