"""The private parts that the simulation loop stands on, watched one by one, on every Python version."""

import asyncio
import contextvars
import inspect
import sys
import threading
import time
from asyncio import base_events, events, futures, tasks
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from asgiref import current_thread_executor
from asgiref.sync import AsyncToSync

from asynctasq.core.lanes.thread_pool import ThreadPool
from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.loop.asyncio_internals import STEP, THREADS, WAKEUP, Notice, Timer, is_python_step
from asynctasq.testing.loop.tasks import SimulatedTask
from asynctasq.testing.loop.threads import Call, Standing, closed_over, describe_function, outsiders, standing


@pytest.fixture
def loop():
    loop = SimulationLoop()
    yield loop
    loop.close()


def test_steps_and_wake_ups_have_types_of_their_own():
    assert STEP.__name__ == "TaskStepMethWrapper"
    assert WAKEUP.__name__ == "builtin_function_or_method"


class Recording(SimulationLoop):
    def __init__(self) -> None:
        super().__init__()
        self.scheduled: list[Any] = []

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        self.scheduled.append((callback, context, super().call_soon(callback, *args, context=context)))
        return self.scheduled[-1][2]


def test_asyncios_c_code_schedules_steps_with_a_context_and_drops_the_handle():
    loop = Recording()

    async def main() -> None:
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        await asyncio.sleep(0)

    loop.run(main())

    steps = [(callback, context) for callback, context, handle in loop.scheduled if handle is None]
    assert [type(callback) for callback, _ in steps] == [STEP, WAKEUP, STEP]
    assert all(isinstance(callback.__self__, SimulatedTask) for callback, _ in steps)
    assert all(isinstance(context, contextvars.Context) for _, context in steps)


def test_what_users_schedule_gets_a_handle_even_if_it_is_a_method_of_a_task(loop: SimulationLoop):
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(100))
        handle = loop.call_soon(task.cancel)
        assert isinstance(handle, asyncio.Handle)
        with_context = loop.call_soon(task.done, context=contextvars.copy_context())
        assert isinstance(with_context, asyncio.Handle)
        assert await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(main())


def test_a_python_task_is_recognised_by_its_bound_method(loop: SimulationLoop):
    python_task: Any = tasks._PyTask  # type: ignore[attr-defined]
    task = python_task(asyncio.sleep(0), loop=loop)
    handle = loop._ready[-1][1]

    assert is_python_step(handle._callback)
    assert not is_python_step(print)
    loop.run_until_complete(task)


def test_our_handles_set_every_slot_that_asyncios_set(loop: SimulationLoop):
    loop.set_debug(False)  # ours keep no traceback in debug mode either
    context = contextvars.copy_context()
    theirs, ours = asyncio.Handle(print, (), loop, context), Notice(print, (), loop, context)
    their_timer, our_timer = asyncio.TimerHandle(1.0, print, (), loop, context), Timer(1.0, print, (), loop, context)

    for their, our in ((theirs, ours), (their_timer, our_timer)):
        slots = [slot for kind in type(their).__mro__ for slot in getattr(kind, "__slots__", ())]
        slots.remove("__weakref__")
        assert len(slots) >= 7
        assert {slot: getattr(our, slot) for slot in slots} == {slot: getattr(their, slot) for slot in slots}


def test_our_handles_run_and_print_as_asyncios(loop: SimulationLoop):
    seen: list[int] = []
    notice = Notice(seen.append, (1,), loop, contextvars.copy_context())

    notice._run()

    assert seen == [1]
    assert "append" in repr(notice)
    assert "when=1.0" in repr(Timer(1.0, print, (), loop, contextvars.copy_context()))


def test_entering_and_leaving_a_task_moves_the_current_one(loop: SimulationLoop):
    async def main() -> None:
        task = asyncio.current_task()
        tasks._leave_task(loop, task)  # type: ignore[attr-defined]
        assert asyncio.current_task() is None
        tasks._enter_task(loop, task)  # type: ignore[attr-defined]
        assert asyncio.current_task() is task

    loop.run_until_complete(main())


def test_the_running_loop_is_set_per_thread():
    assert events._get_running_loop() is None
    events._set_running_loop(marker := object())  # type: ignore[arg-type]
    try:
        assert events._get_running_loop() is marker
    finally:
        events._set_running_loop(None)


def test_base_event_loop_has_the_attributes_we_use():
    base: Any = asyncio.BaseEventLoop()
    try:
        for name in ("_closed", "_stopping", "_thread_id", "_default_executor", "_executor_shutdown_called"):
            assert name in vars(base), name
        for name in ("_exception_handler", "_task_factory", "_ready", "_scheduled"):
            assert name in vars(base), name
        for name in ("_check_closed", "_check_running", "_check_default_executor", "_run_once"):
            assert callable(getattr(base, name)), name
        for name in ("_asyncgen_firstiter_hook", "_asyncgen_finalizer_hook", "_timer_handle_cancelled"):
            assert callable(getattr(base, name)), name
    finally:
        base.close()


def test_run_until_complete_stops_by_a_marker_that_anyio_looks_for():
    assert "_run_until_complete_cb" in inspect.getsource(base_events.BaseEventLoop.run_until_complete)


def test_a_task_tells_the_future_it_waits_for(loop: SimulationLoop):
    async def main() -> None:
        future = loop.create_future()
        task: Any = asyncio.create_task(asyncio.wait_for(future, None))
        await asyncio.sleep(0)
        assert task._fut_waiter is not None
        future.set_result(None)
        await task

    loop.run_until_complete(main())


def test_chained_futures_are_recognised_by_their_callback(loop: SimulationLoop):
    import concurrent.futures

    source: concurrent.futures.Future[None] = concurrent.futures.Future()
    chained: Any = futures.wrap_future(source, loop=loop)

    names = [callback.__qualname__ for callback, _ in chained._callbacks]

    assert names == ["_chain_future.<locals>._call_check_cancel"]
    source.set_result(None)
    loop.run_until_complete(asyncio.sleep(0))


def test_a_task_puts_itself_into_a_set_only_after_it_has_its_number(loop: SimulationLoop):
    task = loop.create_task(asyncio.sleep(0))

    assert hash(task) == task.order == 1
    assert asyncio.all_tasks(loop) == {task}
    loop.run_until_complete(task)
    assert asyncio.all_tasks(loop) == set()


# -- the parts of threading, concurrent.futures and asgiref --------------------------------------------


def test_every_live_thread_is_in_the_dict_that_is_looked_at():
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()

    assert set(THREADS.values()) == set(threading.enumerate())
    release.set()
    thread.join()
    assert thread not in THREADS.values()


def settled(thread: threading.Thread, loop: object, *, unlike: Standing = Standing.WORKS) -> Standing:
    """Give a thread time to get where it is going."""
    for _ in range(2_000):
        found = standing(sys._current_frames().get(thread.ident or 0), loop)
        if found is not unlike:
            return found
        time.sleep(0.001)
    return unlike


def test_a_thread_parked_on_a_condition_is_told_from_one_that_was_notified():
    condition = threading.Condition()

    def wait() -> None:
        with condition:
            condition.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    assert settled(thread, None) is Standing.PARKED
    with condition:
        condition.notify()
        assert standing(sys._current_frames()[thread.ident or 0], None) is Standing.WORKS
    thread.join()


def test_a_thread_parked_with_a_timeout_works():
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(30,))
    thread.start()
    while sys._current_frames()[thread.ident or 0].f_code is not threading.Condition.wait.__code__:
        time.sleep(0.001)

    assert standing(sys._current_frames()[thread.ident or 0], None) is Standing.WORKS
    release.set()
    thread.join()


@pytest.mark.parametrize("timeout_s", [None, 30])
def test_a_thread_that_waits_for_a_coroutine_asks_the_loop_of_that_coroutine(timeout_s: float | None):
    asked, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asked)
    thread = threading.Thread(target=future.result, args=(timeout_s,))
    thread.start()
    try:
        asked._run_once()  # type: ignore[attr-defined] # chains the future
        assert settled(thread, asked) is Standing.ASKS
        assert settled(thread, other, unlike=Standing.ASKS) is (
            Standing.PARKED if timeout_s is None else Standing.WORKS
        )
    finally:
        asked.run_until_complete(asyncio.sleep(0.01))
        thread.join()
        asked.close()
        other.close()


def test_what_run_coroutine_threadsafe_hands_over_is_recognised():
    class Taking(SimulationLoop):
        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
            handed.append(callback)
            return super().call_soon_threadsafe(callback, *args, context=context)

    handed: list[Any] = []
    loop = Taking()
    future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)

    assert handed[0].__qualname__ == "run_coroutine_threadsafe.<locals>.callback"
    assert closed_over(handed[0], "future") is future
    loop.run(asyncio.sleep(1))
    assert future.result() is None


def test_what_asgiref_hands_over_is_recognised(loop: SimulationLoop):
    source = inspect.getsource(AsyncToSync)

    assert AsyncToSync.main_wrap.__qualname__ == "AsyncToSync.main_wrap"
    assert {"call_result", "awaitable"} <= set(inspect.signature(AsyncToSync.main_wrap).parameters)
    assert "running_in_main_event_loop" in source
    assert "main_event_loop.call_soon_threadsafe(" in source
    assert current_thread_executor.CurrentThreadExecutor.run_until_future.__name__ == "run_until_future"


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ThreadPool])
def test_a_pools_thread_is_found_by_the_future_it_is_to_fulfil(make: Any):
    pool, release = make(1), threading.Event()
    future, behind = pool.submit(release.wait), pool.submit(int)
    calls = {future: Call("first", pool), behind: Call("second", pool)}

    for _ in range(2_000):
        found = {each.name: each.standing for each in outsiders(None, calls, (), threading.get_ident())}
        if found["first"] is Standing.PARKED:
            break
        time.sleep(0.001)
    release.set()
    pool.shutdown()

    assert found == {"first": Standing.PARKED, "second": Standing.BEHIND}


def test_a_pools_thread_without_a_function_is_idle():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        (thread,) = pool._threads

        assert settled(thread, None) is Standing.IDLE


@pytest.mark.parametrize(
    "wrapped", [partial(contextvars.copy_context().run, divmod, 7), partial(divmod, 7), partial(partial(divmod), 7)]
)
def test_a_wrapped_function_keeps_its_name(wrapped: Any):
    assert describe_function(wrapped) == "divmod"
