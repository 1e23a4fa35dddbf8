"""What `enqueue` promises: all or none, the id as idempotency key, names and ids kept apart."""

from asynctasq.kernel.messages import Bury, Complete, DeadReason
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import LONG_S, Q, StoreUnderTest, ids, message


@conforms("enqueue: return the ids that are new, in the order given")
async def test_enqueue_returns_the_new_ids_in_the_order_given(store: StoreUnderTest) -> None:
    new = await store.driver.enqueue([message("b"), message("a"), message("c")])

    assert new == ["b", "a", "c"]


@conforms("enqueue: store the messages")
async def test_what_was_enqueued_is_what_is_reserved(store: StoreUnderTest) -> None:
    await store.driver.enqueue([message("m", body=b"\x00body\xff")])

    lease = await store.take_one()

    assert (lease.message_id, lease.queue, lease.body) == ("m", Q, b"\x00body\xff")
    assert (lease.attempt, lease.crashes) == (1, 0), "the first lease is attempt 1 after no crash"
    assert lease.token


@conforms("enqueue: all or none")
async def test_an_empty_batch_stores_nothing(store: StoreUnderTest) -> None:
    assert await store.driver.enqueue([]) == []

    await store.assert_depth()


@conforms("enqueue: while a message with an id lives, the same id again changes nothing", needs="idempotent_enqueue")
async def test_the_same_id_again_changes_nothing(store: StoreUnderTest) -> None:
    await store.put("m")

    again = await store.driver.enqueue([message("m", body=b"other", delay_s=1000)])

    assert again == []
    await store.assert_depth(ready=1)
    assert (await store.take_one()).body == b"m"


@conforms("enqueue: ... in whichever queue", needs="idempotent_enqueue")
async def test_the_same_id_in_another_queue_changes_nothing(store: StoreUnderTest) -> None:
    await store.put("m")

    again = await store.driver.enqueue([message("m", queue="elsewhere"), message("n", queue="elsewhere")])

    assert again == ["n"]
    await store.assert_depth(ready=1)
    await store.assert_depth(ready=1, queue="elsewhere")


@conforms("enqueue: within a batch the first of equal ids counts", needs="idempotent_enqueue")
async def test_the_first_of_equal_ids_in_a_batch_counts(store: StoreUnderTest) -> None:
    batch = [message("m", body=b"first"), message("n"), message("m", body=b"second", queue="elsewhere")]

    assert await store.driver.enqueue(batch) == ["m", "n"]

    await store.assert_depth(ready=2)
    await store.assert_depth(queue="elsewhere")
    assert {lease.body for lease in await store.take(2)} == {b"first", b"n"}


@conforms("enqueue: a reserved message lives", needs="idempotent_enqueue")
async def test_the_id_of_a_reserved_message_is_taken(store: StoreUnderTest) -> None:
    lease = await store.lease("m")

    assert await store.driver.enqueue([message("m")]) == []

    await store.settle((lease, Complete()))
    await store.assert_depth()


@conforms("enqueue: dead letters live", needs="idempotent_enqueue")
async def test_the_id_of_a_dead_letter_is_taken(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Bury(reason=DeadReason.FAILED)))

    assert await store.driver.enqueue([message("m")]) == []

    await store.assert_depth(dead=1)


@conforms("enqueue: a completed message no longer lives")
async def test_the_id_of_a_completed_message_is_free(store: StoreUnderTest) -> None:
    await store.settle((await store.lease("m"), Complete()))

    assert await store.driver.enqueue([message("m", body=b"again")]) == ["m"]

    lease = await store.take_one()
    assert (lease.body, lease.attempt, lease.crashes) == (b"again", 1, 0)


@conforms("enqueue: all or none", needs="atomic_enqueue")
async def test_a_large_batch_is_stored_whole(store: StoreUnderTest) -> None:
    count = store.sized(3000)
    names = [f"m{number}" for number in range(count)]

    assert await store.driver.enqueue([message(name) for name in names]) == names

    await store.assert_depth(ready=count)
    assert sorted(ids(await store.take(count))) == sorted(names)


@conforms("enqueue: the id is the key, all of it")
async def test_ids_that_look_alike_are_different(store: StoreUnderTest) -> None:
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

    assert await store.driver.enqueue([message(name) for name in names]) == names

    leases = await store.take(len(names))
    assert sorted(ids(leases)) == sorted(names)
    assert all(lease.body == lease.message_id.encode() for lease in leases)
    assert await store.driver.settle([(lease, Complete()) for lease in leases]) == set()


@conforms("queue names: 1 to 80 letters, digits, '_', '-', '.' or ':'")
async def test_every_valid_queue_name_is_a_queue_of_its_own(store: StoreUnderTest) -> None:
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
    await store.driver.enqueue([message(f"in {name}", queue=name) for name in names])

    for name in names:
        await store.assert_depth(ready=1, queue=name)
        assert ids(await store.driver.reserve([name], limit=5, lease_s=LONG_S, wait_s=0 if store.exact else 5)) == [
            f"in {name}"
        ]
