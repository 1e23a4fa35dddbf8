"""What `settle` promises for each outcome: under a live, an expired and a stolen lease, once and repeated."""

from collections.abc import Callable

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release, Settlement
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import StoreUnderTest, ids, message

OUTCOMES: tuple[Callable[[], Settlement], ...] = (
    Complete,
    lambda: Release(counted=True),
    lambda: Bury(reason=DeadReason.FAILED, counted=True),
)


@conforms("Complete: the message is done")
async def test_a_completed_message_is_gone(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Complete()))

    await store.assert_nothing_visible()
    await store.assert_depth()


@conforms("Release: the message becomes visible again after `delay_s`")
async def test_a_released_message_is_visible_at_once(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    await store.settle((lease, Release(counted=False)))

    await store.assert_depth(ready=1)
    again = await store.take_one()
    assert (again.message_id, again.body, again.queue) == (lease.message_id, lease.body, lease.queue)


@conforms("Release: `counted` adds one to the attempts, `crashed` one to the crashes; a hand-back does neither")
async def test_release_counts_what_it_says(store: StoreUnderTest) -> None:
    expected = (1, 0)
    lease = await store.lease("m")
    for counted, crashed in [(False, False), (True, False), (True, False), (False, True), (True, True), (False, False)]:
        await store.settle((lease, Release(counted=counted, crashed=crashed)))
        lease = await store.take_one()
        expected = (expected[0] + counted, expected[1] + crashed)

        assert (lease.attempt, lease.crashes) == expected, f"after Release({counted=}, {crashed=})"


@conforms("enqueued_at is kept for life")
async def test_a_released_message_keeps_the_time_it_was_enqueued(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    await store.advance(1000 if store.virtual else 1)
    await store.settle((lease, Release(counted=True)))

    again = await store.take_one()

    assert abs(again.enqueued_at - lease.enqueued_at) < (1e-3 if store.exact else 1)


@conforms("Release: `delay_s` is counted from the settlement, on the driver's clock")
async def test_a_message_released_with_a_delay_comes_exactly_then(store: StoreUnderTest) -> None:
    delay_s = 7200.0 if store.virtual else 3.0
    lease = await store.lease("m")
    await store.settle((lease, Release(delay_s=delay_s, counted=True)))

    await store.assert_nothing_visible()
    await store.assert_depth(scheduled=1)
    if store.virtual:
        await store.advance(delay_s - 30)
        await store.assert_nothing_visible()
        await store.advance(30)
    else:
        await store.advance(delay_s + 0.5)

    assert (await store.take_one()).attempt == 2


@conforms("Bury: the message becomes a dead letter")
async def test_a_buried_message_is_dead(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED)))

    await store.assert_depth(dead=1)
    await store.assert_nothing_visible()


@conforms("settle: repeating it is safe: the second time the id is returned as lost and nothing changes")
async def test_settling_twice_changes_nothing(store: StoreUnderTest) -> None:
    for number, outcome in enumerate(OUTCOMES):
        queue = f"q{number}"
        await store.put(f"m{number}", queue=queue)
        lease = await store.take_one(queue)
        await store.settle((lease, outcome()))
        before = await store.driver.depth(queue)

        for again in OUTCOMES:
            assert await store.driver.settle([(lease, again())]) == {f"m{number}"}, f"{again()} after {outcome()}"

        after = await store.driver.depth(queue)
        assert (after.ready, after.scheduled, after.reserved, after.dead) == (
            *(before.ready, before.scheduled, before.reserved, before.dead),
        ), f"settling again after {outcome()} changed the queue"
    assert (await store.take_one("q1")).attempt == 2, "a release that was repeated counts once"


@conforms("settle: a late one counts while nobody else has reserved the message since")
async def test_a_late_settlement_counts_while_nobody_else_reserved(store: StoreUnderTest) -> None:
    leases = [await store.lease(f"m{number}", lease_s=store.brief_s) for number in range(3)]
    await store.expire()

    await store.settle(*((lease, outcome()) for lease, outcome in zip(leases, OUTCOMES, strict=True)))

    await store.assert_depth(ready=1, dead=1)
    again = await store.take_one()
    assert (again.message_id, again.attempt, again.crashes) == ("m1", 2, 0), "a late release is no crash"


async def _stolen(store: StoreUnderTest, name: str) -> tuple[Lease, Lease]:
    """Return a lease that ran out, and the one of whoever took over."""
    stale = await store.lease(name, lease_s=store.brief_s)
    await store.expire()
    return stale, await store.take_one()


@conforms("settle: fenced by its token; only the latest lease settles", needs="fenced")
async def test_a_stolen_lease_settles_nothing(store: StoreUnderTest) -> None:
    for number, outcome in enumerate(OUTCOMES):
        stale, latest = await _stolen(store, f"m{number}")

        assert await store.driver.settle([(stale, outcome())]) == {f"m{number}"}, f"{outcome()} under a stolen lease"

        await store.assert_depth(reserved=1)
        await store.settle((latest, Complete()))
    await store.assert_depth()


@conforms("settle: fenced by its token, also once the latest lease has ended", needs="fenced")
async def test_a_stolen_lease_settles_nothing_after_the_thief_released(store: StoreUnderTest) -> None:
    stale, latest = await _stolen(store, "m")
    await store.settle((latest, Release(counted=False)))

    for outcome in OUTCOMES:
        assert await store.driver.settle([(stale, outcome())]) == {"m"}

    await store.assert_depth(ready=1)
    again = await store.take_one()
    assert await store.driver.settle([(stale, Complete()), (latest, Complete())]) == {"m"}
    await store.settle((again, Complete()))


@conforms("settle: each entry by itself; return the ids of leases that were no longer ours")
async def test_a_batch_settles_each_entry_by_itself(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(6)]
    await store.put(*names)
    by_id = {lease.message_id: lease for lease in await store.take(6)}
    leases = [by_id[name] for name in names]
    await store.settle((leases[1], Complete()), (leases[4], Release(counted=False)))

    lost = await store.driver.settle(
        [
            (leases[0], Complete()),
            (leases[1], Bury(reason=DeadReason.FAILED)),
            (leases[2], Release(counted=True)),
            (leases[3], Bury(reason=DeadReason.REJECTED)),
            (leases[4], Complete()),
            (leases[5], Release(counted=True, delay_s=500)),
        ]
    )

    assert lost == {"m1", "m4"}
    await store.assert_depth(ready=2, scheduled=1, dead=1)
    assert {(lease.message_id, lease.attempt) for lease in await store.take(2)} == {("m2", 2), ("m4", 1)}


@conforms("settle: the second of two entries for one lease is lost")
async def test_of_two_entries_for_one_lease_the_first_counts(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    assert await store.driver.settle([(lease, Release(counted=True)), (lease, Complete())]) == {"m"}

    assert (await store.take_one()).attempt == 2


@conforms("settle: an empty batch")
async def test_settling_nothing_loses_nothing(store: StoreUnderTest) -> None:
    assert await store.driver.settle([]) == set()


@conforms("settle: a batch of any size")
async def test_a_large_batch_is_settled_in_one_call(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(900))]
    await store.put(*names)
    leases = await store.take(len(names))

    lost = await store.driver.settle(
        [(lease, OUTCOMES[number % 3]()) for number, lease in enumerate(sorted(leases, key=lambda one: one.message_id))]
    )

    assert lost == set()
    third = len(names) // 3
    released = third + (len(names) % 3 > 1)
    await store.assert_depth(ready=released, dead=third)
    assert all(lease.attempt == 2 for lease in await store.take(released))


@conforms("settle: follow-ups are enqueued in the same step")
async def test_follow_ups_are_stored_with_every_outcome(store: StoreUnderTest) -> None:
    settlements: list[Settlement] = [
        Complete(follow_ups=(message("f0", queue="next"), message("g0", queue="after"))),
        Release(counted=True, delay_s=500, follow_ups=(message("f1", queue="next"),)),
        Bury(reason=DeadReason.FAILED, follow_ups=(message("f2", queue="next", delay_s=500),)),
    ]
    for number, settlement in enumerate(settlements):
        await store.settle((await store.lease(f"m{number}"), settlement))

    await store.assert_depth(scheduled=1, dead=1)
    await store.assert_depth(ready=2, scheduled=1, queue="next")
    assert sorted(ids(await store.take(2, "next"))) == ["f0", "f1"]
    assert (await store.take_one("after")).body == b"g0"


@conforms("settle: a lease that is lost stores no follow-ups", needs="atomic_settle")
async def test_a_lost_settlement_stores_no_follow_ups(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    await store.settle((lease, Complete()))

    assert await store.driver.settle([(lease, Complete(follow_ups=(message("f", queue="next"),)))]) == {"m"}

    await store.assert_depth(queue="next")
    await store.assert_nothing_visible("next")


@conforms("settle: follow-ups have the same idempotency as enqueue", needs="idempotent_enqueue")
async def test_follow_ups_whose_id_lives_change_nothing(store: StoreUnderTest) -> None:
    await store.put("f", queue="next")
    batch = (message("f", body=b"other"), message("g", queue="next"), message("g", body=b"other"))

    await store.settle((await store.lease("m"), Complete(follow_ups=batch)))

    await store.assert_depth()
    assert sorted((lease.message_id, lease.body) for lease in await store.take(2, "next")) == [
        *(("f", b"f"), ("g", b"g")),
    ]


@conforms("settle: a follow-up may take the id of the message that was completed", needs="atomic_settle")
async def test_a_follow_up_may_take_the_completed_id(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    await store.settle((lease, Complete(follow_ups=(message("m", body=b"next step"),))))

    again = await store.take_one()
    assert (again.message_id, again.body, again.attempt) == ("m", b"next step", 1)
    assert await store.driver.settle([(lease, Complete())]) == {"m"}, "the lease of the earlier message is over"
    await store.settle((again, Complete()))
