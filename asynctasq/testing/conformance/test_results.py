"""Results, where `keeps_results` is claimed; where not, completing with a result must do no harm."""

from asynctasq.kernel.messages import Complete, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import StoreUnderTest


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
