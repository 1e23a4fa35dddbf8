"""Bodies come back byte for byte, from none to the driver's limit."""

import random

from asynctasq.drivers.base import Settlements
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Release
from asynctasq.testing.conformance.running import conforms
from asynctasq.testing.conformance.store_under_test import Q, StoreUnderTest, message

TESTED_BYTES_MAX = 4 * 1024 * 1024


async def _assert_come_back(store: StoreUnderTest, bodies: dict[str, bytes]) -> None:
    assert await store.driver.enqueue([message(name, body=body) for name, body in bodies.items()]) == list(bodies)

    leases = await store.take(len(bodies))

    assert {lease.message_id for lease in leases} == set(bodies)
    for lease in leases:
        same = lease.body == bodies[lease.message_id]
        assert same, f"body {lease.message_id!r} of {len(bodies[lease.message_id])} bytes came back as another"
    await store.settle(*((lease, Complete()) for lease in leases))


@conforms("body: an empty one is a body")
async def test_an_empty_body_comes_back_empty(store: StoreUnderTest) -> None:
    await _assert_come_back(store, {"empty": b"", "one": b"\x00"})


@conforms("body: bytes, whatever they are")
async def test_every_byte_comes_back(store: StoreUnderTest) -> None:
    await _assert_come_back(store, {
        "all": bytes(range(256)),
        "zeros": bytes(64),
        "not utf-8": b"\xff\xfe\xc3\x28\xa0\xa1",
        "newlines": b"\r\n$5\r\nhello\r\n*0\r\n",
        "sql": b"'; DROP TABLE messages; -- \\ \" %s $1 ? :x",
        "json": b'{"__type__": "evil"}',
        "utf-8": "naïve 🎈 \u202e".encode(),
        "base64": b"AAECAw==",
        "escape": b"\\x00\\000\x1a\x08",
    })  # fmt: skip


@conforms("body: sizes around what servers treat differently")
async def test_sizes_around_powers_of_two_come_back(store: StoreUnderTest) -> None:
    rng = random.Random(3)
    sizes = [size + step for size in (64, 256, 4096, 65536) for step in (-1, 0, 1)]
    limit = store.capabilities.body_bytes_max
    await _assert_come_back(store, {f"{size}": rng.randbytes(size) for size in sizes if limit is None or size <= limit})


@conforms("body_bytes_max: a body of exactly that size is accepted")
async def test_a_body_at_the_limit_comes_back(store: StoreUnderTest) -> None:
    limit = min(store.capabilities.body_bytes_max or TESTED_BYTES_MAX, TESTED_BYTES_MAX)

    await _assert_come_back(store, {"m": random.Random(4).randbytes(limit)})


@conforms("body: kept through retries, dead letters and redrives")
async def test_a_body_survives_every_way_back(store: StoreUnderTest) -> None:
    body = random.Random(5).randbytes(30_000)
    await store.driver.enqueue([message("m", body=body)])
    lease = await store.take_one()
    await store.settle((lease, Release(counted=True)))
    lease = await store.take_one(lease_s=store.brief_s)
    assert lease.body == body
    await store.expire()
    lease = await store.take_one()
    assert lease.body == body

    if store.capabilities.redrive:
        await store.settle((lease, Bury(reason=DeadReason.FAILED)))
        assert await store.driver.redrive(Q, limit=1) == 1
        assert (await store.take_one()).body == body


@conforms("settle: an error text of any size and any character is accepted")
async def test_errors_of_any_text_are_accepted(store: StoreUnderTest) -> None:
    errors = [
        ErrorRecord(type="E", message=""),
        ErrorRecord(type="Ünïcode.Error", message="🎈 \x00 \ud800 '\"\\ %s", traceback="a\r\nb\n" * 50),
        ErrorRecord(type="Long", message="x" * 20_000, traceback="y" * 60_000),
    ]
    names = [f"m{number}" for number in range(len(errors))]
    await store.put(*names)
    leases = await store.take(len(names))

    first: Settlements = [
        (lease, Release(counted=True, error=error)) for lease, error in zip(leases, errors, strict=True)
    ]
    assert await store.driver.settle(first) == set()
    second: Settlements = [
        (lease, Bury(reason=DeadReason.FAILED, error=error))
        for lease, error in zip(await store.take(len(names)), errors, strict=True)
    ]
    assert await store.driver.settle(second) == set()

    await store.assert_depth(dead=len(names))
