"""The one thread that works on a SQLite file for one event loop: runs operations, returns results; knows no message.

Operations that wait together share one transaction, since a durable commit costs more than the work in it. If that
transaction fails, each is repeated in a transaction of its own, so that none fails because of another.
"""

import asyncio
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from asynctasq.clock import SystemClock
from asynctasq.drivers.sql.waiting import Waiter, Wakeups
from asynctasq.drivers.sqlite_driver.commit_notices import NoticeReceiver, notice_folder, send_notices
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

__all__ = ["Operation", "Session"]

T = TypeVar("T")

OPERATIONS_PER_TRANSACTION = 100
CLOSE_S, LOCK_S_WHEN_CLOSING = 4.0, 1.0
POLL_S_IDLE, ACTIVE_S = 0.1, 2.0
"""How often to look for commits without a notice, so long after the last sign of one; until then every `poll_s`."""
BROKEN = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation(Generic[T]):
    """One operation. `steps` is asked for again when its transaction has to be repeated.

    now_us: the clock, read once the transaction holds its lock.
    try_read: run first, without the write lock; a value other than None is the result.
    wakes: queues in which a message may be visible, or visible sooner, once this is committed.
    wakes_from_result: returns further queues from the result.
    on_cancelled: returns the operation that undoes a result whose caller was cancelled.
    """

    steps: Callable[[int], Steps[T]]
    now_us: Callable[[], int]
    writes: bool = True
    try_read: Callable[[int], Steps[T | None]] | None = None
    wakes: frozenset[str] = frozenset()
    wakes_from_result: Callable[[T], AbstractSet[str]] | None = None
    on_cancelled: "Callable[[T], Operation[None] | None] | None" = None


class _Request(Generic[T]):
    """An operation handed to the thread, and its outcome. Without a future nobody waits for the result."""

    __slots__ = ("error", "finished", "future", "operation", "result")

    def __init__(self, operation: Operation[T], future: "asyncio.Future[T] | None") -> None:
        self.operation = operation
        self.future = future
        self.result: T | None = None
        self.error: Exception | None = None
        self.finished = future is not None and future.cancelled()

    def drop_if_cancelled(self) -> None:
        if self.future is not None and self.future.cancelled():
            self.finished = True

    def wakes(self) -> AbstractSet[str]:
        """Return the queues whose waiters are to be woken after the commit."""
        if self.operation.wakes_from_result is None:
            return self.operation.wakes
        return self.operation.wakes | self.operation.wakes_from_result(cast("T", self.result))


_RequestQueue = queue.SimpleQueue["_Request[Any] | None"]
"""What the thread is to run; None ends it."""


class Session:
    """The thread and its connection, as their event loop sees them."""

    def __init__(self, file: SQLiteFile, wakeups: Wakeups, poll_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._wakeups = wakeups
        self._requests: _RequestQueue = queue.SimpleQueue()
        self._main = _ThreadMain(file, wakeups, poll_s, self._requests, self._loop)
        self._thread = threading.Thread(target=self._main.run, name="asynctasq-sqlite", daemon=True)
        self._for_news: set[Waiter] = set()
        self._finalizer: weakref.finalize[..., object] | None = None

    @property
    def waiters(self) -> set[Waiter]:
        """The waiting calls."""
        return self._main.waiters

    @contextmanager
    def waiting(self, queues: Iterable[str]) -> Generator[Waiter]:
        """Register a waiting call; while there are any, commits of other processes wake them."""
        main = self._main
        if main.receiver is None:
            main.receiver = NoticeReceiver.open(main.notice_folder, main.noticed)
        noticing = nullcontext() if main.receiver is None else main.receiver.waiting()
        with self._wakeups.waiting(queues, into=main.waiters) as waiter, noticing:
            yield waiter

    @contextmanager
    def waiting_for_news(self, names: Iterable[str]) -> Generator[Waiter]:
        """Register a call that is woken by name within this process alone, and looks for itself now and then."""
        with self._wakeups.waiting(names, into=self._for_news) as waiter:
            yield waiter

    async def start(self) -> None:
        """Start the thread and wait until it has opened the file. Raises what prevented it."""
        self._thread.start()
        try:
            await self.submit(Operation(steps=_nothing, now_us=int, writes=False))
        except asyncio.CancelledError:
            self.abandon()
            raise
        except BaseException:
            await self.close()
            raise

    async def submit(self, operation: Operation[T]) -> T:
        """Run an operation on the thread. If cancelled before it began it is not run, later its result is undone."""
        if self._main.ending:
            raise DriverUnavailable(f"{self._main.file} was closed meanwhile; call again")
        future: asyncio.Future[T] = self._loop.create_future()
        self._requests.put(_Request(operation, future))
        try:
            return await future
        except asyncio.CancelledError:
            # Nobody else sees a result that arrived together with the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._main.undo_result(operation, future.result())
            raise

    async def close(self) -> None:
        """Let waiting calls return and the thread finish; returns after `CLOSE_S` seconds at the latest."""
        for waiter in [*self.waiters, *self._for_news]:
            waiter.close()
        self.abandon()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._main.ended.wait()
                self._thread.join()
                if self._finalizer is not None:
                    self._finalizer.detach()

    def abandon(self) -> None:
        """Let the thread finish what it has and end, without waiting for it."""
        self._main.end()

    def end_when_collected(self, owner: object) -> None:
        """End the thread, if it is not closed before, with the life of `owner` or at the end of the process."""
        self._finalizer = weakref.finalize(owner, _end, self._main, self._thread)


def _end(main: "_ThreadMain", thread: threading.Thread) -> None:
    main.end()
    if thread is not threading.current_thread():
        thread.join(LOCK_S_WHEN_CLOSING)


class _ThreadMain:
    """What the thread runs. The loop touches `waiters`, `receiver`, `ending`, the queue, and what `noticed` sets."""

    def __init__(
        self,
        file: SQLiteFile,
        wakeups: Wakeups,
        poll_s: float,
        requests: _RequestQueue,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.file = file
        self.waiters: set[Waiter] = set()
        self.receiver: NoticeReceiver | None = None
        self.notice_folder = notice_folder(file.path)
        self.ending = False
        self.ended = asyncio.Event()
        self._wakeups = wakeups
        self._poll_s = poll_s
        self._active_at = 0.0
        self._requests = requests
        self._loop = loop
        self._clock = SystemClock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._data_version = 0

    def run(self) -> None:
        """Serve requests until None comes, then those that came meanwhile."""
        try:
            while self._serve(self._next()):
                pass
            while requests := self._waiting_requests():
                self._serve(requests)
        finally:
            self._disconnect()
            self._in_loop(self.ended.set)

    def end(self) -> None:
        """Let the thread finish what it has and end; nobody waits any more."""
        self.ending = True
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.close()
        self._requests.put(None)

    # -- requests ----------------------------------------------------------------------------------

    def _next(self) -> "list[_Request[Any] | None]":
        """Return the waiting requests; while there are waiters none after a pause, to check for commits."""
        try:
            first = self._requests.get(timeout=self._pause_s() if self.waiters else None)
        except queue.Empty:
            return []
        return [first, *self._waiting_requests()] if first is not None else [None]

    def _pause_s(self) -> float:
        active = self._clock.monotonic() - self._active_at < ACTIVE_S
        return self._poll_s if active else max(self._poll_s, POLL_S_IDLE)

    def _waiting_requests(self) -> "list[_Request[Any] | None]":
        requests: list[_Request[Any] | None] = []
        with suppress(queue.Empty):
            while len(requests) < OPERATIONS_PER_TRANSACTION:
                requests.append(self._requests.get_nowait())
        return requests

    def _serve(self, received: "Sequence[_Request[Any] | None]") -> bool:
        """Run the requests and send the results back with one wake-up of the loop; False at the end."""
        requests = [request for request in received if request is not None]
        try:
            cursor = self._connect()
            self._check_for_commits(cursor)
        except Exception as error:  # noqa: BLE001 - the callers get the error; the thread must go on
            self._fail(requests, error)
            self._wake_waiters()
        else:
            self._run(requests, cursor)
        if requests:
            self._send_back(requests)
        return None not in received

    def _run(self, requests: "Sequence[_Request[Any]]", cursor: sqlite3.Cursor) -> None:
        for request in requests:
            request.drop_if_cancelled()
            if request.operation.try_read is not None and not request.finished:
                self._try_read(request, request.operation.try_read, cursor)
        self._write([request for request in requests if request.operation.writes and not request.finished], cursor)
        for request in requests:
            if not request.finished:
                self._transact_or_fail([request], cursor, "BEGIN")

    def _try_read(self, request: _Request[Any], try_read: Callable[[int], Steps[Any]], cursor: sqlite3.Cursor) -> None:
        try:
            request.result = run_on(try_read(request.operation.now_us()), cursor)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the thread must live on
            self._fail([request], error)
        else:
            request.finished = request.result is not None

    def _write(self, requests: "Sequence[_Request[Any]]", cursor: sqlite3.Cursor) -> None:
        """Run them in one transaction; if that fails for another reason than a lock, each in its own."""
        if len(requests) > 1:
            try:
                self._transact(requests, cursor, "BEGIN IMMEDIATE")
            except Exception as error:  # noqa: BLE001 - each request gets its own error below
                if is_locked(error):
                    self._fail(requests, error)
        for request in requests:
            if not request.finished:
                self._transact_or_fail([request], cursor, "BEGIN IMMEDIATE")
        wakes = frozenset[str]().union(*(request.wakes() for request in requests if request.error is None))
        if wakes:
            self._wakeups.wake(wakes)
            send_notices(self.notice_folder)

    def _transact_or_fail(self, requests: "Sequence[_Request[Any]]", cursor: sqlite3.Cursor, begin: str) -> None:
        try:
            self._transact(requests, cursor, begin)
        except Exception as error:  # noqa: BLE001 - the caller gets it; the thread must live on
            self._fail(requests, error)

    def _transact(self, requests: "Sequence[_Request[Any]]", cursor: sqlite3.Cursor, begin: str) -> None:
        """Run the requests in one transaction, again while the file is locked by another connection."""
        started = self._clock.monotonic()
        while True:
            try:
                cursor.execute(begin)
                for request in requests:
                    request.result = run_on(request.operation.steps(request.operation.now_us()), cursor)
                cursor.execute("COMMIT")
                break
            except BaseException as error:
                # Some errors have ended the transaction already.
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                if not is_locked(error) or self._clock.monotonic() - started >= self._lock_s():
                    raise
        for request in requests:
            request.finished = True

    def _lock_s(self) -> float:
        timeout_s = self.file.busy_timeout_s
        return min(timeout_s, LOCK_S_WHEN_CLOSING) if self.ending else timeout_s

    def _fail(self, requests: "Sequence[_Request[Any]]", error: Exception) -> None:
        for request in requests:
            request.finished = True
            if isinstance(error, sqlite3.Error):
                request.error = driver_error(error, str(self.file))
                request.error.__cause__ = error
            else:
                request.error = error
        if isinstance(error, sqlite3.Error) and primary_code(error) in BROKEN:
            self._identity = None

    # -- results ---------------------------------------------------------------------------------

    def _send_back(self, requests: "Sequence[_Request[Any]]") -> None:
        if not self._in_loop(self._deliver, requests):
            for request in requests:
                self._undo_unreceived(request)

    def _deliver(self, requests: "Sequence[_Request[Any]]") -> None:
        for request in requests:
            future = request.future
            if future is None or future.done():
                self._undo_unreceived(request)
            elif request.error is not None:
                future.set_exception(request.error)
            else:
                future.set_result(request.result)

    def _undo_unreceived(self, request: _Request[Any]) -> None:
        if request.error is None and request.result is not None:
            self.undo_result(request.operation, request.result)

    def undo_result(self, operation: Operation[T], result: T) -> None:
        """Request that a result which nobody received be undone; called by the loop, too."""
        undoing = operation.on_cancelled(result) if operation.on_cancelled is not None else None
        if undoing is not None:
            self._requests.put(_Request(undoing, None))

    def _in_loop(self, callback: Callable[..., None], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False  # That loop was closed, with all its waiting calls.
        return True

    # -- the connection --------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Cursor:
        """Return a cursor; opens the file again if another has replaced it or an error broke the connection."""
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

    def _check_for_commits(self, cursor: sqlite3.Cursor) -> None:
        """Wake our waiters if another connection has committed since the last check."""
        if not self.waiters:
            return
        ((version,),) = cursor.execute("PRAGMA data_version").fetchall()
        if version != self._data_version:
            self._data_version = version
            self._active_at = self._clock.monotonic()
            self._wake_waiters()

    def _wake_waiters(self) -> None:
        if self.waiters:
            self._in_loop(self._set_waiters)

    def noticed(self) -> None:
        """Look now, in the loop of the waiting calls, and often for a while: a transaction may still be open."""
        self._active_at = self._clock.monotonic()
        self._set_waiters()

    def _set_waiters(self) -> None:
        for waiter in self.waiters:
            waiter.set()


def _nothing(_now_us: int) -> Steps[None]:
    yield from ()
