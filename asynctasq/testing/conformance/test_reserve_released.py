"""Leasing a released message again before its delay has passed, if `reserves_released` is claimed."""

from dataclasses import replace

from asynctasq.drivers.base import ReservesReleased
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, StoreUnderTest, ids, together

NEEDS = "reserves_released"
LATER = Release(counted=False, delay_s=3600.0)


async def _again(store: StoreUnderTest, *leases: Lease, lease_s: float = LONG_S) -> list[Lease]:
    driver = store.driver
    assert isinstance(driver, ReservesReleased), f"{driver} claims reserves_released and lacks its method"
    return await driver.reserve_released(leases, lease_s=lease_s)


@conforms("reserve_released: before the delay has passed, as it was, under a new token", needs=NEEDS)
async def test_a_released_message_is_leased_before_its_delay(store: StoreUnderTest) -> None:
    store.driver.holder = "w"
    first = await store.lease("m")
    error = ErrorRecord(type="E", message="once")
    await store.settle((first, Release(counted=True, crashed=True, delay_s=3600.0, error=error)))
    await store.assert_nothing_visible()

    [lease] = await _again(store, first)

    assert (lease.message_id, lease.queue, lease.body) == (first.message_id, first.queue, first.body)
    assert (lease.attempt, lease.crashes) == (first.attempt + 1, first.crashes + 1)
    assert lease.enqueued_at == first.enqueued_at
    assert lease.token != first.token
    assert abs(lease.expires_at - first.expires_at) < LONG_S / 2
    await store.assert_depth(reserved=1)
    found = await store.inspectable().find("m")
    assert found is not None
    assert (found.reserved_by, found.error) == ("w", error)


@conforms("reserve_released: the new lease is one like any other", needs=NEEDS)
async def test_the_new_lease_extends_settles_and_runs_out(store: StoreUnderTest) -> None:
    first = await store.lease("m")
    await store.settle((first, LATER))
    [lease] = await _again(store, first, lease_s=store.brief_s)
    assert await store.driver.extend([first], lease_s=LONG_S) == {"m"}
    assert await store.driver.settle([(first, Complete())]) == {"m"}
    await store.expire()

    taken = await store.take_one()

    assert (taken.attempt, taken.crashes) == (1, 1)
    assert await store.driver.settle([(lease, Complete())]) == {"m"}
    await store.settle((taken, Complete()))
    await store.assert_depth()


@conforms(
    "reserve_released: nothing that was reserved since, that is leased, done, cancelled or a dead letter", needs=NEEDS
)
async def test_only_what_the_lease_itself_released_is_leased(store: StoreUnderTest) -> None:
    held = await store.lease("held")
    done = await store.lease("done")
    dead = await store.lease("dead")
    cancelled = await store.lease("cancelled")
    since = await store.lease("since")
    await store.settle((done, Complete()), (dead, Bury(reason=DeadReason.FAILED)), (cancelled, LATER))
    await store.settle((since, Release(counted=False)))
    await store.inspectable().cancel(["cancelled"])
    latest = await store.take_one()
    await store.settle((latest, LATER))
    unknown = replace(held, message_id="never was")
    other = replace(latest, token=f"{latest.token}1")

    assert await _again(store, held, done, dead, cancelled, since, unknown, other) == []
    assert await _again(store) == []

    assert ids(await _again(store, latest)) == ["since"]
    await store.assert_depth(reserved=2, dead=1)


@conforms("reserve_released: what is visible already, too", needs=NEEDS)
async def test_a_message_that_is_visible_again_is_leased(store: StoreUnderTest) -> None:
    first = await store.lease("m")
    await store.settle((first, Release(counted=False)))

    assert ids(await _again(store, first)) == ["m"]

    await store.assert_nothing_visible()


@conforms("reserve_released: in the order given, each once", needs=NEEDS)
async def test_many_come_in_the_order_given(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(60))]
    await store.put(*names)
    leases = await store.take(len(names))
    await store.settle(*((lease, LATER) for lease in leases))
    wanted = [*reversed(leases), leases[0]]

    granted = await _again(store, *wanted)

    assert ids(granted) == [*reversed(names)]
    assert await store.driver.extend(granted, lease_s=LONG_S) == set()


@conforms("reserve_released: one of two at once gets it", needs=NEEDS)
async def test_two_at_once_get_it_once(store: StoreUnderTest) -> None:
    for number in range(store.sized(10)):
        first = await store.lease(f"m{number}")
        await store.settle((first, LATER))

        both = await together(_again(store, first), _again(store, first))

        assert sorted(map(len, both)) == [0, 1]
