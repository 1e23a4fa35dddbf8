"""What `enqueue` promises: all or none, the id as idempotency key, names and ids kept apart."""

from asynctasq.kernel.messages import Bury, Complete, DeadReason
from asynctasq.testing.conformance.trial import LONG_S, Q, Trial, ids, message
from asynctasq.testing.conformance.verdict import conforms


@conforms("enqueue: return the ids that are new, in the order given")
async def test_enqueue_returns_the_new_ids_in_the_order_given(trial: Trial) -> None:
    new = await trial.driver.enqueue([message("b"), message("a"), message("c")])

    assert new == ["b", "a", "c"]


@conforms("enqueue: store the messages")
async def test_what_was_enqueued_is_what_is_reserved(trial: Trial) -> None:
    await trial.driver.enqueue([message("m", body=b"\x00body\xff")])

    lease = await trial.take_one()

    assert (lease.message_id, lease.queue, lease.body) == ("m", Q, b"\x00body\xff")
    assert (lease.attempt, lease.crashes) == (1, 0), "the first lease is attempt 1 after no crash"
    assert lease.token


@conforms("enqueue: all or none")
async def test_an_empty_batch_stores_nothing(trial: Trial) -> None:
    assert await trial.driver.enqueue([]) == []

    await trial.assert_depth()


@conforms("enqueue: while a message with an id lives, the same id again changes nothing", needs="idempotent_enqueue")
async def test_the_same_id_again_changes_nothing(trial: Trial) -> None:
    await trial.put("m")

    again = await trial.driver.enqueue([message("m", body=b"other", delay_s=1000)])

    assert again == []
    await trial.assert_depth(ready=1)
    assert (await trial.take_one()).body == b"m"


@conforms("enqueue: ... in whichever queue", needs="idempotent_enqueue")
async def test_the_same_id_in_another_queue_changes_nothing(trial: Trial) -> None:
    await trial.put("m")

    again = await trial.driver.enqueue([message("m", queue="elsewhere"), message("n", queue="elsewhere")])

    assert again == ["n"]
    await trial.assert_depth(ready=1)
    await trial.assert_depth(ready=1, queue="elsewhere")


@conforms("enqueue: within a batch the first of equal ids counts", needs="idempotent_enqueue")
async def test_the_first_of_equal_ids_in_a_batch_counts(trial: Trial) -> None:
    batch = [message("m", body=b"first"), message("n"), message("m", body=b"second", queue="elsewhere")]

    assert await trial.driver.enqueue(batch) == ["m", "n"]

    await trial.assert_depth(ready=2)
    await trial.assert_depth(queue="elsewhere")
    assert {lease.body for lease in await trial.take(2)} == {b"first", b"n"}


@conforms("enqueue: a reserved message lives", needs="idempotent_enqueue")
async def test_the_id_of_a_reserved_message_is_taken(trial: Trial) -> None:
    lease = await trial.lease("m")

    assert await trial.driver.enqueue([message("m")]) == []

    await trial.settle((lease, Complete()))
    await trial.assert_depth()


@conforms("enqueue: dead letters live", needs="idempotent_enqueue")
async def test_the_id_of_a_dead_letter_is_taken(trial: Trial) -> None:
    await trial.settle((await trial.lease("m"), Bury(reason=DeadReason.FAILED)))

    assert await trial.driver.enqueue([message("m")]) == []

    await trial.assert_depth(dead=1)


@conforms("enqueue: a completed message no longer lives")
async def test_the_id_of_a_completed_message_is_free(trial: Trial) -> None:
    await trial.settle((await trial.lease("m"), Complete()))

    assert await trial.driver.enqueue([message("m", body=b"again")]) == ["m"]

    lease = await trial.take_one()
    assert (lease.body, lease.attempt, lease.crashes) == (b"again", 1, 0)


@conforms("enqueue: all or none", needs="atomic_enqueue")
async def test_a_large_batch_is_stored_whole(trial: Trial) -> None:
    count = trial.sized(3000)
    names = [f"m{number}" for number in range(count)]

    assert await trial.driver.enqueue([message(name) for name in names]) == names

    await trial.assert_depth(ready=count)
    assert sorted(ids(await trial.take(count))) == sorted(names)


@conforms("enqueue: the id is the key, all of it")
async def test_ids_that_look_alike_are_different(trial: Trial) -> None:
    names = [
        "m",
        "M",
        "m ",
        " m",
        "é",
        "e",
        "ß",
        "ss",
        "\uff2d",
        "\uff4d",
        "m%",
        "m_",
        "a:b",
        "a",
        "🎈",
        "🎉",
        "x" * 128,
    ]

    assert await trial.driver.enqueue([message(name) for name in names]) == names

    leases = await trial.take(len(names))
    assert sorted(ids(leases)) == sorted(names)
    assert all(lease.body == lease.message_id.encode() for lease in leases)
    assert await trial.driver.settle([(lease, Complete()) for lease in leases]) == set()


@conforms("queue names: 1 to 80 letters, digits, '_', '-', '.' or ':'")
async def test_every_valid_queue_name_is_a_queue_of_its_own(trial: Trial) -> None:
    names = [
        "a",
        "A",
        "a.b",
        "a:b",
        "a-b",
        "a_b",
        "_",
        "0",
        "a.",
        "a:",
        "x" * 80,
        "X" * 80,
        "Az09_.:-",
        "nul",
        "select",
    ]
    await trial.driver.enqueue([message(f"in {name}", queue=name) for name in names])

    for name in names:
        await trial.assert_depth(ready=1, queue=name)
        assert ids(await trial.driver.reserve([name], limit=5, lease_s=LONG_S, wait_s=0 if trial.exact else 5)) == [
            f"in {name}"
        ]
