"""The pool of daemon threads: its size, what it does about threads that never return, and its end."""

import threading
from concurrent.futures import wait

import pytest

from asynctasq.core.lanes.thread_pool import ThreadPool
from tests.patience import SOON_S


def names(prefix: str) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)}


def test_no_more_threads_than_its_size_and_one_is_reused() -> None:
    pool = ThreadPool(2, name="reused")

    for _ in range(5):
        assert pool.submit(threading.get_ident).result(SOON_S)
    wait([pool.submit(threading.get_ident) for _ in range(20)], SOON_S)

    assert 1 <= len(names("reused")) <= 2
    pool.shutdown()


def test_two_jobs_at_once_get_two_threads() -> None:
    pool = ThreadPool(2, name="both")
    meeting = threading.Barrier(2)

    jobs = [pool.submit(meeting.wait, SOON_S) for _ in range(2)]

    assert {job.result(SOON_S) for job in jobs} == {0, 1}
    pool.shutdown()


def test_a_job_in_line_runs_when_a_stuck_thread_is_abandoned() -> None:
    pool = ThreadPool(1, name="stuck")
    release = threading.Event()
    stuck = pool.submit(release.wait, SOON_S)
    waits = pool.submit(int, "7")

    pool.abandon_one()

    assert waits.result(SOON_S) == 7
    assert not stuck.done()
    release.set()
    pool.shutdown()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, StopIteration])
def test_whatever_a_job_raises_belongs_to_its_future_and_the_thread_goes_on(error: type[BaseException]) -> None:
    def fails() -> None:
        raise error("no luck")

    pool = ThreadPool(1, name="raising")

    assert isinstance(pool.submit(fails).exception(SOON_S), error)
    assert pool.submit(int, "7").result(SOON_S) == 7
    assert len(names("raising")) == 1
    pool.shutdown()


def test_a_job_that_was_cancelled_in_line_never_runs() -> None:
    pool = ThreadPool(1, name="cancelled")
    ran = threading.Event()
    release = threading.Event()
    pool.submit(release.wait, SOON_S)
    late = pool.submit(ran.set)

    assert late.cancel()
    release.set()

    assert pool.submit(int, "7").result(SOON_S) == 7
    assert not ran.is_set()
    pool.shutdown()


def test_after_a_shutdown_all_threads_end_even_abandoned_ones_and_new_jobs_get_new_ones() -> None:
    pool = ThreadPool(2, name="ending")
    release = threading.Event()
    stuck = pool.submit(release.wait, SOON_S)
    pool.abandon_one()
    pool.submit(int, "1").result(SOON_S)
    old = [thread for thread in threading.enumerate() if thread.name.startswith("ending")]

    pool.shutdown()
    again = pool.submit(int, "7").result(SOON_S)
    release.set()
    for thread in old:
        thread.join(SOON_S)

    assert again == 7
    assert stuck.result(SOON_S)
    assert not any(thread.is_alive() for thread in old)
    pool.shutdown()
