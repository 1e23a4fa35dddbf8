"""Claims and refusals: what is claimed is there, what is not claimed is absent or refused with `UnsupportedFeature`."""

import json
from collections.abc import Awaitable, Callable

from asynctasq.drivers.base import (
    CancelsRunning,
    Inspectable,
    KeepsResults,
    Notifies,
    Progress,
    ReportsProgress,
    ReservesReleased,
    Transactional,
)
from asynctasq.errors import ConfigError, UnsupportedFeature
from asynctasq.kernel.messages import Bury, Complete, DeadReason
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import Q, StoreUnderTest, UnderClaimed, message

LEVELS = {"yes", "no", "partial"}
CONNECTION = object()


@conforms("capabilities: every claim is yes, no, or partial with a reason")
async def test_every_claim_is_plain(store: StoreUnderTest) -> None:
    claims = store.capabilities.claims()
    store.notes["claims"] = json.dumps({name: str(claim) for name, claim in claims.items()})

    assert {claim.level for claim in claims.values()} <= LEVELS
    assert not [name for name, claim in claims.items() if claim.level == "partial" and not claim.reason]
    limit = store.capabilities.body_bytes_max
    assert limit is None or limit >= 1024, "a body limit below a kilobyte holds no task"
    delay_s = store.capabilities.delay_s_max
    assert delay_s is None or delay_s > 0


@conforms("clock_offset: 0 in production")
async def test_a_new_driver_has_no_clock_offset(store: StoreUnderTest) -> None:
    assert store.driver.clock_offset == 0


async def _assert_absent(
    store: StoreUnderTest, claim: str, protocol: type, call: Callable[[], Awaitable[object]]
) -> None:
    """Check that what is claimed is there; what is not claimed is absent, or refused in words."""
    present = isinstance(store.driver, protocol)
    if store.capabilities.claims()[claim]:
        assert present, f"{claim} is claimed and {protocol.__name__} is not there"
        return
    if not present:
        return
    try:
        await call()
    except UnsupportedFeature:
        return
    except Exception as error:
        raise AssertionError(f"{claim} is not claimed: refuse with UnsupportedFeature, not {error!r}") from error
    raise UnderClaimed(f"{protocol.__name__} answers, but {claim} is not claimed")


@conforms("Notifies: claimed as `wakes_waiting`, else absent or refused")
async def test_waiting_is_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, Notifies)
        return await store.driver.wait_visible([Q], wait_s=0)

    await _assert_absent(store, "wakes_waiting", Notifies, call)


@conforms("Inspectable: claimed as `inspects`, else absent or refused")
async def test_inspection_is_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, Inspectable)
        return await store.driver.find("m")

    await _assert_absent(store, "inspects", Inspectable, call)


@conforms("KeepsResults: claimed as `keeps_results`, else absent or refused")
async def test_results_are_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, KeepsResults)
        await store.settle((await store.lease("m"), Complete(result=b"r", result_ttl_s=60)))
        return await store.driver.fetch_result("m")

    await _assert_absent(store, "keeps_results", KeepsResults, call)


@conforms("CancelsRunning: claimed as `cancels_running`, else absent or refused")
async def test_cancelling_what_runs_is_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, CancelsRunning)
        return await store.driver.cancel_running(["m"])

    await _assert_absent(store, "cancels_running", CancelsRunning, call)
    claims = store.capabilities
    assert not claims.cancels_running or (claims.inspects and claims.keeps_results), "it needs these two"


@conforms("ReportsProgress: claimed as `reports_progress`, else absent or refused")
async def test_progress_is_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, ReportsProgress)
        await store.driver.report_progress([(await store.lease("m"), Progress(1, 2))])
        return None

    await _assert_absent(store, "reports_progress", ReportsProgress, call)


@conforms("ReservesReleased: claimed as `reserves_released`, else absent or refused")
async def test_reserving_what_is_released_is_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, ReservesReleased)
        return await store.driver.reserve_released([await store.lease("m")], lease_s=60)

    await _assert_absent(store, "reserves_released", ReservesReleased, call)


@conforms("Transactional: claimed as `transactional`, else absent or refused")
async def test_transactions_are_claimed_or_refused(store: StoreUnderTest) -> None:
    async def call() -> object:
        assert isinstance(store.driver, Transactional)
        return await store.driver.enqueue_in(CONNECTION, [message("m")])

    await _assert_absent(store, "transactional", Transactional, call)


@conforms("enqueue_in raises UnsupportedFeature if this kind of connection can't be used", needs="transactional")
async def test_a_connection_of_another_kind_is_refused(store: StoreUnderTest) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.transactional().enqueue_in(CONNECTION, [message("m")]),
        lambda: store.transactional().settle_in(CONNECTION, []),
    ]
    for call in calls:
        try:
            await call()
        except UnsupportedFeature:
            continue
        raise AssertionError("a connection of an unknown kind was accepted")
    await store.assert_depth()


@conforms("redrive: claimed, else refused")
async def test_redrive_is_claimed_or_refused(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED)))
    try:
        moved = await store.driver.redrive(Q, limit=1)
    except UnsupportedFeature:
        assert not store.capabilities.redrive, "redrive is claimed and refused"
        return
    assert moved == 1 or not store.capabilities.redrive
    if not store.capabilities.redrive:
        if moved == 0:
            raise AssertionError("redrive is not claimed: refuse it with UnsupportedFeature instead of doing nothing")
        raise UnderClaimed("redrive works, but is not claimed")


@conforms("clock_offset: claimed, else it moves nothing")
async def test_the_clock_moves_as_claimed(store: StoreUnderTest) -> None:
    await store.put("m", delay_s=600.0)
    if store.virtual:
        await store.advance(600.0)
        assert (await store.take_one()).message_id == "m"
        return
    try:
        store.driver.clock_offset = 700.0
    except (UnsupportedFeature, ConfigError):
        return
    leases = await store.driver.reserve([Q], limit=1, lease_s=5)
    store.driver.clock_offset = 0.0
    if leases:
        raise UnderClaimed("the clock can be moved, but clock_offset is not claimed")


@conforms("another process sees the messages, if claimed")
async def test_a_second_instance_sees_what_is_claimed(store: StoreUnderTest) -> None:
    second = store.create()
    if second is store.driver:
        assert not store.capabilities.cross_process, "cross_process is claimed, and the harness makes one instance only"
        return
    await store.put("m")
    leases = await second.reserve([Q], limit=1, lease_s=60, wait_s=0 if store.exact else 5)
    assert bool(leases) or not store.capabilities.cross_process
    if leases and not store.capabilities.cross_process:
        raise UnderClaimed("a second instance sees the messages, but cross_process is not claimed")
