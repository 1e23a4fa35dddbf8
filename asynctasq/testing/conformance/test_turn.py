"""What `turn` promises: what `settle` and then `reserve` would do, in one call."""

from asynctasq.drivers.base import Settlements
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, ids, message
from asynctasq.testing.conformance.verdict import conforms


@conforms("turn: settle, then reserve")
async def test_turn_settles_and_reserves(trial: Trial) -> None:
    lease = await trial.lease("a")
    await trial.put("b")

    lost, leases = await trial.driver.turn([(lease, Complete())], [Q], limit=5, lease_s=LONG_S)

    assert lost == set()
    leases = leases or await trial.take(1)
    assert ids(leases) == ["b"]
    assert (leases[0].body, leases[0].attempt, leases[0].crashes) == (b"b", 1, 0)
    await trial.assert_depth(reserved=1)
    await trial.settle((leases[0], Complete()))


@conforms("turn: settle first, so that what it released may be reserved")
async def test_turn_may_reserve_what_it_released(trial: Trial) -> None:
    lease = await trial.lease("m")

    lost, leases = await trial.driver.turn([(lease, Release(counted=True))], [Q], limit=1, lease_s=LONG_S)

    assert lost == set()
    assert leases or not trial.exact, "what the turn released was visible, and it reserved nothing"
    again = leases[0] if leases else await trial.take_one()
    assert (again.message_id, again.attempt) == ("m", 2)
    assert again.token != lease.token


@conforms("turn: settle first, so that a follow-up may be reserved")
async def test_turn_may_reserve_a_follow_up(trial: Trial) -> None:
    lease = await trial.lease("m")
    settlement = Complete(follow_ups=(message("next"),))

    _, leases = await trial.driver.turn([(lease, settlement)], [Q], limit=3, lease_s=LONG_S)

    assert ids(leases or await trial.take(1)) == ["next"]


@conforms("turn: `limit` may be 0")
async def test_a_turn_with_limit_zero_only_settles(trial: Trial) -> None:
    lease = await trial.lease("a")
    await trial.put("b")

    assert await trial.driver.turn([(lease, Complete())], [Q], limit=0, lease_s=LONG_S) == (set(), [])

    await trial.assert_depth(ready=1)


@conforms("turn: without settlements it only reserves")
async def test_a_turn_without_settlements_only_reserves(trial: Trial) -> None:
    await trial.put("a", "b")

    lost, leases = await trial.driver.turn([], [Q], limit=1, lease_s=LONG_S)

    assert lost == set()
    assert len(leases or await trial.take(1)) == 1
    assert await trial.driver.turn([], [], limit=1, lease_s=LONG_S) == (set(), [])


@conforms("turn: reserve without waiting")
async def test_a_turn_on_an_empty_queue_returns_nothing(trial: Trial) -> None:
    lease = await trial.lease("m")

    assert await trial.driver.turn([(lease, Complete())], [Q], limit=5, lease_s=LONG_S) == (set(), [])

    await trial.assert_depth()


@conforms("turn: return the message ids of leases that were no longer ours")
async def test_a_turn_reports_lost_leases_and_settles_the_rest(trial: Trial) -> None:
    await trial.put("a", "b", "c", "d")
    leases = {lease.message_id: lease for lease in await trial.take(3)}
    await trial.settle((leases["b"], Complete()))

    settlements: Settlements = [
        (leases["a"], Complete()),
        (leases["b"], Release(counted=True)),
        (leases["c"], Bury(reason=DeadReason.FAILED)),
    ]
    lost, taken = await trial.driver.turn(settlements, [Q], limit=9, lease_s=LONG_S)

    assert lost == {"b"}
    taken = taken or await trial.take(1)
    assert set(ids(taken)) == {"a", "b", "c", "d"} - set(leases)
    await trial.assert_depth(reserved=1, dead=1)


@conforms("turn: takes over expired leases, counting a crash on each")
async def test_a_turn_takes_over_expired_leases(trial: Trial) -> None:
    await trial.lease("m", lease_s=trial.brief_s)
    await trial.expire()

    _, leases = await trial.driver.turn([], [Q], limit=1, lease_s=LONG_S)

    assert (leases[0] if leases or trial.exact else await trial.take_one()).crashes == 1


@conforms("turn: queues in the order given, limits kept", needs="ordered")
async def test_a_turn_keeps_limit_and_order(trial: Trial) -> None:
    await trial.put("l1", "l2", queue="low")
    await trial.put("h1", "h2", "h3", queue="high")

    _, first = await trial.driver.turn([], ["high", "low"], limit=2, lease_s=LONG_S)
    _, second = await trial.driver.turn(
        [(lease, Complete()) for lease in first], ["high", "low"], limit=2, lease_s=LONG_S
    )

    assert [ids(first), ids(second)] == [["h1", "h2"], ["h3", "l1"]]


@conforms("turn: the worker's hot path, again and again")
async def test_turn_after_turn_drains_a_queue(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(200))]
    await trial.put(*names)
    seen: list[str] = []
    leases = await trial.take(10)
    while leases:
        seen += ids(leases)
        settlements = [(lease, Complete()) for lease in leases]
        lost, leases = await trial.driver.turn(settlements, [Q], limit=10, lease_s=LONG_S)
        assert lost == set()
        if not leases and not trial.exact and len(seen) < len(names):
            leases = await trial.take(1)

    assert sorted(seen) == sorted(names)
    await trial.assert_depth()
