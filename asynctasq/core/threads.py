"""Daemon threads for blocking work; a thread that never returns is replaced and does not keep the process alive."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

__all__ = ["ThreadPool"]

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool(Executor):
    """An executor of at most `size` threads. The standard one joins its threads at exit: a stuck one would keep it."""

    def __init__(self, size: int, *, name: str = "asynctasq-thread") -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._counted = 0
        self._created = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run `fn` in a thread; waits in line while all threads are busy."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - belongs to whoever waits for the future
                future.set_exception(error)

        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._counted < self._size:
                self._start_thread()
        self._jobs.put(job)
        return future

    def abandon_one(self) -> None:
        """Stop counting a thread that does not come back, so that another may take its place."""
        with self._lock:
            self._counted -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - never waits
        """Let idle threads end. Busy ones end with the process: they are daemons."""
        with self._lock:
            ending, self._counted = max(0, self._counted), 0
        for _ in range(ending):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        self._counted += 1
        self._created += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._created}", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job
            with self._lock:
                self._idle += 1
