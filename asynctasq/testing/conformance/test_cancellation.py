"""Every call, cancelled at each of its awaits: no message lost or half stored, no connection lost or desynchronised."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Release
from asynctasq.testing.conformance.harness import NotPossible
from asynctasq.testing.conformance.interrupting import cancel_everywhere
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, ids, message, repeated
from asynctasq.testing.conformance.verdict import conforms
from asynctasq.testing.patience import patient_s

Call = Coroutine[Any, Any, object]


async def _assert_usable(trial: Trial) -> None:
    """Check that no connection was lost: more calls at once than a pool that leaked could serve."""
    async with asyncio.timeout(patient_s(20)):
        depths = await asyncio.gather(*(trial.driver.depth("untouched") for _ in range(trial.sized(30))))
    assert all(depth.ready == 0 for depth in depths)
    await trial.put("last", queue="after")
    lease = await trial.take_one("after")
    assert lease.body == b"last"
    await trial.settle((lease, Complete()))


@conforms("enqueue cancelled: the batch is there whole or not at all", needs="atomic_enqueue")
async def test_a_cancelled_enqueue_stores_all_or_none(trial: Trial) -> None:
    number = 0

    async def call() -> Call:
        nonlocal number
        number += 1
        return trial.driver.enqueue([message(f"m{number}-{part}", queue=f"q{number}") for part in range(3)])

    async def check() -> None:
        # A command whose reply nobody waits for may still be on its way; once the id is taken again it has arrived.
        names = [f"m{number}-{part}" for part in range(3)]
        new = await trial.driver.enqueue([message(name, queue=f"q{number}") for name in names])
        assert new in ([], names), f"after a cancelled enqueue of {names} only {new} were new: it was stored in part"
        if trial.capabilities.idempotent_enqueue.level == "yes":
            await trial.assert_depth(ready=3, queue=f"q{number}")

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("reserve cancelled: what it may have leased comes back when the lease ends")
async def test_a_cancelled_reserve_loses_no_message(trial: Trial) -> None:
    names = [f"m{number}" for number in range(4)]
    await trial.put(*names)

    async def call() -> Call:
        return trial.driver.reserve([Q], limit=2, lease_s=trial.brief_s)

    async def check() -> None:
        await trial.expire()
        leases = await trial.take(4)
        assert sorted(ids(leases)) == names, "a cancelled reserve lost a message"
        await trial.settle(*((lease, Release(counted=False)) for lease in leases))

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("a waiting reserve cancelled: nothing is taken with it")
async def test_a_cancelled_waiting_reserve_loses_no_message(trial: Trial) -> None:
    async def call() -> Call:
        # Suspends on until a message is due; each is cancelled earlier or ends by itself.
        return trial.driver.reserve([Q], limit=1, lease_s=trial.brief_s, wait_s=0.2 if trial.exact else 1)

    async def check() -> None:
        await trial.put("m")
        lease = await trial.take_one()
        await trial.settle((lease, Complete()))

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("settle cancelled: it happened whole or not at all, and may be repeated", needs="atomic_settle")
async def test_a_cancelled_settle_happens_whole_or_not_at_all(trial: Trial) -> None:
    number = 0
    lease: Lease

    async def call() -> Call:
        nonlocal number, lease
        number += 1
        lease = await trial.lease(f"m{number}")
        follow_up = message(f"f{number}", queue="next")
        return trial.driver.settle([(lease, Complete(follow_ups=(follow_up,)))])

    async def check() -> None:
        follow_up = message(f"f{number}", queue="next")
        lost = await trial.driver.settle([(lease, Complete(follow_ups=(follow_up,)))])
        assert lost in (set(), {lease.message_id})
        await trial.assert_depth()
        await trial.assert_depth(ready=1, queue="next")
        await trial.settle((await trial.take_one("next"), Complete()))

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("settle cancelled: an outcome counts once, however often it is repeated", needs="fenced")
async def test_a_cancelled_release_counts_once(trial: Trial) -> None:
    await trial.put("m")
    lease = await trial.take_one()

    async def call() -> Call:
        return trial.driver.settle([(lease, Release(counted=True))])

    async def check() -> None:
        nonlocal lease
        await trial.driver.settle([(lease, Release(counted=True))])
        again = await trial.take_one()
        assert again.attempt == lease.attempt + 1, "a release that was cancelled and repeated counted twice, or never"
        lease = again

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("turn cancelled: settled or not, and nothing lost")
async def test_a_cancelled_turn_loses_no_message(trial: Trial) -> None:
    number = 0

    async def call() -> Call:
        nonlocal number
        number += 1
        lease = await trial.lease(f"m{number}")
        await trial.put(f"n{number}")
        return trial.driver.turn([(lease, Complete())], [Q], limit=1, lease_s=trial.brief_s)

    async def check() -> None:
        await trial.expire()
        await trial.advance(LONG_S if trial.virtual else 0)
        leases = await trial.take(3 if trial.exact else 1)
        names = ids(leases)
        assert f"n{number}" in names, "a cancelled turn lost the message it had reserved"
        assert not repeated(names)
        await trial.settle(*((lease, Complete()) for lease in leases))

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("extend cancelled: the lease is ours, extended or not")
async def test_a_cancelled_extend_keeps_the_lease(trial: Trial) -> None:
    lease = await trial.lease("m")

    async def call() -> Call:
        return trial.driver.extend([lease], lease_s=LONG_S)

    async def check() -> None:
        assert await trial.driver.extend([lease], lease_s=LONG_S) == set()

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await trial.settle((lease, Complete()))
    await _assert_usable(trial)


@conforms("redrive cancelled: a dead letter is dead or ready, nothing else", needs="redrive")
async def test_a_cancelled_redrive_loses_no_dead_letter(trial: Trial) -> None:
    if not trial.exact:
        raise NotPossible(
            "what a cancelled redrive took comes back after a minute or so; too long to wait at each await"
        )
    names = ["a", "b", "c"]
    await trial.put(*names)

    async def call() -> Call:
        leases = await trial.take(3)
        assert sorted(ids(leases)) == names, "a cancelled redrive lost a dead letter"
        await trial.settle(*((lease, Bury(reason=DeadReason.FAILED)) for lease in leases))
        return trial.driver.redrive(Q, limit=3)

    async def check() -> None:
        await trial.driver.redrive(Q, limit=3)
        await trial.assert_depth(ready=3)

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("depth cancelled: the next call is answered with its own reply")
async def test_a_cancelled_depth_does_not_mix_up_replies(trial: Trial) -> None:
    await trial.put("a", "b")
    await trial.put("c", queue="other")

    async def call() -> Call:
        return trial.driver.depth(Q)

    async def check() -> None:
        await trial.assert_depth(ready=1, queue="other")

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("the first call of a loop cancelled while it connects: the next one connects")
async def test_a_call_cancelled_while_connecting_may_be_repeated(trial: Trial) -> None:
    await trial.put("m", queue="other")

    async def call() -> Call:
        await trial.driver.close()
        return trial.driver.depth(Q)

    async def check() -> None:
        if trial.capabilities.durable:
            await trial.assert_depth(ready=1, queue="other")

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)


@conforms("close cancelled: it can be closed again, and used again")
async def test_a_cancelled_close_may_be_repeated(trial: Trial) -> None:
    async def call() -> Call:
        await trial.driver.depth(Q)
        return trial.driver.close()

    async def check() -> None:
        async with asyncio.timeout(patient_s(10)):
            await trial.driver.close()

    await cancel_everywhere(call, check, at_least=trial.sized(30))
    await _assert_usable(trial)
