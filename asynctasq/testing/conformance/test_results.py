"""Results, where `keeps_results` is claimed; where not, completing with a result must do no harm."""

import asyncio
import time
from collections.abc import Sequence

from asynctasq.drivers.base import Driver, KeepsResults
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Release, Settlement
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, message
from asynctasq.testing.patience import patient_s

WAIT_S = patient_s(30)
KEPT = Complete(result=b"r", result_ttl_s=3600.0)
DEAD = Bury(reason=DeadReason.FAILED, counted=True, error=ErrorRecord(type="E", message="no"))


def _prompt_s(store: StoreUnderTest) -> float:
    """Return how soon a wake-up must have come; a driver that is not woken by others looks every few seconds."""
    return patient_s(4) * (1 if store.capabilities.wakes_waiting.level == "yes" else 2)


async def _waits(driver: Driver, *message_ids: str, wait_s: float = WAIT_S) -> "asyncio.Future[list[bool]]":
    """Return waits for the end of messages, which have begun."""
    assert isinstance(driver, KeepsResults)
    waits = [driver.wait_result(message_id, wait_s=wait_s) for message_id in message_ids]
    waiting = asyncio.ensure_future(asyncio.gather(*waits))
    for _ in range(6):
        await asyncio.sleep(0.02)
    return waiting


async def _assert_wakes(store: StoreUnderTest, driver: Driver, settlements: Sequence[tuple[Lease, Settlement]]) -> None:
    """Check that these ends wake calls that wait for them by `driver`."""
    waiting = await _waits(driver, *(lease.message_id for lease, _ in settlements))
    assert not waiting.done(), "the messages live, and wait_result did not wait"
    started = time.perf_counter()

    await store.settle(*settlements)

    assert await waiting == [True] * len(settlements)
    took_s = time.perf_counter() - started
    assert took_s < _prompt_s(store), f"wait_result returned {took_s:.1f} s after the message had ended"


@conforms("Complete.result is kept where the driver can, and ignored where not")
async def test_completing_with_a_result_completes(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Complete(result=b"\x00\xff", result_ttl_s=60.0)))

    await store.assert_depth()


@conforms("fetch_result: the result bytes", needs="keeps_results")
async def test_a_result_comes_back_byte_for_byte(store: StoreUnderTest) -> None:
    results = {"a": b"", "b": bytes(range(256)), "c": b"x" * 100_000}
    for name, result in results.items():
        await store.settle((await store.lease(name), Complete(result=result, result_ttl_s=3600.0)))

    for name, result in results.items():
        assert await store.keeps_results().fetch_result(name) == result


@conforms("fetch_result: None where there is none", needs="keeps_results")
async def test_there_is_no_result_before_completion_or_without_one(store: StoreUnderTest) -> None:
    keeps = store.keeps_results()
    lease = await store.lease("m")
    assert await keeps.fetch_result("m") is None
    await store.settle((lease, Release(counted=True)))
    assert await keeps.fetch_result("m") is None
    await store.settle((await store.take_one(), Complete()))

    assert await keeps.fetch_result("m") is None
    assert await keeps.fetch_result("never was") is None


@conforms("fetch_result: until `result_ttl_s` after completion", needs="keeps_results")
async def test_a_result_is_kept_for_its_time_and_no_longer(store: StoreUnderTest) -> None:
    keeps = store.keeps_results()
    await store.settle((await store.lease("m"), Complete(result=b"r", result_ttl_s=3600.0)))
    await store.advance(3600.0 - 30)
    assert await keeps.fetch_result("m") == b"r"

    await store.advance(30)

    assert await keeps.fetch_result("m") is None


@conforms("settle: a settlement that is lost leaves no result", needs="keeps_results")
async def test_a_lost_settlement_leaves_no_result(store: StoreUnderTest) -> None:
    lease = await store.lease("m", lease_s=store.brief_s)
    await store.expire()
    latest = await store.take_one()

    assert await store.driver.settle([(lease, Complete(result=b"stale", result_ttl_s=3600.0))]) == {"m"}

    assert await store.keeps_results().fetch_result("m") is None
    await store.settle((latest, Complete(result=b"latest", result_ttl_s=3600.0)))
    assert await store.driver.settle([(latest, Complete(result=b"again", result_ttl_s=3600.0))]) == {"m"}
    assert await store.keeps_results().fetch_result("m") == b"latest"


@conforms("wait_result: a completion with a result wakes it", needs="keeps_results")
async def test_a_result_wakes_who_waits_for_it(store: StoreUnderTest) -> None:
    await _assert_wakes(store, store.driver, [(await store.lease("m"), KEPT)])


@conforms("wait_result: a dead letter wakes it", needs="keeps_results")
async def test_a_dead_letter_wakes_who_waits_for_its_result(store: StoreUnderTest) -> None:
    await _assert_wakes(store, store.driver, [(await store.lease("m"), DEAD)])


@conforms("wait_result: woken by what another process settles", needs="keeps_results")
async def test_ends_that_others_settle_wake_who_waits(store: StoreUnderTest) -> None:
    other = store.other()
    leases = [await store.lease(name) for name in ("a", "b")]

    await _assert_wakes(store, other, [(leases[0], KEPT), (leases[1], DEAD)])


@conforms("wait_result: many at once, each woken by its own message", needs="keeps_results")
async def test_many_waits_at_once_end(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(200))]
    await store.driver.enqueue([message(name) for name in names])
    leases = await store.take(len(names))

    await _assert_wakes(store, store.driver, [(lease, KEPT) for lease in leases])


@conforms("wait_result: at once for a message that has ended, or never was", needs="keeps_results")
async def test_who_comes_late_does_not_wait(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("kept"), KEPT))
    await store.settle((await store.lease("dead"), DEAD))
    await store.settle((await store.lease("dropped"), Complete()))

    for name in ("kept", "dead", "dropped", "never was"):
        assert await store.keeps_results().wait_result(name, wait_s=0), f"{name} has ended"


@conforms("wait_result: a released message has not ended; False after `wait_s`", needs="keeps_results")
async def test_a_wait_for_a_living_message_ends_with_nothing(store: StoreUnderTest) -> None:
    await store.put("later", delay_s=3600.0)
    await store.settle((await store.lease("m"), Release(counted=True)))
    started = time.perf_counter()

    assert not await store.keeps_results().wait_result("later", wait_s=0)
    assert not await store.keeps_results().wait_result("m", wait_s=0.3)

    assert 0.25 <= time.perf_counter() - started < 0.3 + patient_s(4)


@conforms("wait_result: takes nothing, so cancelling it loses nothing", needs="keeps_results")
async def test_a_cancelled_wait_for_a_result_leaves_the_message(store: StoreUnderTest) -> None:
    await store.put("m")
    waiting = await _waits(store.driver, "m")

    waiting.cancel()
    await asyncio.wait([waiting])

    [lease] = await store.driver.reserve([Q], limit=1, lease_s=LONG_S)
    await _assert_wakes(store, store.driver, [(lease, KEPT)])


@conforms("wait_result: False once the driver is closed", needs="keeps_results")
async def test_close_ends_waits_for_results(store: StoreUnderTest) -> None:
    await store.put("m")
    waiting = await _waits(store.driver, "m")

    await store.driver.close()

    assert await waiting == [False]


@conforms(
    "fetch_result, wait_result: an id that no message can have has ended, without a result", needs="keeps_results"
)
async def test_an_impossible_id_has_no_result(store: StoreUnderTest) -> None:
    results = store.keeps_results()
    for impossible in ("", "x" * 5000, "a\nb", "\x00", "\ud800"):
        assert await results.fetch_result(impossible) is None
        assert await results.wait_result(impossible, wait_s=LONG_S)
