"""Daemon threads for blocking work; a thread that never returns is replaced and does not keep the process alive."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
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
        self._jobs = _Jobs()
        self._lock = threading.Lock()
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
            self._jobs.line.put(job)
            self._jobs.waiting += 1
            self._start_if_needed()
        return future

    def abandon_one(self) -> None:
        """Stop counting a thread that does not come back, so that another may take its place."""
        with self._lock:
            self._counted -= 1
            self._start_if_needed()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - never waits
        """Let every thread end once its job has; being daemons they hold up no exit. Later jobs get new threads."""
        with self._lock:
            jobs, self._jobs, self._counted = self._jobs, _Jobs(), 0
        jobs.line.put(None)

    def _start_if_needed(self) -> None:
        if self._jobs.waiting > self._jobs.idle and self._counted < self._size:
            self._counted += 1
            self._created += 1
            self._jobs.idle += 1
            name = f"{self._name}-{self._created}"
            threading.Thread(target=self._work, args=(self._jobs,), name=name, daemon=True).start()

    def _work(self, jobs: "_Jobs") -> None:
        while (job := jobs.line.get()) is not None:
            with self._lock:
                jobs.waiting -= 1
                jobs.idle -= 1
            job()
            del job
            with self._lock:
                jobs.idle += 1
        jobs.line.put(None)  # for the next thread that looks


@dataclass(slots=True)
class _Jobs:
    """What the threads that were started since the last shutdown take from; None in the line ends them."""

    line: SimpleQueue[Callable[[], None] | None] = field(default_factory=SimpleQueue[Callable[[], None] | None])
    waiting: int = 0
    idle: int = 0
