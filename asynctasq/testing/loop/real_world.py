"""Sockets, child processes and signals in a simulation loop: refused, or, where it was asked for, done for real."""

# pyright: reportPrivateUsage=false

import asyncio
import selectors
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, Final
from weakref import WeakSet

from asynctasq.testing.errors import LimitExceeded, RealWorldAccess
from asynctasq.testing.loop.asyncio_internals import BaseLoop
from asynctasq.testing.loop.limits import Limits
from asynctasq.testing.loop.report import describe_task
from asynctasq.testing.loop.waits import Wait, WaitReader

__all__ = ["RealWorld"]

_NETWORK: Final = "replace the client by a fake, or run the task in a FakeQueue, where it may use the network"
_CHILDREN: Final = "replace the command by a fake, or run the task in a FakeQueue, where it may start one"
_SIGNALS: Final = "call what the handler would call, or test signals with a real worker process"

_REFUSED: Final = {
    _NETWORK: (
        "add_reader add_writer create_connection create_datagram_endpoint create_server create_unix_connection "
        "create_unix_server connect_accepted_socket getaddrinfo getnameinfo sendfile start_tls sock_accept "
        "sock_connect sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendfile sock_sendto"
    ),
    _CHILDREN: "connect_read_pipe connect_write_pipe subprocess_exec subprocess_shell",
    _SIGNALS: "add_signal_handler",
}


class RealWorld(BaseLoop):
    """Mixed in before the rest of a simulation loop. With `real_io` sockets and child processes are real.

    Virtual time then stands still while a task waits for one; the selector is made when it is first needed.
    `on_refusal` hears of what is refused before the code that asked does.
    """

    limits: Limits
    real_io: bool
    on_refusal: Callable[[RealWorldAccess], None] | None = None

    @cached_property
    def _given_up(self) -> WeakSet[Any]:
        """What tasks wait for that will not be waited for any more in real time."""
        return WeakSet()

    def remove_reader(self, fd: Any) -> bool:
        return self._selector is not None and super().remove_reader(fd)

    def remove_writer(self, fd: Any) -> bool:
        return self._selector is not None and super().remove_writer(fd)

    def remove_signal_handler(self, sig: int) -> bool:  # noqa: ARG002 - asyncio's signature
        return False

    def _open_io(self) -> None:
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            self._make_self_pipe()

    def _refuse(self, name: str, args: tuple[Any, ...], advice: str) -> RealWorldAccess:
        about = f" for {args[0]!r}" if args and isinstance(args[0], str | int) else ""
        error = RealWorldAccess(f"loop.{name}{about}: a simulation has no sockets, signals or processes; {advice}")
        if self.on_refusal is not None:
            self.on_refusal(error)
        return error

    def _wait_for_outside(self, received: Collection[Any], certain: Callable[[], bool]) -> bool:
        """Wait in real time while a task waits for the outside; False if none does.

        `received` is what other threads sent; `certain` says whether a thread certainly works for the program.

        Raises: LimitExceeded if nothing happens for `Limits.real_s_max`.
        """
        while True:
            if self._take_events(0) or received:
                return True
            tasks = asyncio.all_tasks(self)
            reader = WaitReader(tasks=tasks, sleep=Wait.INSIDE)
            waits = {task: self._wait_of(task, reader) for task in tasks}
            most = max(waits.values(), default=Wait.INSIDE)
            if most not in (Wait.PERHAPS_OUTSIDE, Wait.OUTSIDE):
                return False
            self._open_io()
            perhaps = most is Wait.PERHAPS_OUTSIDE
            if self._take_events(self.limits.grace_s if perhaps else self.limits.real_s_max) or received:
                return True
            waiting = [task for task, wait in waits.items() if wait is most]
            if perhaps:
                self._given_up.update(getattr(task, "_fut_waiter", None) for task in waiting)
            elif not certain():
                listed = "\n  ".join(sorted(map(describe_task, waiting)))
                raise LimitExceeded(f"nothing happened for {self.limits.real_s_max:g} s of real time\n  {listed}")

    def _wait_of(self, task: "asyncio.Task[Any]", reader: WaitReader) -> Wait:
        wait = reader.wait_of(task)
        return Wait.INSIDE if wait is not Wait.INSIDE and getattr(task, "_fut_waiter", None) in self._given_up else wait

    def _take_events(self, timeout_s: float) -> bool:
        """Make ready what happened to sockets, waiting so long for it; tell whether something did."""
        if self._selector is None:
            return False
        happened = self._selector.select(timeout_s)
        self._process_events(happened)
        return bool(happened)


def _gate(name: str, advice: str, *, allowed: bool) -> Callable[..., Any]:
    def method(self: RealWorld, *args: Any, **options: Any) -> Any:
        if not (allowed and self.real_io):
            raise self._refuse(name, args, advice)
        self._open_io()
        return getattr(super(RealWorld, self), name)(*args, **options)

    method.__name__ = method.__qualname__ = name
    return method


for _advice, _names in _REFUSED.items():
    for _name in _names.split():
        setattr(RealWorld, _name, _gate(_name, _advice, allowed=_advice is not _SIGNALS))
