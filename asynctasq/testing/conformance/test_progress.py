"""What a lease says of itself: who holds it, since when, how far the attempt is; if `reports_progress` is claimed."""

from asynctasq.drivers.base import ReportsProgress
from asynctasq.kernel.messages import (
    HOLDER_CHARS_MAX,
    PROGRESS_CHARS_MAX,
    Bury,
    DeadReason,
    Progress,
    Release,
    StoredMessage,
)
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, StoreUnderTest

NEEDS = "reports_progress"


def _reports(store: StoreUnderTest) -> ReportsProgress:
    driver = store.driver
    assert isinstance(driver, ReportsProgress), f"{driver} claims reports_progress and lacks a method of it"
    return driver


async def _found(store: StoreUnderTest) -> StoredMessage:
    found = await store.inspectable().find("m")
    assert found is not None
    return found


@conforms("find: who holds the lease, and since when", needs=NEEDS)
async def test_a_lease_says_who_holds_it_and_since_when(store: StoreUnderTest) -> None:
    store.driver.holder = "host-1-a"
    await store.put("m")
    before = await _found(store)
    assert (before.reserved_at, before.reserved_by) == (None, "")

    lease = await store.take_one(lease_s=LONG_S)

    found = await _found(store)
    assert found.reserved_by == "host-1-a"
    assert found.reserved_at is not None
    assert abs(found.reserved_at - (lease.expires_at - LONG_S)) < 1.0
    await store.driver.extend([lease], lease_s=2 * LONG_S)
    assert (await _found(store)).reserved_at == found.reserved_at, "a renewal is no reserve"


@conforms("find: the holder is that of the latest lease", needs=NEEDS)
async def test_a_takeover_changes_the_holder(store: StoreUnderTest) -> None:
    store.driver.holder = "first"
    lease = await store.lease("m", lease_s=store.brief_s)
    await _reports(store).report_progress([(lease, Progress(1, 2))])
    await store.expire()
    assert (await _found(store)).reserved_by == "", "the lease has run out"
    store.driver.holder = ""

    await store.take_one()

    found = await _found(store)
    assert (found.reserved_by, found.progress) == ("", None), "nobody has given a name, or reported anything"


@conforms("find: a holder of any length that is allowed", needs=NEEDS)
async def test_a_long_name_of_a_holder_comes_back(store: StoreUnderTest) -> None:
    store.driver.holder = ("host-1 '\"\\%:?-" * HOLDER_CHARS_MAX)[:HOLDER_CHARS_MAX]

    await store.lease("m")

    assert (await _found(store)).reserved_by == store.driver.holder


@conforms("find: nothing of a lease that has ended", needs=NEEDS)
async def test_a_lease_that_was_settled_is_not_shown(store: StoreUnderTest) -> None:
    store.driver.holder = "w"
    for settlement in (Release(counted=True), Bury(reason=DeadReason.FAILED)):
        lease = await store.take_one() if await store.inspectable().find("m") else await store.lease("m")
        await _reports(store).report_progress([(lease, Progress(1, 2))])
        await store.settle((lease, settlement))

        found = await _found(store)
        assert (found.reserved_at, found.reserved_by, found.progress) == (None, "", None)


@conforms("report_progress: the latest is shown", needs=NEEDS)
async def test_progress_is_stored_with_its_message(store: StoreUnderTest) -> None:
    store.driver.holder = "w"
    lease = await store.lease("m")
    last = Progress(2.5, 3, ("r\u00f6ws \ud800 \U0001f40d'\"\\%:?\0" * PROGRESS_CHARS_MAX)[:PROGRESS_CHARS_MAX])

    await _reports(store).report_progress([(lease, Progress(1, 3, "rows"))])
    await _reports(store).report_progress([(lease, last)])
    await _reports(store).report_progress([])

    found = await _found(store)
    assert (found.progress, found.reserved_by) == (last, "w")


@conforms("report_progress: one whose token is not the latest is ignored", needs=NEEDS)
async def test_progress_of_a_stale_lease_is_ignored(store: StoreUnderTest) -> None:
    stale = await store.lease("m", lease_s=store.brief_s)
    await store.expire()
    latest = await store.take_one()

    await _reports(store).report_progress([(stale, Progress(9, 9)), (latest, Progress(1, 9))])
    assert (await _found(store)).progress == Progress(1, 9)
    await _reports(store).report_progress([(stale, Progress(9, 9))])

    assert (await _found(store)).progress == Progress(1, 9)


@conforms("report_progress: the next reserve begins without", needs=NEEDS)
async def test_the_next_attempt_begins_without_progress(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    await _reports(store).report_progress([(lease, Progress(1, 2))])
    await store.settle((lease, Release(counted=True)))

    await store.take_one()

    assert (await _found(store)).progress is None
