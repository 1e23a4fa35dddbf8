"""What `settle` promises for each outcome: under a live, an expired and a stolen lease, once and repeated."""

from collections.abc import Callable

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release, Settlement
from asynctasq.testing.conformance.trial import Trial, ids, message
from asynctasq.testing.conformance.verdict import conforms

OUTCOMES: tuple[Callable[[], Settlement], ...] = (
    Complete,
    lambda: Release(counted=True),
    lambda: Bury(reason=DeadReason.FAILED, counted=True),
)


@conforms("Complete: the message is done")
async def test_a_completed_message_is_gone(trial: Trial) -> None:
    await trial.settle((await trial.lease("m"), Complete()))

    await trial.assert_nothing_visible()
    await trial.assert_depth()


@conforms("Release: the message becomes visible again after `delay_s`")
async def test_a_released_message_is_visible_at_once(trial: Trial) -> None:
    lease = await trial.lease("m")

    await trial.settle((lease, Release(counted=False)))

    await trial.assert_depth(ready=1)
    again = await trial.take_one()
    assert (again.message_id, again.body, again.queue) == (lease.message_id, lease.body, lease.queue)


@conforms("Release: `counted` adds one to the attempts, `crashed` one to the crashes; a hand-back does neither")
async def test_release_counts_what_it_says(trial: Trial) -> None:
    expected = (1, 0)
    lease = await trial.lease("m")
    for counted, crashed in [(False, False), (True, False), (True, False), (False, True), (True, True), (False, False)]:
        await trial.settle((lease, Release(counted=counted, crashed=crashed)))
        lease = await trial.take_one()
        expected = (expected[0] + counted, expected[1] + crashed)

        assert (lease.attempt, lease.crashes) == expected, f"after Release({counted=}, {crashed=})"


@conforms("enqueued_at is kept for life")
async def test_a_released_message_keeps_the_time_it_was_enqueued(trial: Trial) -> None:
    lease = await trial.lease("m")
    await trial.advance(1000 if trial.virtual else 1)
    await trial.settle((lease, Release(counted=True)))

    again = await trial.take_one()

    assert abs(again.enqueued_at - lease.enqueued_at) < (1e-3 if trial.exact else 1)


@conforms("Release: `delay_s` is counted from the settlement, on the driver's clock")
async def test_a_message_released_with_a_delay_comes_exactly_then(trial: Trial) -> None:
    delay_s = 7200.0 if trial.virtual else 3.0
    lease = await trial.lease("m")
    await trial.settle((lease, Release(delay_s=delay_s, counted=True)))

    await trial.assert_nothing_visible()
    await trial.assert_depth(scheduled=1)
    if trial.virtual:
        await trial.advance(delay_s - 30)
        await trial.assert_nothing_visible()
        await trial.advance(30)
    else:
        await trial.advance(delay_s + 0.5)

    assert (await trial.take_one()).attempt == 2


@conforms("Bury: the message becomes a dead letter")
async def test_a_buried_message_is_dead(trial: Trial) -> None:
    await trial.settle((await trial.lease("m"), Bury(reason=DeadReason.FAILED)))

    await trial.assert_depth(dead=1)
    await trial.assert_nothing_visible()


@conforms("settle: repeating it is safe: the second time the id is returned as lost and nothing changes")
async def test_settling_twice_changes_nothing(trial: Trial) -> None:
    for number, outcome in enumerate(OUTCOMES):
        queue = f"q{number}"
        await trial.put(f"m{number}", queue=queue)
        lease = await trial.take_one(queue)
        await trial.settle((lease, outcome()))
        before = await trial.driver.depth(queue)

        for again in OUTCOMES:
            assert await trial.driver.settle([(lease, again())]) == {f"m{number}"}, f"{again()} after {outcome()}"

        after = await trial.driver.depth(queue)
        assert (after.ready, after.scheduled, after.reserved, after.dead) == (
            *(before.ready, before.scheduled, before.reserved, before.dead),
        ), f"settling again after {outcome()} changed the queue"
    assert (await trial.take_one("q1")).attempt == 2, "a release that was repeated counts once"


@conforms("settle: a late one counts while nobody else has reserved the message since")
async def test_a_late_settlement_counts_while_nobody_else_reserved(trial: Trial) -> None:
    leases = [await trial.lease(f"m{number}", lease_s=trial.brief_s) for number in range(3)]
    await trial.expire()

    await trial.settle(*((lease, outcome()) for lease, outcome in zip(leases, OUTCOMES, strict=True)))

    await trial.assert_depth(ready=1, dead=1)
    again = await trial.take_one()
    assert (again.message_id, again.attempt, again.crashes) == ("m1", 2, 0), "a late release is no crash"


async def _stolen(trial: Trial, name: str) -> tuple[Lease, Lease]:
    """Return a lease that ran out, and the one of whoever took over."""
    stale = await trial.lease(name, lease_s=trial.brief_s)
    await trial.expire()
    return stale, await trial.take_one()


@conforms("settle: fenced by its token; only the latest lease settles", needs="fenced")
async def test_a_stolen_lease_settles_nothing(trial: Trial) -> None:
    for number, outcome in enumerate(OUTCOMES):
        stale, latest = await _stolen(trial, f"m{number}")

        assert await trial.driver.settle([(stale, outcome())]) == {f"m{number}"}, f"{outcome()} under a stolen lease"

        await trial.assert_depth(reserved=1)
        await trial.settle((latest, Complete()))
    await trial.assert_depth()


@conforms("settle: fenced by its token, also once the latest lease has ended", needs="fenced")
async def test_a_stolen_lease_settles_nothing_after_the_thief_released(trial: Trial) -> None:
    stale, latest = await _stolen(trial, "m")
    await trial.settle((latest, Release(counted=False)))

    for outcome in OUTCOMES:
        assert await trial.driver.settle([(stale, outcome())]) == {"m"}

    await trial.assert_depth(ready=1)
    again = await trial.take_one()
    assert await trial.driver.settle([(stale, Complete()), (latest, Complete())]) == {"m"}
    await trial.settle((again, Complete()))


@conforms("settle: each entry by itself; return the ids of leases that were no longer ours")
async def test_a_batch_settles_each_entry_by_itself(trial: Trial) -> None:
    names = [f"m{number}" for number in range(6)]
    await trial.put(*names)
    by_id = {lease.message_id: lease for lease in await trial.take(6)}
    leases = [by_id[name] for name in names]
    await trial.settle((leases[1], Complete()), (leases[4], Release(counted=False)))

    lost = await trial.driver.settle(
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
    await trial.assert_depth(ready=2, scheduled=1, dead=1)
    assert {(lease.message_id, lease.attempt) for lease in await trial.take(2)} == {("m2", 2), ("m4", 1)}


@conforms("settle: the second of two entries for one lease is lost")
async def test_of_two_entries_for_one_lease_the_first_counts(trial: Trial) -> None:
    lease = await trial.lease("m")

    assert await trial.driver.settle([(lease, Release(counted=True)), (lease, Complete())]) == {"m"}

    assert (await trial.take_one()).attempt == 2


@conforms("settle: an empty batch")
async def test_settling_nothing_loses_nothing(trial: Trial) -> None:
    assert await trial.driver.settle([]) == set()


@conforms("settle: a batch of any size")
async def test_a_large_batch_is_settled_in_one_call(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(900))]
    await trial.put(*names)
    leases = await trial.take(len(names))

    lost = await trial.driver.settle(
        [(lease, OUTCOMES[number % 3]()) for number, lease in enumerate(sorted(leases, key=lambda one: one.message_id))]
    )

    assert lost == set()
    third = len(names) // 3
    released = third + (len(names) % 3 > 1)
    await trial.assert_depth(ready=released, dead=third)
    assert all(lease.attempt == 2 for lease in await trial.take(released))


@conforms("settle: follow-ups are enqueued in the same step")
async def test_follow_ups_are_stored_with_every_outcome(trial: Trial) -> None:
    settlements: list[Settlement] = [
        Complete(follow_ups=(message("f0", queue="next"), message("g0", queue="after"))),
        Release(counted=True, delay_s=500, follow_ups=(message("f1", queue="next"),)),
        Bury(reason=DeadReason.FAILED, follow_ups=(message("f2", queue="next", delay_s=500),)),
    ]
    for number, settlement in enumerate(settlements):
        await trial.settle((await trial.lease(f"m{number}"), settlement))

    await trial.assert_depth(scheduled=1, dead=1)
    await trial.assert_depth(ready=2, scheduled=1, queue="next")
    assert sorted(ids(await trial.take(2, "next"))) == ["f0", "f1"]
    assert (await trial.take_one("after")).body == b"g0"


@conforms("settle: a lease that is lost stores no follow-ups", needs="atomic_settle")
async def test_a_lost_settlement_stores_no_follow_ups(trial: Trial) -> None:
    lease = await trial.lease("m")
    await trial.settle((lease, Complete()))

    assert await trial.driver.settle([(lease, Complete(follow_ups=(message("f", queue="next"),)))]) == {"m"}

    await trial.assert_depth(queue="next")
    await trial.assert_nothing_visible("next")


@conforms("settle: follow-ups have the same idempotency as enqueue", needs="idempotent_enqueue")
async def test_follow_ups_whose_id_lives_change_nothing(trial: Trial) -> None:
    await trial.put("f", queue="next")
    batch = (message("f", body=b"other"), message("g", queue="next"), message("g", body=b"other"))

    await trial.settle((await trial.lease("m"), Complete(follow_ups=batch)))

    await trial.assert_depth()
    assert sorted((lease.message_id, lease.body) for lease in await trial.take(2, "next")) == [
        *(("f", b"f"), ("g", b"g")),
    ]


@conforms("settle: a follow-up may take the id of the message that was completed", needs="atomic_settle")
async def test_a_follow_up_may_take_the_completed_id(trial: Trial) -> None:
    lease = await trial.lease("m")

    await trial.settle((lease, Complete(follow_ups=(message("m", body=b"next step"),))))

    again = await trial.take_one()
    assert (again.message_id, again.body, again.attempt) == ("m", b"next step", 1)
    assert await trial.driver.settle([(lease, Complete())]) == {"m"}, "the lease of the earlier message is over"
    await trial.settle((again, Complete()))
