"""The one thread that works on a SQLite file for one event loop: whole transactions in, results back; knows no queue.

Operations that wait together share one transaction, since a durable commit costs more than the work in it. If that
transaction fails, each is done again in its own, so that none suffers for another.
"""

import asyncio
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from asynctasq.clock import SystemClock
from asynctasq.drivers.sql.waiting import Waiter, Wakeups
from asynctasq.drivers.sqlite_driver.schema import (
    SQLiteFile,
    Steps,
    driver_error,
    is_locked,
    open_connection,
    primary_code,
    run_on,
)
from asynctasq.errors import DriverUnavailable

__all__ = ["Job", "Session"]

T = TypeVar("T")

JOBS_AT_ONCE = 100
CLOSE_S = 4.0
LOCK_S_WHEN_CLOSING = 1.0
BROKEN = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job(Generic[T]):
    """One operation. `steps` is asked for again when its transaction has to be repeated.

    now_us: the clock, read once the transaction holds its lock.
    look: asked first, without the write lock; a value other than None is the result.
    wakes: queues in which something may be visible, or become it sooner, once this is committed.
    wakes_after: those that only the result tells.
    undo: what to do with a result that nobody is left to receive.
    """

    steps: Callable[[int], Steps[T]]
    now_us: Callable[[], int]
    writes: bool = True
    look: Callable[[int], Steps[T | None]] | None = None
    wakes: frozenset[str] = frozenset()
    wakes_after: Callable[[T], AbstractSet[str]] | None = None
    undo: "Callable[[T], Job[None] | None] | None" = None


class _Order(Generic[T]):
    """A job on its way, and what became of it. Without a future nobody waits for the result."""

    __slots__ = ("error", "finished", "future", "job", "result")

    def __init__(self, job: Job[T], future: "asyncio.Future[T] | None") -> None:
        self.job = job
        self.future = future
        self.result: T | None = None
        self.error: Exception | None = None
        self.finished = future is not None and future.cancelled()

    def drop_if_cancelled(self) -> None:
        if self.future is not None and self.future.cancelled():
            self.finished = True

    def wakes(self) -> AbstractSet[str]:
        """Return the queues whose waiters are to look, now that it was done."""
        if self.job.wakes_after is None:
            return self.job.wakes
        return self.job.wakes | self.job.wakes_after(cast("T", self.result))


_Orders = queue.SimpleQueue["_Order[Any] | None"]
"""What the thread is to do; None ends it."""


class Session:
    """The thread and its connection, as their event loop sees them."""

    def __init__(self, file: SQLiteFile, wakeups: Wakeups, poll_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._orders: _Orders = queue.SimpleQueue()
        self._work = _Work(file, wakeups, poll_s, self._orders, self._loop)
        self._thread = threading.Thread(target=self._work.run, name="asynctasq-sqlite", daemon=True)
        self._finalizer: weakref.finalize[..., object] | None = None

    @property
    def waiters(self) -> set[Waiter]:
        """The waiting calls for whose sake the thread looks out for commits of other processes."""
        return self._work.waiters

    async def start(self) -> None:
        """Start the thread and wait until it has opened the file. Raises what prevented it."""
        self._thread.start()
        try:
            await self.submit(Job(steps=_nothing, now_us=int, writes=False))
        except asyncio.CancelledError:
            self.abandon()
            raise
        except BaseException:
            await self.close()
            raise

    async def submit(self, job: Job[T]) -> T:
        """Have a job done. Cancelled before it began it is not done at all, later its result is undone."""
        if self._work.ending:
            raise DriverUnavailable(f"{self._work.file} was closed meanwhile; call again")
        future: asyncio.Future[T] = self._loop.create_future()
        self._orders.put(_Order(job, future))
        try:
            return await future
        except asyncio.CancelledError:
            # A result that arrived together with the cancellation is not seen by anybody else.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._work.undo(job, future.result())
            raise

    async def close(self) -> None:
        """Let waiting calls return and the thread finish; returns after `CLOSE_S` seconds at the latest."""
        for waiter in self.waiters:
            waiter.close()
        self.abandon()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._work.ended.wait()
                self._thread.join()
                if self._finalizer is not None:
                    self._finalizer.detach()

    def abandon(self) -> None:
        """Let the thread finish what it has and end, without waiting for it."""
        self._work.ending = True
        self._orders.put(None)

    def end_with(self, owner: object) -> None:
        """End the thread when `owner` is gone, or at the end of the process, if nobody closed it before."""
        self._finalizer = weakref.finalize(owner, _end, self._work, self._orders, self._thread)


def _end(work: "_Work", orders: _Orders, thread: threading.Thread) -> None:
    work.ending = True
    orders.put(None)
    if thread is not threading.current_thread():
        thread.join(LOCK_S_WHEN_CLOSING)


class _Work:
    """What the thread runs. Of its attributes only `waiters`, `ending` and the queue are touched by the loop."""

    def __init__(
        self, file: SQLiteFile, wakeups: Wakeups, poll_s: float, orders: _Orders, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.file = file
        self.waiters: set[Waiter] = set()
        self.ending = False
        self.ended = asyncio.Event()
        self._wakeups = wakeups
        self._poll_s = poll_s
        self._orders = orders
        self._loop = loop
        self._clock = SystemClock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._data_version = 0

    def run(self) -> None:
        """Serve orders until None comes, then those that came meanwhile."""
        try:
            while self._serve(self._next()):
                pass
            while orders := self._waiting_orders():
                self._serve(orders)
        finally:
            self._disconnect()
            self._in_loop(self.ended.set)

    # -- orders ----------------------------------------------------------------------------------

    def _next(self) -> "list[_Order[Any] | None]":
        """Return what waits; nothing after `poll_s` seconds if there are waiters who want news of the file."""
        try:
            first = self._orders.get(timeout=self._poll_s if self.waiters else None)
        except queue.Empty:
            return []
        return [first, *self._waiting_orders()] if first is not None else [None]

    def _waiting_orders(self) -> "list[_Order[Any] | None]":
        orders: list[_Order[Any] | None] = []
        with suppress(queue.Empty):
            while len(orders) < JOBS_AT_ONCE:
                orders.append(self._orders.get_nowait())
        return orders

    def _serve(self, received: "Sequence[_Order[Any] | None]") -> bool:
        """Do the orders and send the results back with one wake-up of the loop; False at the end."""
        orders = [order for order in received if order is not None]
        try:
            cursor = self._connect()
            self._look_for_commits(cursor)
        except Exception as error:  # noqa: BLE001 - whoever waits for an order gets the error; the thread must live on
            self._fail(orders, error)
            self._wake_waiters()
        else:
            self._do(orders, cursor)
        if orders:
            self._send_back(orders)
        return None not in received

    def _do(self, orders: "Sequence[_Order[Any]]", cursor: sqlite3.Cursor) -> None:
        for order in orders:
            order.drop_if_cancelled()
            if order.job.look is not None and not order.finished:
                self._look(order, order.job.look, cursor)
        self._write([order for order in orders if order.job.writes and not order.finished], cursor)
        for order in orders:
            if not order.finished:
                self._transact_or_fail([order], cursor, "BEGIN")

    def _look(self, order: _Order[Any], look: Callable[[int], Steps[Any]], cursor: sqlite3.Cursor) -> None:
        try:
            order.result = run_on(look(order.job.now_us()), cursor)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the thread must live on
            self._fail([order], error)
        else:
            order.finished = order.result is not None

    def _write(self, orders: "Sequence[_Order[Any]]", cursor: sqlite3.Cursor) -> None:
        """Do them in one transaction; if that fails for another reason than a lock, each in its own."""
        if len(orders) > 1:
            try:
                self._transact(orders, cursor, "BEGIN IMMEDIATE")
            except Exception as error:  # noqa: BLE001 - each order meets its own error below
                if is_locked(error):
                    self._fail(orders, error)
        for order in orders:
            if not order.finished:
                self._transact_or_fail([order], cursor, "BEGIN IMMEDIATE")
        wakes = frozenset[str]().union(*(order.wakes() for order in orders if order.error is None))
        if wakes:
            self._wakeups.wake(wakes)

    def _transact_or_fail(self, orders: "Sequence[_Order[Any]]", cursor: sqlite3.Cursor, begin: str) -> None:
        try:
            self._transact(orders, cursor, begin)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the thread must live on
            self._fail(orders, error)

    def _transact(self, orders: "Sequence[_Order[Any]]", cursor: sqlite3.Cursor, begin: str) -> None:
        """Do the orders in one transaction, again and again while the file is locked by others."""
        started = self._clock.monotonic()
        while True:
            try:
                cursor.execute(begin)
                for order in orders:
                    order.result = run_on(order.job.steps(order.job.now_us()), cursor)
                cursor.execute("COMMIT")
                break
            except BaseException as error:
                # Some errors have ended the transaction already.
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                if not is_locked(error) or self._clock.monotonic() - started >= self._lock_s():
                    raise
        for order in orders:
            order.finished = True

    def _lock_s(self) -> float:
        timeout_s = self.file.busy_timeout_s
        return min(timeout_s, LOCK_S_WHEN_CLOSING) if self.ending else timeout_s

    def _fail(self, orders: "Sequence[_Order[Any]]", error: Exception) -> None:
        for order in orders:
            order.finished = True
            if isinstance(error, sqlite3.Error):
                order.error = driver_error(error, str(self.file))
                order.error.__cause__ = error
            else:
                order.error = error
        if isinstance(error, sqlite3.Error) and primary_code(error) in BROKEN:
            self._identity = None

    # -- results ---------------------------------------------------------------------------------

    def _send_back(self, orders: "Sequence[_Order[Any]]") -> None:
        if not self._in_loop(self._deliver, orders):
            for order in orders:
                self._undo_order(order)

    def _deliver(self, orders: "Sequence[_Order[Any]]") -> None:
        for order in orders:
            future = order.future
            if future is None or future.done():
                self._undo_order(order)
            elif order.error is not None:
                future.set_exception(order.error)
            else:
                future.set_result(order.result)

    def _undo_order(self, order: _Order[Any]) -> None:
        if order.error is None and order.result is not None:
            self.undo(order.job, order.result)

    def undo(self, job: Job[T], result: T) -> None:
        """Order that a result which nobody received be undone; called by the loop, too."""
        undoing = job.undo(result) if job.undo is not None else None
        if undoing is not None:
            self._orders.put(_Order(undoing, None))

    def _in_loop(self, callback: Callable[..., None], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False  # That loop was closed, and all who waited in it with it.
        return True

    # -- the connection --------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Cursor:
        """Return a cursor; opens the file anew if another has taken its place or an error broke the connection."""
        if self._connection is None or self._identity is None or self._identity != self.file.identity():
            self._disconnect()
            self._connection = open_connection(self.file)
            self._identity = self.file.identity()
        return self._connection.cursor()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _look_for_commits(self, cursor: sqlite3.Cursor) -> None:
        """Wake our waiters if another connection has committed since we looked last."""
        if not self.waiters:
            return
        ((version,),) = cursor.execute("PRAGMA data_version").fetchall()
        if version != self._data_version:
            self._data_version = version
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self.waiters:
            self._in_loop(self._set_waiters)

    def _set_waiters(self) -> None:
        for waiter in self.waiters:
            waiter.set()


def _nothing(_now_us: int) -> Steps[None]:
    yield from ()
