"""Storing and settling in the caller's transaction, where `transactional` is claimed."""

from asynctasq.kernel.messages import Complete, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import StoreUnderTest, message


@conforms("enqueue_in: the caller's commit makes the change visible", needs="transactional")
async def test_what_was_enqueued_in_a_transaction_appears_with_its_commit(store: StoreUnderTest) -> None:
    transaction = await store.harness.begin()
    try:
        new = await store.transactional().enqueue_in(transaction.connection, [message("m"), message("n")])
    finally:
        await transaction.commit()

    assert new == ["m", "n"]
    await store.assert_depth(ready=2)
    assert await store.driver.enqueue([message("m")]) == []


@conforms("enqueue_in: before the commit nobody else sees it", needs="transactional")
async def test_what_was_enqueued_is_invisible_before_the_commit(store: StoreUnderTest) -> None:
    transaction = await store.harness.begin()
    try:
        await store.transactional().enqueue_in(transaction.connection, [message("m")])
        await store.assert_nothing_visible()
        await store.assert_depth()
    finally:
        await transaction.rollback()


@conforms("enqueue_in: the caller's rollback makes it never have been", needs="transactional")
async def test_what_was_enqueued_goes_with_a_rollback(store: StoreUnderTest) -> None:
    transaction = await store.harness.begin()
    await store.transactional().enqueue_in(transaction.connection, [message("m")])
    await transaction.rollback()

    await store.assert_depth()
    await store.put("m")


@conforms("settle_in: the caller's commit settles, with the follow-ups", needs="transactional")
async def test_a_settlement_counts_with_the_commit(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    transaction = await store.harness.begin()
    settlement = Complete(follow_ups=(message("next", queue="after"),))
    try:
        assert await store.transactional().settle_in(transaction.connection, [(lease, settlement)]) == set()
    finally:
        await transaction.commit()

    await store.assert_depth()
    await store.assert_depth(ready=1, queue="after")
    assert await store.driver.settle([(lease, Complete())]) == {"m"}


@conforms("settle_in: the caller's rollback leaves the lease as it was", needs="transactional")
async def test_a_settlement_goes_with_a_rollback(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    transaction = await store.harness.begin()
    await store.transactional().settle_in(transaction.connection, [(lease, Complete())])
    await transaction.rollback()

    await store.assert_depth(reserved=1)
    await store.settle((lease, Release(counted=True)))


@conforms("settle_in: fenced by the token", needs="transactional")
async def test_a_stolen_lease_settles_nothing_in_a_transaction(store: StoreUnderTest) -> None:
    stale = await store.lease("m", lease_s=store.brief_s)
    await store.expire()
    latest = await store.take_one()
    transaction = await store.harness.begin()
    try:
        assert await store.transactional().settle_in(transaction.connection, [(stale, Complete())]) == {"m"}
    finally:
        await transaction.commit()

    await store.settle((latest, Complete()))
