"""What `turn` promises: what `settle` and then `reserve` would do, in one call."""

from asynctasq.drivers.base import Settlements
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message


@conforms("turn: settle, then reserve")
async def test_turn_settles_and_reserves(store: StoreUnderTest) -> None:
    lease = await store.lease("a")
    await store.put("b")

    lost, leases = await store.driver.turn([(lease, Complete())], [Q], limit=5, lease_s=LONG_S)

    assert lost == set()
    leases = leases or await store.take(1)
    assert ids(leases) == ["b"]
    assert (leases[0].body, leases[0].attempt, leases[0].crashes) == (b"b", 1, 0)
    await store.assert_depth(reserved=1)
    await store.settle((leases[0], Complete()))


@conforms("turn: settle first, so that what it released may be reserved")
async def test_turn_may_reserve_what_it_released(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    lost, leases = await store.driver.turn([(lease, Release(counted=True))], [Q], limit=1, lease_s=LONG_S)

    assert lost == set()
    assert leases or not store.exact, "what the turn released was visible, and it reserved nothing"
    again = leases[0] if leases else await store.take_one()
    assert (again.message_id, again.attempt) == ("m", 2)
    assert again.token != lease.token


@conforms("turn: settle first, so that a follow-up may be reserved")
async def test_turn_may_reserve_a_follow_up(store: StoreUnderTest) -> None:
    lease = await store.lease("m")
    settlement = Complete(follow_ups=(message("next"),))

    _, leases = await store.driver.turn([(lease, settlement)], [Q], limit=3, lease_s=LONG_S)

    assert ids(leases or await store.take(1)) == ["next"]


@conforms("turn: each of several may be completed by a follow-up of its own id", needs="atomic_settle")
async def test_turn_lets_messages_go_on_under_their_ids(store: StoreUnderTest) -> None:
    await store.put("a", "b", "c", "d")
    leases = {lease.message_id: lease for lease in await store.take(4)}
    await store.advance(1000 if store.virtual else 1)
    later = 500.0 if store.virtual else 2.0
    settlements: Settlements = [
        (leases["a"], Complete(follow_ups=(message("run-a", queue="next"), message("a", body=b"2", delay_s=later)))),
        (leases["c"], Release(counted=True, delay_s=90_000)),
        (leases["b"], Complete(follow_ups=(message("b", body=b"2", queue="next"),))),
        (leases["d"], Complete()),
    ]

    lost, reserved = await store.driver.turn(settlements, [Q], limit=5, lease_s=LONG_S)

    assert (lost, reserved) == (set(), [])
    assert sorted(ids(await store.take(2, "next"))) == ["b", "run-a"]
    assert await store.driver.settle(settlements) == set(leases), "the leases of the earlier messages are over"
    await store.assert_depth(scheduled=2)
    await store.advance(later)
    again = await store.take_one()
    assert (again.message_id, again.body, again.attempt, again.crashes) == ("a", b"2", 1, 0)
    assert again.enqueued_at > leases["a"].enqueued_at, "it was enqueued anew"


@conforms("turn: `limit` may be 0")
async def test_a_turn_with_limit_zero_only_settles(store: StoreUnderTest) -> None:
    lease = await store.lease("a")
    await store.put("b")

    assert await store.driver.turn([(lease, Complete())], [Q], limit=0, lease_s=LONG_S) == (set(), [])

    await store.assert_depth(ready=1)


@conforms("turn: without settlements it only reserves")
async def test_a_turn_without_settlements_only_reserves(store: StoreUnderTest) -> None:
    await store.put("a", "b")

    lost, leases = await store.driver.turn([], [Q], limit=1, lease_s=LONG_S)

    assert lost == set()
    assert len(leases or await store.take(1)) == 1
    assert await store.driver.turn([], [], limit=1, lease_s=LONG_S) == (set(), [])


@conforms("turn: reserve without waiting")
async def test_a_turn_on_an_empty_queue_returns_nothing(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    assert await store.driver.turn([(lease, Complete())], [Q], limit=5, lease_s=LONG_S) == (set(), [])

    await store.assert_depth()


@conforms("turn: return the message ids of leases that were no longer ours")
async def test_a_turn_reports_lost_leases_and_settles_the_rest(store: StoreUnderTest) -> None:
    await store.put("a", "b", "c", "d")
    leases = {lease.message_id: lease for lease in await store.take(3)}
    await store.settle((leases["b"], Complete()))

    settlements: Settlements = [
        (leases["a"], Complete()),
        (leases["b"], Release(counted=True)),
        (leases["c"], Bury(reason=DeadReason.FAILED)),
    ]
    lost, taken = await store.driver.turn(settlements, [Q], limit=9, lease_s=LONG_S)

    assert lost == {"b"}
    taken = taken or await store.take(1)
    assert set(ids(taken)) == {"a", "b", "c", "d"} - set(leases)
    await store.assert_depth(reserved=1, dead=1)


@conforms("turn: takes over expired leases, counting a crash on each")
async def test_a_turn_takes_over_expired_leases(store: StoreUnderTest) -> None:
    await store.lease("m", lease_s=store.brief_s)
    await store.expire()

    _, leases = await store.driver.turn([], [Q], limit=1, lease_s=LONG_S)

    assert (leases[0] if leases or store.exact else await store.take_one()).crashes == 1


@conforms("turn: queues in the order given, limits kept", needs="ordered")
async def test_a_turn_keeps_limit_and_order(store: StoreUnderTest) -> None:
    await store.put("l1", "l2", queue="low")
    await store.put("h1", "h2", "h3", queue="high")

    _, first = await store.driver.turn([], ["high", "low"], limit=2, lease_s=LONG_S)
    _, second = await store.driver.turn(
        [(lease, Complete()) for lease in first], ["high", "low"], limit=2, lease_s=LONG_S
    )

    assert [ids(first), ids(second)] == [["h1", "h2"], ["h3", "l1"]]


@conforms("turn: the worker's hot path, again and again")
async def test_turn_after_turn_drains_a_queue(store: StoreUnderTest) -> None:
    names = [f"m{number}" for number in range(store.sized(200))]
    await store.put(*names)
    seen: list[str] = []
    leases = await store.take(10)
    while leases:
        seen += ids(leases)
        settlements = [(lease, Complete()) for lease in leases]
        lost, leases = await store.driver.turn(settlements, [Q], limit=10, lease_s=LONG_S)
        assert lost == set()
        if not leases and not store.exact and len(seen) < len(names):
            leases = await store.take(1)

    assert sorted(seen) == sorted(names)
    await store.assert_depth()
