"""Levels of priority inside a queue, where `priorities` is claimed; where not, other levels than normal are refused."""

from asynctasq.errors import DispatchError, UnsupportedFeature
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Release
from asynctasq.kernel.priority import PRIORITIES, Priority
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, UnderClaimed, ids, message

NEEDS = "priorities"
NO_LEVEL: tuple[object, ...] = ("urgent", "", 1, None)


async def _one_of_each(store: StoreUnderTest, *, queue: str = Q) -> None:
    """Store low, normal and high, in this order, named by their levels."""
    for level in reversed(PRIORITIES):
        await store.put(level, queue=queue, priority=level)


@conforms("priorities: claimed, else other levels than normal are refused with `UnsupportedFeature`")
async def test_priorities_are_claimed_or_refused(store: StoreUnderTest) -> None:
    try:
        await store.put("m", priority="high")
    except UnsupportedFeature:
        assert not store.capabilities.priorities, "priorities is claimed and refused"
        await store.assert_nothing_visible()
        return
    if not store.capabilities.priorities:
        raise UnderClaimed("a message of high priority was stored, but priorities is not claimed")


@conforms("enqueue: a level that there is not is refused, and nothing is stored", needs=NEEDS)
async def test_an_unknown_level_is_refused(store: StoreUnderTest) -> None:
    for value in NO_LEVEL:
        level: Priority = value  # type: ignore[assignment]  # what a caller without types may pass
        try:
            await store.driver.enqueue([message("fine"), message("m", priority=level)])
        except DispatchError:
            continue
        raise AssertionError(f"priority {value!r} was accepted")
    await store.assert_nothing_visible()


@conforms("reserve: within a queue by level: high, normal, low", needs=NEEDS)
async def test_higher_levels_come_first(store: StoreUnderTest) -> None:
    await _one_of_each(store)

    assert [(await store.take_one()).message_id for _ in PRIORITIES] == [*PRIORITIES]


@conforms("reserve: within a level by `visible_at`, then by arrival", needs=NEEDS)
async def test_within_a_level_the_order_is_as_always(store: StoreUnderTest) -> None:
    for level in reversed(PRIORITIES):
        await store.put(f"{level} late", delay_s=20, priority=level)
        await store.put(f"{level} early", delay_s=10, priority=level)
    await store.advance(30)
    for level in reversed(PRIORITIES):
        await store.put(f"{level} new", f"{level} newer", priority=level)

    names = [f"{level} {name}" for level in PRIORITIES for name in ("early", "late", "new", "newer")]
    assert ids(await store.take(len(names))) == names


@conforms("reserve: the order of the queues goes before the levels", needs=NEEDS)
async def test_a_low_message_of_an_earlier_queue_comes_first(store: StoreUnderTest) -> None:
    await store.put("high", queue="second", priority="high")
    await store.put("low", queue="first", priority="low")

    assert ids(await store.take(2, "first", "second")) == ["low", "high"]


@conforms("reserve: up to `limit` over all levels", needs=NEEDS)
async def test_one_limit_holds_for_all_levels(store: StoreUnderTest) -> None:
    await store.put("l1", "l2", priority="low")
    await store.put("n1", "n2")
    await store.put("h1", "h2", priority="high")

    assert ids(await store.take(3)) == ["h1", "h2", "n1"]
    assert ids(await store.take(9)) == ["n2", "l1", "l2"]


@conforms("reserve: another instance knows the levels", needs=NEEDS)
async def test_another_instance_knows_the_levels(store: StoreUnderTest) -> None:
    other = store.other()
    await _one_of_each(store)

    assert ids(await other.reserve([Q], limit=2, lease_s=LONG_S)) == ["high", "normal"]


@conforms("reserve: of twenty calls that take something, the tenth begins with normal, the last with low", needs=NEEDS)
async def test_no_level_waits_for_ever(store: StoreUnderTest) -> None:
    await store.put("l1", "l2", priority="low")
    await store.put("n1", "n2")
    await store.put(*(f"h{number}" for number in range(1, 39)), priority="high")

    taken = [(await store.take_one()).message_id[0] for _ in range(40)]

    half = "h" * 9
    assert "".join(taken) == f"{half}n{half}l{half}n{half}l"


@conforms("reserve: a call that takes nothing does not count, nor do those on other queues", needs=NEEDS)
async def test_only_what_took_something_of_the_queue_counts(store: StoreUnderTest) -> None:
    await store.put(*(f"o{number}" for number in range(10)), queue="other")
    for _ in range(10):
        await store.assert_nothing_visible()
        await store.take_one("other")
    await store.put("low", priority="low")
    await store.put(*(f"h{number}" for number in range(25)), priority="high")

    taken = [(await store.take_one()).message_id for _ in range(26)]

    assert taken.index("low") == 19


@conforms("turn: by level, and it counts as reserve does", needs=NEEDS)
async def test_turn_takes_levels_and_counts(store: StoreUnderTest) -> None:
    await store.put("low", priority="low")
    await store.put("n1", "n2")
    await store.put(*(f"h{number}" for number in range(18)), priority="high")
    taken: list[str] = []
    lease = await store.take_one()
    while True:
        taken.append(lease.message_id[0])
        lost, leases = await store.driver.turn([(lease, Complete())], [Q], limit=1, lease_s=LONG_S)
        assert lost == set()
        if not leases:
            break
        [lease] = leases

    assert "".join(taken) == f"{'h' * 9}n{'h' * 9}ln"


@conforms("Release: the message keeps its level", needs=NEEDS)
async def test_a_released_message_keeps_its_level(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    for lease, counted in zip(reversed(await store.take(3)), (True, False, True), strict=True):
        await store.settle((lease, Release(counted=counted, delay_s=0)))

    assert ids(await store.take(3)) == [*PRIORITIES]


@conforms("Release: after its delay the message is at its level", needs=NEEDS)
async def test_a_retry_keeps_its_level(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    for lease in await store.take(3):
        await store.settle((lease, Release(counted=True, delay_s=60)))
    await store.put("between")
    await store.advance(60)

    assert ids(await store.take(4)) == ["high", "between", "normal", "low"]


@conforms("reserve: an expired lease is taken over at its level", needs=NEEDS)
async def test_a_takeover_goes_by_level(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    assert len(await store.take(3, lease_s=store.brief_s)) == 3
    await store.put("fresh")
    await store.put("fresh high", priority="high")
    await store.expire()

    leases = await store.take(5)

    assert [(one.message_id, one.crashes) for one in leases] == [
        *(("fresh high", 0), ("high", 1), ("fresh", 0), ("normal", 1), ("low", 1))
    ]


@conforms("extend, and a hand-back, change no level", needs=NEEDS)
async def test_an_extended_lease_keeps_its_level(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    leases = await store.take(3)
    assert await store.driver.extend(leases, lease_s=store.brief_s) == set()
    await store.put("fresh")
    await store.expire()

    assert ids(await store.take(4)) == ["high", "fresh", "normal", "low"]


@conforms("redrive: dead letters go back to their levels, the oldest death of all first", needs=NEEDS)
async def test_redrive_keeps_levels(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    high, normal, low = await store.take(3)
    for lease in (low, high, normal):
        await store.settle((lease, Bury(reason=DeadReason.FAILED)))
        if store.virtual:
            await store.advance(1)
    await store.assert_depth(dead=3)

    assert await store.driver.redrive(Q, limit=1) == 1
    assert ids(await store.take(3)) == ["low"]
    assert await store.driver.redrive(Q, limit=5) == 2
    assert ids(await store.take(3)) == ["high", "normal"]


@conforms("redrive: what was driven again comes at its level", needs=NEEDS)
async def test_a_redriven_message_comes_at_its_level(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in await store.take(3)))
    await store.put("fresh")
    assert await store.driver.redrive(Q, limit=5) == 3

    assert ids(await store.take(4))[::3] == ["high", "low"]


@conforms("settle: follow-ups have their own levels", needs=NEEDS)
async def test_follow_ups_have_their_own_levels(store: StoreUnderTest) -> None:
    await store.put("m", "n", priority="low")
    first, second = await store.take(2)
    follow_ups = (message("low", priority="low"), message("normal"), message("high", priority="high"))

    await store.settle(
        (first, Complete(follow_ups=follow_ups)),
        (second, Bury(reason=DeadReason.FAILED, follow_ups=(message("last", priority="low"),))),
    )

    assert ids(await store.take(5)) == ["high", "normal", "low", "last"]


@conforms("settle: a message that goes on under its id has the new level", needs=NEEDS)
async def test_a_message_that_goes_on_has_a_new_level(store: StoreUnderTest) -> None:
    await store.put("m", priority="low")
    lease = await store.take_one()
    await store.put("fresh")

    lost, leases = await store.driver.turn(
        [(lease, Complete(follow_ups=(message("m", priority="high"),)))], [Q], limit=1, lease_s=LONG_S
    )

    assert (lost, ids(leases)) == (set(), ["m"])


@conforms("enqueue: the same id with another level changes nothing", needs=NEEDS)
async def test_the_same_id_with_another_level_changes_nothing(store: StoreUnderTest) -> None:
    await store.put("m", priority="low")
    assert await store.driver.enqueue([message("m", priority="high")]) == []
    await store.put("fresh")

    assert ids(await store.take(3)) == ["fresh", "m"]


@conforms("enqueue: levels in one batch", needs=NEEDS)
async def test_a_batch_may_hold_all_levels(store: StoreUnderTest) -> None:
    batch = [message(f"{level}{number}", priority=level) for number in range(2) for level in reversed(PRIORITIES)]
    assert await store.driver.enqueue(batch) == [one.id for one in batch]

    assert ids(await store.take(6)) == [f"{level}{number}" for level in PRIORITIES for number in range(2)]


@conforms("reserve: waiting ends with a message of any level", needs=NEEDS)
async def test_every_level_ends_a_wait(store: StoreUnderTest) -> None:
    delay_s = 0.3 if store.virtual else 1.0
    for level in PRIORITIES:
        await store.put(level, delay_s=delay_s, priority=level)

        leases = await store.driver.reserve([Q], limit=5, lease_s=LONG_S, wait_s=30)

        assert ids(leases) == [level]


@conforms("wait_visible: True for a message of any level", needs=NEEDS)
async def test_every_level_is_visible_to_who_waits(store: StoreUnderTest) -> None:
    if not store.capabilities.wakes_waiting:
        raise NotPossible("wakes_waiting is not claimed")
    for level in PRIORITIES:
        await store.put(level, priority=level)
        assert await store.notifies().wait_visible([Q], wait_s=0)
        await store.take_one()
        assert not await store.notifies().wait_visible([Q], wait_s=0)


@conforms("depth: counts all levels", needs=NEEDS)
async def test_depth_counts_all_levels(store: StoreUnderTest) -> None:
    await _one_of_each(store)
    await store.advance(10)
    for level in PRIORITIES:
        await store.put(f"{level} later", delay_s=600, priority=level)
        await store.put(f"{level} ready", priority=level)
    high, first, normal = await store.take(3)
    await store.settle((first, Bury(reason=DeadReason.FAILED)), (normal, Release(counted=True)))

    await store.assert_depth(ready=4, scheduled=3, reserved=1, dead=1)
    assert (high.message_id, first.message_id) == ("high", "high ready")
    age_s = (await store.driver.depth(Q)).oldest_age_s
    assert age_s is not None
    assert 10 <= age_s < 600, "the oldest is the low one"


@conforms("find and list_messages show the level; queues shows the queue once", needs="inspects")
async def test_an_operator_sees_the_level(store: StoreUnderTest) -> None:
    if not store.capabilities.priorities:
        raise NotPossible("priorities is not claimed")
    await _one_of_each(store)
    shown = store.inspectable()

    listed = (await shown.list_messages(Q)).messages
    assert [(one.id, one.queue, one.priority) for one in listed] == [(level, Q, level) for level in PRIORITIES[::-1]]
    for level in PRIORITIES:
        found = await shown.find(level)
        assert found is not None
        assert (found.queue, found.priority) == (Q, level)
    assert await shown.queues() == [Q]
    [high] = await store.take(1)
    assert high.queue == Q
    await store.settle((high, Bury(reason=DeadReason.FAILED)))
    assert [one.priority for one in (await shown.list_messages(Q)).messages] == ["low", "normal", "high"]


@conforms("cancel, discard and purge remove messages of all levels", needs="inspects")
async def test_messages_of_all_levels_can_be_removed(store: StoreUnderTest) -> None:
    if not store.capabilities.priorities:
        raise NotPossible("priorities is not claimed")
    removes = store.inspectable()
    await _one_of_each(store)
    assert await removes.cancel([*PRIORITIES]) == {*PRIORITIES}
    await _one_of_each(store)
    assert await removes.purge(Q) == 3
    await _one_of_each(store)
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in await store.take(3)))
    assert await removes.discard([*PRIORITIES]) == {*PRIORITIES}
    await store.assert_depth()
    assert await removes.queues() == []


@conforms("Capabilities.dead_ttl: dead letters of all levels go at that age", needs=NEEDS)
async def test_dead_letters_of_all_levels_go(store: StoreUnderTest) -> None:
    ttl_s = store.capabilities.dead_ttl
    if ttl_s is None or not store.virtual:
        raise NotPossible("the driver claims no age at which it removes dead letters, or its clock can't be moved")
    await _one_of_each(store)
    await store.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in await store.take(3)))
    await store.advance(ttl_s + 60)
    for number in range(2):
        await store.advance(60)
        await store.put(f"work{number}")
        await store.settle((await store.take_one(), Complete()))

    await store.assert_depth()


@conforms("enqueue_in: the message has its level", needs="transactional")
async def test_a_level_given_in_a_transaction_is_kept(store: StoreUnderTest) -> None:
    if not store.capabilities.priorities:
        raise NotPossible("priorities is not claimed")
    await store.put("normal")
    transaction = await store.harness.begin()
    try:
        await store.transactional().enqueue_in(transaction.connection, [message("high", priority="high")])
    finally:
        await transaction.commit()

    assert ids(await store.take(2)) == ["high", "normal"]
