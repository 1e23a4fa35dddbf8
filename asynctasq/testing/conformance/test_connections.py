"""Opening, closing, several loops and instances, and what a driver does when its connections are cut."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from asynctasq.drivers.base import Driver
from asynctasq.errors import ConfigError, DriverUnavailable
from asynctasq.kernel.messages import Complete, Lease, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message
from asynctasq.testing.patience import patient_s

T = TypeVar("T")
CLOSE_S_MAX = patient_s(5)


async def _in_another_loop(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the coroutine in a thread and an event loop of its own."""

    def run() -> T:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(call())

    return await asyncio.to_thread(run)


@conforms("open and close: repeating it changes nothing; a later call opens again")
async def test_open_and_close_may_be_repeated(store: StoreUnderTest) -> None:
    driver = store.driver
    await driver.open()
    await driver.open()
    await store.put("m")
    await driver.close()
    await driver.close()

    assert (await store.take_one()).message_id == "m" if store.capabilities.durable else True
    await driver.close()
    await driver.open()
    await store.put("n")


@conforms("An instance opens lazily: `open` is not needed")
async def test_a_call_before_open_opens(store: StoreUnderTest) -> None:
    driver = store.create()

    assert await driver.enqueue([message("m")]) == ["m"]

    assert (await store.take_one(driver=driver)).message_id == "m"


@conforms("close: waiting calls of this loop end with nothing, within 5 seconds")
async def test_close_ends_waiting_calls_with_nothing(store: StoreUnderTest) -> None:
    driver = store.driver
    calls = [asyncio.create_task(driver.reserve([Q], limit=1, lease_s=store.brief_s, wait_s=60)) for _ in range(3)]
    waits: list[asyncio.Task[bool]] = []
    if store.capabilities.wakes_waiting:
        waits = [asyncio.create_task(store.notifies().wait_visible([Q], wait_s=60))]
    await asyncio.sleep(0.3)
    started = time.perf_counter()

    await driver.close()
    results = await asyncio.wait_for(asyncio.gather(*calls), CLOSE_S_MAX)

    assert results == [[], [], []]
    assert await asyncio.wait_for(asyncio.gather(*waits), CLOSE_S_MAX) == [False for _ in waits]
    assert time.perf_counter() - started < CLOSE_S_MAX
    await store.put("m")
    if not store.exact:
        await store.expire()  # a long poll that was abandoned may take one more message on the server's side
    assert (await store.take_one()).message_id == "m", "a later call opens again"


@conforms("close: releases what the running loop holds")
async def test_close_leaves_no_task_running(store: StoreUnderTest) -> None:
    await store.put("m")
    await store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=0.2)
    await store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=0.2)

    await store.driver.close()

    deadline = time.perf_counter() + patient_s(2)
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and time.perf_counter() < deadline:  # noqa: ASYNC110 - waits for tasks it has no handle of
        await asyncio.sleep(0.02)
    assert not left, f"close left tasks running: {left}"


@conforms("An instance may be used from several event loops, one after the other")
async def test_several_asyncio_runs_use_one_instance(store: StoreUnderTest) -> None:
    driver = store.driver
    for number in range(3):

        async def work(name: str = f"m{number}") -> None:
            assert await driver.enqueue([message(name)]) == [name]
            leases = await driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=0 if store.exact else patient_s(5))
            assert ids(leases) == [name]
            assert await driver.settle([(leases[0], Complete())]) == set()
            await driver.close()

        await _in_another_loop(work)
    await store.put("here")
    assert (await store.take_one()).message_id == "here"


@conforms("An instance may be used from several event loops at the same time")
async def test_several_loops_at_once_use_one_instance(store: StoreUnderTest) -> None:
    driver, count = store.driver, store.sized(20)

    async def work(worker: int) -> list[str]:
        done = list[str]()
        for number in range(count):
            name = f"m{worker}-{number}"
            assert await driver.enqueue([message(name, queue=f"q{worker}")]) == [name]
            wait_s = 0 if store.exact else 5
            leases = await driver.reserve([f"q{worker}"], limit=1, lease_s=LONG_S, wait_s=wait_s)
            assert await driver.settle([(lease, Complete()) for lease in leases]) == set()
            done += ids(leases)
        await driver.close()
        return done

    results = await asyncio.gather(*(_in_another_loop(functools.partial(work, worker)) for worker in range(3)))

    assert results == [[f"m{worker}-{number}" for number in range(count)] for worker in range(3)]


@conforms("reserve: a wake-up across event loops")
async def test_an_enqueue_in_another_loop_wakes_a_waiting_reserve(store: StoreUnderTest) -> None:
    driver = store.driver
    waiting = asyncio.create_task(driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=patient_s(30)))
    await asyncio.sleep(0.2)
    started = time.perf_counter()

    async def work() -> None:
        await driver.enqueue([message("m")])
        await driver.close()

    await _in_another_loop(work)

    assert ids(await waiting) == ["m"]
    assert time.perf_counter() - started < patient_s(5)


@conforms("another process sees the messages", needs="cross_process")
async def test_two_instances_share_one_store(store: StoreUnderTest) -> None:
    first, second = store.driver, store.other()
    await first.enqueue([message("m")])

    lease = await store.take_one(driver=second)

    assert await first.extend([lease], lease_s=LONG_S) == set()
    assert await first.settle([(lease, Release(counted=True))]) == set()
    assert (await store.take_one(driver=second)).attempt == 2
    assert await second.enqueue([message("m")]) == [] or store.capabilities.idempotent_enqueue.level != "yes"


async def _answers_again(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns: at once, or after one `DriverUnavailable`; other calls may have needed that one."""
    deadline = time.perf_counter() + patient_s(20)
    while True:
        try:
            return await call()
        except DriverUnavailable:
            assert time.perf_counter() < deadline, "the server is back, and the driver still raises DriverUnavailable"
            await asyncio.sleep(0.1)


async def _works(store: StoreUnderTest, name: str) -> None:
    """Check that one message goes through the driver, whatever was cut before."""
    await _answers_again(lambda: store.driver.enqueue([message(name, queue="after")]))
    leases = await _answers_again(lambda: store.driver.reserve(["after"], limit=1, lease_s=LONG_S, wait_s=patient_s(5)))
    assert ids(leases) == [name]
    assert await _answers_again(lambda: store.driver.settle([(leases[0], Complete())])) == set()


@conforms("after connections were cut the next call works, or raises DriverUnavailable and the one after works")
async def test_the_driver_works_again_after_connections_were_cut(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    for number in range(3):
        await store.harness.break_connections()

        await _works(store, f"after-{number}")

    assert await _answers_again(lambda: store.driver.extend([lease], lease_s=LONG_S)) == set()
    await store.assert_depth(reserved=1)


@conforms("no library exception leaves a driver: it becomes a DriverError")
async def test_cut_connections_raise_nothing_but_driver_errors(store: StoreUnderTest) -> None:
    running = True

    async def use(worker: int) -> None:
        number = 0
        while running:
            number += 1
            await asyncio.sleep(0)  # a driver without a server may never suspend
            try:
                await store.driver.enqueue([message(f"m{worker}-{number}")])
                leases = await store.driver.reserve([Q], limit=1, lease_s=LONG_S, wait_s=0.05)
                await store.driver.turn([(lease, Complete()) for lease in leases], [Q], limit=0, lease_s=LONG_S)
            except DriverUnavailable:
                await asyncio.sleep(0.01)

    users = [asyncio.create_task(use(worker)) for worker in range(3)]
    try:
        for _ in range(4):
            await asyncio.sleep(0.1)
            await store.harness.break_connections()
    finally:
        running = False
        results = await asyncio.gather(*users, return_exceptions=True)
    assert results == [None, None, None], f"a cut connection may raise DriverUnavailable only, not {results}"


@conforms("a waiting reserve survives or reports a cut connection; a wake-up that was lost does not matter")
async def test_a_wait_goes_on_after_its_connection_was_cut(store: StoreUnderTest) -> None:
    async def wait() -> list[str]:
        # A long poll whose connection was cut may take the message on the server's side; its lease runs out.
        leases: list[Lease] = []
        while not leases:
            leases = await store.driver.reserve([Q], limit=1, lease_s=2.0, wait_s=20)
        return ids(leases)

    waiting = asyncio.create_task(_answers_again(wait))
    await asyncio.sleep(0.3)
    await store.harness.break_connections()
    await _answers_again(lambda: store.driver.enqueue([message("m")]))
    started = time.perf_counter()

    assert await waiting == ["m"]

    assert time.perf_counter() - started < patient_s(15), "a lost wake-up must be noticed within seconds"


@conforms("after the server restarted the next call works, or raises DriverUnavailable and the one after works")
async def test_the_driver_works_again_after_the_server_restarted(store: StoreUnderTest) -> None:
    await store.put("before")
    await store.harness.restart_server()

    await _works(store, "after")


@conforms("durable: acknowledged messages outlive the server's restart", needs="durable")
async def test_messages_outlive_a_restart(store: StoreUnderTest) -> None:
    await store.put("ready")
    lease = await store.lease("held") if store.capabilities.ordered.level != "yes" else await store.take_one()
    await store.put("later", delay_s=600.0)
    before = await store.driver.depth(Q)
    await store.harness.restart_server()

    after = await _answers_again(lambda: store.driver.depth(Q))

    if store.exact:
        assert (after.ready, after.scheduled, after.reserved) == (before.ready, before.scheduled, before.reserved)
    assert await _answers_again(lambda: store.driver.settle([(lease, Release(counted=True))])) == set()


@conforms("str: where the messages are, for banners and errors")
async def test_the_driver_says_where_the_messages_are(store: StoreUnderTest) -> None:
    text = str(store.driver)

    assert text
    assert "\n" not in text
    assert not text.startswith("<"), "the default repr says nothing to an operator"


@conforms("from_url raises ConfigError for an unknown option")
async def test_from_url_refuses_an_unknown_option(store: StoreUnderTest) -> None:
    kind: type[Driver] = type(store.driver)

    with pytest.raises(ConfigError):
        kind.from_url("scheme://", no_such_option=1)
