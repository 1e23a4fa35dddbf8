"""Threads that know nothing of a FakeQueue that is open: what they dispatch must not reach the real queue unnoticed."""

import threading
from collections.abc import Callable
from contextvars import copy_context

from asynctasq import task
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import DispatchError
from asynctasq.testing import FakeQueue


@task
async def mail(to: str) -> None: ...


@task
async def audit(what: str) -> None: ...


def in_thread(call: Callable[[], object]) -> list[BaseException]:
    """Run it in a thread with a context of its own; return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


async def test_a_dispatch_from_a_plain_thread_is_refused_while_one_is_open(outside: MemoryDriver) -> None:
    with FakeQueue() as queue:
        [error] = in_thread(lambda: mail.dispatch_sync("a"))

        queue.assert_nothing_dispatched()

    assert isinstance(error, DispatchError)
    assert "a FakeQueue is open, but not in this thread" in str(error)
    assert (await outside.depth("default")).ready == 0


async def test_once_it_is_closed_threads_dispatch_to_the_real_queue(outside: MemoryDriver) -> None:
    with FakeQueue():
        pass

    assert in_thread(lambda: mail.dispatch_sync("a")) == []
    assert (await outside.depth("default")).ready == 1


def test_a_thread_may_open_one_of_its_own_meanwhile() -> None:
    def call() -> None:
        with FakeQueue() as other:
            mail.dispatch_sync("b")
            other.assert_dispatched(mail, to="b", times=1)

    with FakeQueue() as queue:
        assert in_thread(call) == []
        mail.dispatch_sync("a")
        queue.assert_dispatched(mail, times=1)
        assert isinstance(in_thread(lambda: mail.dispatch_sync("c"))[0], DispatchError)


async def test_what_is_let_through_may_come_from_any_thread_of_its_context(outside: MemoryDriver) -> None:
    with FakeQueue(except_=[audit]):
        assert in_thread(lambda: None) == []
        context = copy_context()
        assert in_thread(lambda: context.run(audit.dispatch_sync, "a")) == []

    assert (await outside.depth("default")).ready == 1
