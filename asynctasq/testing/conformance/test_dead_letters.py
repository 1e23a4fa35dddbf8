"""Dead letters: kept whole, out of line, and back by `redrive`, oldest death first."""

import asyncio

from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release
from asynctasq.testing.conformance.trial import Q, Trial, ids, message
from asynctasq.testing.conformance.verdict import conforms


async def _bury(trial: Trial, *names: str, queue: str = Q) -> None:
    for name in names:
        await trial.put(name, queue=queue)
        await trial.settle((await trial.take_one(queue), Bury(reason=DeadReason.FAILED, counted=True, crashed=True)))
        if trial.virtual:
            await trial.advance(1)


@conforms("Bury: the message becomes a dead letter, and stays one")
async def test_a_dead_letter_is_never_reserved(trial: Trial) -> None:
    await _bury(trial, "m")
    await trial.advance(10 * 365 * 24 * 3600 if trial.virtual else 1)

    await trial.assert_nothing_visible()

    await trial.assert_depth(dead=1)


@conforms("Bury: body and error are kept, with the reason, attempts and crashes", needs="inspects")
async def test_a_dead_letter_keeps_what_an_operator_needs(trial: Trial) -> None:
    error = ErrorRecord(type="ValueError", message="naïve \ud800 \x00 text 🎈", traceback="line 1\nline 2\n")
    for number, reason in enumerate(DeadReason):
        name = f"m{number}"
        lease = await trial.lease(name)
        await trial.settle((lease, Bury(reason=reason, counted=bool(number % 2), crashed=not number % 2, error=error)))

        stored = await trial.inspectable().find(name)

        assert stored is not None
        assert (stored.body, stored.reason, stored.error) == (name.encode(), reason, error)
        assert (stored.attempts, stored.crashes) == (number % 2, 1 - number % 2)


@conforms("redrive: dead letters back to ready; return how many were moved", needs="redrive")
async def test_redrive_makes_dead_letters_ready(trial: Trial) -> None:
    await _bury(trial, "a", "b")

    assert await trial.driver.redrive(Q, limit=10) == 2

    await trial.assert_depth(ready=2)
    leases = await trial.take(2)
    assert sorted((lease.message_id, lease.body) for lease in leases) == [("a", b"a"), ("b", b"b")]


@conforms("redrive: attempts and crashes start again at 0", needs="redrive")
async def test_redrive_starts_counting_anew(trial: Trial) -> None:
    lease = await trial.lease("m")
    await trial.settle((lease, Release(counted=True, crashed=True)))
    await trial.settle((await trial.take_one(), Bury(reason=DeadReason.FAILED, counted=True, crashed=True)))

    assert await trial.driver.redrive(Q, limit=1) == 1

    lease = await trial.take_one()
    assert (lease.attempt, lease.crashes) == (1, 0)


@conforms("redrive: reason and error are cleared", needs="inspects")
async def test_redrive_clears_reason_and_error(trial: Trial) -> None:
    error = ErrorRecord(type="E", message="m")
    await trial.settle((await trial.lease("m"), Bury(reason=DeadReason.FAILED, error=error)))
    await trial.driver.redrive(Q, limit=1)

    stored = await trial.inspectable().find("m")

    assert stored is not None
    assert (stored.reason, stored.error, stored.attempts, stored.crashes) == (None, None, 0, 0)


@conforms("redrive: up to `limit`, oldest death first", needs="redrive")
async def test_redrive_moves_the_oldest_death_first(trial: Trial) -> None:
    await _bury(trial, "c", "a", "b")

    assert await trial.driver.redrive(Q, limit=0) == 0
    assert await trial.driver.redrive(Q, limit=1) == 1

    await trial.assert_depth(ready=1, dead=2)
    first = await trial.take_one()
    assert await trial.driver.redrive(Q, limit=1) == 1
    second = await trial.take_one()
    if trial.capabilities.ordered.level == "yes":
        assert ids([first, second]) == ["c", "a"]


@conforms("redrive: of one queue", needs="redrive")
async def test_redrive_leaves_other_queues_alone(trial: Trial) -> None:
    await _bury(trial, "m")
    await _bury(trial, "n", queue="other")

    assert await trial.driver.redrive("never-was", limit=5) == 0
    assert await trial.driver.redrive("other", limit=5) == 1

    await trial.assert_depth(dead=1)
    await trial.assert_depth(ready=1, queue="other")


@conforms("redrive: nothing but dead letters", needs="redrive")
async def test_redrive_touches_nothing_that_lives(trial: Trial) -> None:
    await trial.put("later", delay_s=500)
    lease = await trial.lease("held")
    await trial.put("ready")

    assert await trial.driver.redrive(Q, limit=10) == 0

    await trial.assert_depth(ready=1, scheduled=1, reserved=1)
    await trial.settle((lease, Complete()))


@conforms("Lease.token: no lease of before the redrive settles", needs="fenced")
async def test_an_old_lease_does_not_settle_a_redriven_message(trial: Trial) -> None:
    old = await trial.lease("m")
    await trial.settle((old, Bury(reason=DeadReason.FAILED)))
    assert await trial.driver.redrive(Q, limit=1) == 1

    assert await trial.driver.settle([(old, Complete())]) == {"m"}
    assert await trial.driver.extend([old], lease_s=1000) == {"m"}
    latest = await trial.take_one()
    assert latest.token != old.token
    assert await trial.driver.settle([(old, Complete())]) == {"m"}

    await trial.assert_depth(reserved=1)
    await trial.settle((latest, Complete()))


@conforms("redrive: a redriven message lives and dies like any other", needs="redrive")
async def test_a_redriven_message_may_die_again(trial: Trial) -> None:
    await _bury(trial, "m")
    for _ in range(2):
        assert await trial.driver.redrive(Q, limit=1) == 1
        if trial.capabilities.idempotent_enqueue.level == "yes":
            assert await trial.driver.enqueue([message("m")]) == []
        await trial.settle((await trial.take_one(), Bury(reason=DeadReason.REJECTED)))

    await trial.assert_depth(dead=1)


@conforms("redrive: two at once move each dead letter once", needs="redrive")
async def test_concurrent_redrives_move_each_once(trial: Trial) -> None:
    names = [f"m{number}" for number in range(trial.sized(40))]
    await trial.put(*names)
    leases = await trial.take(len(names))
    await trial.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in leases))

    moved = await asyncio.gather(*(trial.driver.redrive(Q, limit=len(names)) for _ in range(4)))

    assert sum(moved) == len(names)
    assert sorted(ids(await trial.take(len(names)))) == sorted(names)
