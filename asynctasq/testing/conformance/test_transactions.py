"""Storing and settling in the caller's transaction, where `transactional` is claimed."""

from asynctasq.kernel.messages import Complete, Release
from asynctasq.testing.conformance.trial import Trial, message
from asynctasq.testing.conformance.verdict import conforms


@conforms("enqueue_in: the caller's commit makes the change visible", needs="transactional")
async def test_what_was_enqueued_in_a_transaction_appears_with_its_commit(trial: Trial) -> None:
    transaction = await trial.harness.begin()
    try:
        new = await trial.transactional().enqueue_in(transaction.connection, [message("m"), message("n")])
    finally:
        await transaction.commit()

    assert new == ["m", "n"]
    await trial.assert_depth(ready=2)
    assert await trial.driver.enqueue([message("m")]) == []


@conforms("enqueue_in: before the commit nobody else sees it", needs="transactional")
async def test_what_was_enqueued_is_invisible_before_the_commit(trial: Trial) -> None:
    transaction = await trial.harness.begin()
    try:
        await trial.transactional().enqueue_in(transaction.connection, [message("m")])
        await trial.assert_nothing_visible()
        await trial.assert_depth()
    finally:
        await transaction.rollback()


@conforms("enqueue_in: the caller's rollback makes it never have been", needs="transactional")
async def test_what_was_enqueued_goes_with_a_rollback(trial: Trial) -> None:
    transaction = await trial.harness.begin()
    await trial.transactional().enqueue_in(transaction.connection, [message("m")])
    await transaction.rollback()

    await trial.assert_depth()
    await trial.put("m")


@conforms("settle_in: the caller's commit settles, with the follow-ups", needs="transactional")
async def test_a_settlement_counts_with_the_commit(trial: Trial) -> None:
    lease = await trial.lease("m")
    transaction = await trial.harness.begin()
    settlement = Complete(follow_ups=(message("next", queue="after"),))
    try:
        assert await trial.transactional().settle_in(transaction.connection, [(lease, settlement)]) == set()
    finally:
        await transaction.commit()

    await trial.assert_depth()
    await trial.assert_depth(ready=1, queue="after")
    assert await trial.driver.settle([(lease, Complete())]) == {"m"}


@conforms("settle_in: the caller's rollback leaves the lease as it was", needs="transactional")
async def test_a_settlement_goes_with_a_rollback(trial: Trial) -> None:
    lease = await trial.lease("m")
    transaction = await trial.harness.begin()
    await trial.transactional().settle_in(transaction.connection, [(lease, Complete())])
    await transaction.rollback()

    await trial.assert_depth(reserved=1)
    await trial.settle((lease, Release(counted=True)))


@conforms("settle_in: fenced by the token", needs="transactional")
async def test_a_stolen_lease_settles_nothing_in_a_transaction(trial: Trial) -> None:
    stale = await trial.lease("m", lease_s=trial.brief_s)
    await trial.expire()
    latest = await trial.take_one()
    transaction = await trial.harness.begin()
    try:
        assert await trial.transactional().settle_in(transaction.connection, [(stale, Complete())]) == {"m"}
    finally:
        await transaction.commit()

    await trial.settle((latest, Complete()))
