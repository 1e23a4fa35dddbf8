"""Faults between the SQS driver and SQS: lost replies, throttling, half-done batches, duplicates, a killed server."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from asynctasq.drivers.base import Settlements
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Depth, Lease, Message, Release
from asynctasq.testing.servers import start_server
from tests.patience import SOON_S, patient_s

from .fixtures import *  # noqa: F403 - fixtures, found by their names
from .fixtures import REGION
from .proxy import Fault, FaultProxy, SeenRequest, first

EMPTY = Depth(ready=0, scheduled=0, reserved=0, dead=0)
LOSE_REPLY = Fault("lose")
ALWAYS = 1_000


@pytest.fixture
async def driver(proxy: FaultProxy, prefix: str) -> AsyncGenerator[SQSDriver, None]:
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix)
    await driver.reserve(["q"], limit=1, lease_s=1)  # makes the queue, undisturbed
    yield driver
    proxy.plan = lambda _: None
    await driver.close()


def messages(*names: str, delay_s: float = 0.0) -> list[Message]:
    return [Message(id=name, queue="q", body=name.encode(), delay_s=delay_s) for name in names]


async def take(driver: SQSDriver, count: int, *, lease_s: float = 60) -> list[Lease]:
    """Reserve exactly so many."""
    leases: list[Lease] = []
    async with asyncio.timeout(SOON_S):
        while len(leases) < count:
            leases += await driver.reserve(["q"], limit=count - len(leases), lease_s=lease_s, wait_s=1)
    return leases


def names_of(leases: Sequence[Lease]) -> list[str]:
    return sorted(lease.message_id for lease in leases)


def ids_in(seen: SeenRequest) -> list[str]:
    return [json.loads(entry["MessageBody"])["id"] for entry in seen.body["Entries"]]


# -- lost replies --------------------------------------------------------------------------------


async def test_a_send_whose_reply_is_lost_loses_nothing(driver: SQSDriver, proxy: FaultProxy) -> None:
    proxy.plan = first("SendMessageBatch", LOSE_REPLY)

    assert await driver.enqueue(messages("a", "b")) == ["a", "b"]

    assert proxy.requests["SendMessageBatch"] == 2
    leases = await take(driver, 2)
    assert names_of(leases) == ["a", "b"], "both copies of each are one lease"
    assert await driver.reserve(["q"], limit=10, lease_s=60, wait_s=1) == []
    assert await driver.settle([(lease, Complete()) for lease in leases]) == set()
    assert await driver.depth("q") == EMPTY


async def test_a_delete_whose_reply_is_lost_is_not_a_lost_lease(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("m"))
    leases = await take(driver, 1)
    proxy.plan = first("DeleteMessageBatch", LOSE_REPLY)

    assert await driver.settle([(leases[0], Complete())]) == set()

    assert await driver.depth("q") == EMPTY


async def test_a_receive_whose_reply_is_lost_gives_the_message_back_when_the_lease_ends(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue(messages("m"))
    proxy.plan = first("ReceiveMessage", LOSE_REPLY)

    (lease,) = await take(driver, 1, lease_s=1)

    assert (lease.attempt, lease.crashes) == (1, 1), "a lease nobody got is a lease that ended without settling"


async def test_a_connection_cut_before_the_request_is_tried_again(driver: SQSDriver, proxy: FaultProxy) -> None:
    for operation in ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"):
        proxy.plan = first(operation, Fault("refuse"))
        await driver.enqueue(messages(operation))
        (lease,) = await take(driver, 1)
        assert (lease.message_id, lease.crashes) == (operation, 0)
        assert await driver.settle([(lease, Complete())]) == set()


# -- busy and forbidden --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 503, "ServiceUnavailable"),
        Fault("status", 429, "TooManyRequestsException"),
        Fault("status", 400, "RequestThrottled"),
    ],
    ids=str,
)
async def test_a_burst_of_refusals_is_waited_out(driver: SQSDriver, proxy: FaultProxy, fault: Fault) -> None:
    for operation in ("SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch"):
        proxy.plan = first(operation, fault, times=2)
        await driver.enqueue(messages(operation))
        (lease,) = await take(driver, 1)
        assert await driver.settle([(lease, Complete())]) == set()

    assert await driver.depth("q") == EMPTY


async def test_a_long_outage_is_an_unavailable_driver_and_then_over(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1)
    proxy.plan = lambda _: Fault("status", 503)
    for call in (
        lambda: driver.enqueue(messages("n")),
        lambda: driver.reserve(["q"], limit=1, lease_s=60),
        lambda: driver.extend([lease], lease_s=60),
        lambda: driver.settle([(lease, Complete())]),
        lambda: driver.turn([(lease, Complete())], ["q"], limit=1, lease_s=60),
        lambda: driver.depth("q"),
    ):
        with pytest.raises(DriverUnavailable):
            await call()
    with pytest.raises(DriverUnavailable):
        async with asyncio.timeout(SOON_S):
            while True:  # botocore's own tries take longer than this wait; a later reserve must tell all the same
                assert await driver.reserve(["q"], limit=1, lease_s=60, wait_s=1) == []

    proxy.plan = lambda _: None

    assert await driver.settle([(lease, Complete())]) == set()
    assert await driver.depth("q") == EMPTY


async def test_what_the_policy_forbids_is_misconfigured(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1)
    proxy.plan = lambda _: Fault("status", 403, "AccessDenied")

    with pytest.raises(DriverMisconfigured, match="not stored"):
        await driver.enqueue(messages("n"))
    with pytest.raises(DriverMisconfigured, match="check the credentials"):
        await driver.settle([(lease, Complete())])
    with pytest.raises(DriverMisconfigured):
        await driver.reserve(["q"], limit=1, lease_s=60, wait_s=1)


async def test_a_reply_that_is_no_sqs_reply_is_an_unavailable_driver(proxy: FaultProxy) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<html")
        await writer.drain()
        writer.close()

    stranger = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{stranger.sockets[0].getsockname()[1]}"
    driver = SQSDriver(region=REGION, endpoint_url=url)

    with pytest.raises(DriverError):
        await driver.enqueue(messages("m"))

    await driver.close()
    stranger.close()
    await stranger.wait_closed()


# -- half-done batches ---------------------------------------------------------------------------


async def test_a_half_done_batch_is_finished_entry_by_entry(driver: SQSDriver, proxy: FaultProxy) -> None:
    names = [f"m{number}" for number in range(10)]
    half = Fault("half")
    proxy.plan = first("SendMessageBatch", half, times=3)
    assert await driver.enqueue(messages(*names)) == names

    leases = await take(driver, 10)
    proxy.plan = first("ChangeMessageVisibilityBatch", half, times=3)
    assert await driver.extend(leases, lease_s=60) == set()
    proxy.plan = first("DeleteMessageBatch", half, times=3)
    assert await driver.settle([(lease, Complete()) for lease in leases]) == set()

    assert names_of(leases) == sorted(names)
    sizes = [len(seen.body["Entries"]) for seen in proxy.log if seen.operation == "DeleteMessageBatch"]
    assert sizes == [10, 5, 3, 2], "only what failed is asked again"
    assert await driver.depth("q") == EMPTY


async def test_a_batch_that_stays_half_done_says_what_was_stored(driver: SQSDriver, proxy: FaultProxy) -> None:
    names = [f"m{number}" for number in range(4)]
    proxy.plan = first("SendMessageBatch", Fault("half"), times=2)
    stuck = proxy.plan
    proxy.plan = lambda seen: stuck(seen) or (Fault("status", 503) if seen.operation == "SendMessageBatch" else None)

    with pytest.raises(DriverUnavailable) as caught:
        await driver.enqueue(messages(*names))

    proxy.plan = lambda _: None
    text = str(caught.value)
    assert "of 4 messages were not stored" in text
    stored = text.partition("; stored: ")[2].partition(";")[0].split(", ")
    assert names_of(await take(driver, len(stored))) == sorted(stored)
    assert await driver.reserve(["q"], limit=10, lease_s=60, wait_s=1) == []


async def test_one_entry_that_sqs_refuses_does_not_stop_the_others(driver: SQSDriver, proxy: FaultProxy) -> None:
    def plan(seen: SeenRequest) -> Fault | None:
        poisoned = seen.operation == "SendMessageBatch" and "bad" in ids_in(seen)
        return Fault("status", 400, "InvalidParameterValue") if poisoned else None

    proxy.plan = plan
    with pytest.raises(DriverMisconfigured, match="1 of 3 messages were not stored"):
        await driver.enqueue(messages("a", "bad", "c"))

    assert names_of(await take(driver, 2)) == ["a", "c"]


# -- between two calls ---------------------------------------------------------------------------


async def test_a_settlement_that_failed_after_its_send_is_not_sent_again(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("retried", "dead", "done"))
    leases = {lease.message_id: lease for lease in await take(driver, 3)}
    settlements: Settlements = [
        (leases["retried"], Release(counted=True)),
        (leases["dead"], Bury(reason=DeadReason.FAILED)),
        (leases["done"], Complete(follow_ups=tuple(messages("next", delay_s=300)))),
    ]
    proxy.plan = first("DeleteMessageBatch", Fault("status", 503), times=ALWAYS)
    with pytest.raises(DriverUnavailable, match="repeating is safe"):
        await driver.settle(settlements)
    proxy.plan = lambda _: None

    assert await driver.settle(settlements) == set(), "the repetition finishes it and calls nothing lost"

    assert await driver.depth("q") == Depth(ready=1, scheduled=1, reserved=0, dead=1)
    assert [lease.attempt for lease in await take(driver, 1)] == [2]
    assert await driver.settle(settlements) == {"retried", "dead", "done"}


async def test_a_settlement_that_failed_to_send_keeps_the_message(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("m", "n"))
    by_id = {lease.message_id: lease for lease in await take(driver, 2)}
    proxy.plan = first("SendMessageBatch", Fault("status", 503), times=ALWAYS)

    with pytest.raises(DriverUnavailable, match="1 of 2 settlements"):
        await driver.settle([(by_id["m"], Release(counted=True)), (by_id["n"], Complete())])

    proxy.plan = lambda _: None
    assert await driver.depth("q") == Depth(ready=0, scheduled=0, reserved=1, dead=0)
    assert await driver.settle([(by_id["m"], Release(counted=True))]) == set()
    assert [lease.attempt for lease in await take(driver, 1)] == [2]


async def test_a_worker_that_dies_between_send_and_delete_leaves_two_copies_never_none(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1, lease_s=2)
    proxy.plan = first("DeleteMessageBatch", Fault("refuse"), times=ALWAYS)
    dying = asyncio.create_task(driver.settle([(lease, Release(counted=True))]))
    async with asyncio.timeout(SOON_S):
        while not proxy.requests["DeleteMessageBatch"]:
            proxy.arrived.clear()
            await proxy.arrived.wait()
    await driver.close()
    with pytest.raises(DriverUnavailable, match=r"closed during settling|not done"):
        await dying
    proxy.plan = lambda _: None
    another = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=driver._directory.names.prefix)

    leases = await take(another, 1)
    async with asyncio.timeout(SOON_S):
        while len(leases) < 2 and (await another.depth("q")).ready:
            leases += await another.reserve(["q"], limit=10, lease_s=60, wait_s=1)

    assert ("m", 2) in {(lease.message_id, lease.attempt) for lease in leases}
    await another.close()


async def test_a_redrive_that_fails_midway_loses_no_dead_letter(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue(messages("a", "b"))
    await driver.settle([(lease, Bury(reason=DeadReason.FAILED)) for lease in await take(driver, 2)])
    proxy.plan = first("SendMessageBatch", Fault("status", 503), times=ALWAYS)
    with pytest.raises(DriverUnavailable):
        await driver.redrive("q", limit=10)

    proxy.plan = lambda _: None

    assert (await driver.depth("q")).dead == 2
    assert (await driver.depth("q")).ready == 0


async def test_in_a_turn_a_failed_settlement_loses_no_message_received_meanwhile(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1)
    await driver.enqueue(messages("n"))
    proxy.plan = first("DeleteMessageBatch", Fault("status", 503), times=ALWAYS)
    with pytest.raises(DriverUnavailable):
        await driver.turn([(lease, Complete())], ["q"], limit=5, lease_s=60)
    proxy.plan = lambda _: None

    (other,) = await take(driver, 1)

    assert (other.message_id, other.crashes) == ("n", 0)


async def test_in_a_turn_settlements_that_are_done_are_not_hidden_by_a_failed_receive(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1)
    proxy.plan = first("ReceiveMessage", Fault("status", 503), times=ALWAYS)

    assert await driver.turn([(lease, Complete())], ["q"], limit=5, lease_s=60) == (set(), [])

    with pytest.raises(DriverUnavailable):
        await driver.turn([], ["q"], limit=5, lease_s=60)


async def test_a_message_delivered_again_after_its_delete_is_not_run_again(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue(messages("m"))
    (lease,) = await take(driver, 1)
    held = driver._registry.find(lease, 0)
    assert held is not None
    assert await driver.settle([(lease, Complete())]) == set()

    assert all(driver._registry.was_deleted(sqs_id) for sqs_id in held.receipts)


# -- a server that dies --------------------------------------------------------------------------


async def test_a_server_killed_and_restarted_is_found_again() -> None:
    server = await asyncio.to_thread(start_server, "sqs")
    driver = SQSDriver(region=REGION, endpoint_url=server.url)
    try:
        await driver.enqueue(messages("before"))
        (lease,) = await take(driver, 1)
        waiting = asyncio.create_task(driver.reserve(["q"], limit=1, lease_s=60, wait_s=20))
        await asyncio.to_thread(server.stop, kill=True)
        for call in (driver.enqueue(messages("down")), waiting, driver.settle([(lease, Complete())])):
            with pytest.raises(DriverUnavailable):
                await call

        await asyncio.to_thread(server.start)

        assert await driver.settle([(lease, Complete())]) == {"before"}, "this server keeps nothing"
        assert await driver.enqueue(messages("after")) == ["after"]
        assert names_of(await take(driver, 1)) == ["after"]
    finally:
        await driver.close()
        await asyncio.to_thread(server.remove)


# -- all together --------------------------------------------------------------------------------


@dataclass
class RandomFaults:
    """Disturbs a share of the requests, by a seed; remembers which messages it may have made two of."""

    rng: random.Random
    doubled: set[str] = field(default_factory=set)
    met: Counter[str] = field(default_factory=Counter)

    def __call__(self, seen: SeenRequest) -> Fault | None:
        if seen.operation in ("GetQueueUrl", "CreateQueue", "GetQueueAttributes") or self.rng.random() > 0.25:
            return None
        kinds = ["lose", "refuse", "status"]
        kinds += ["half"] if "Batch" in seen.operation else []
        kinds += ["twice"] if seen.operation != "ReceiveMessage" else []
        kind = self.rng.choice(kinds)
        self.met[f"{seen.operation} {kind}"] += 1
        if seen.operation == "SendMessageBatch" and kind in ("lose", "twice"):
            self.doubled.update(ids_in(seen))
        return Fault(kind, self.rng.choice([429, 500, 503]), "ServiceUnavailable")


@dataclass
class Worker:
    """Runs what it gets: fails each message's first attempt, completes the second. Keeps a ledger."""

    driver: SQSDriver
    runs: Counter[tuple[str, int]]
    late: set[str]
    done: set[str]

    async def work(self, total: int) -> None:
        while len(self.done) < total:
            leases = await retry_until_done(lambda: self.driver.reserve(["q"], limit=10, lease_s=5, wait_s=1))
            settlements: list[tuple[Lease, Any]] = []
            for lease in leases:
                self.runs[lease.message_id, lease.attempt] += 1
                end = Release(counted=True) if lease.attempt == 1 else Complete()
                settlements.append((lease, end))
            lost = await retry_until_done(lambda ends=settlements: self.driver.settle(ends)) if settlements else set()
            for lease, end in settlements:
                if self.driver._clock.local() > lease.expires_at:
                    self.late.add(lease.message_id)
                if isinstance(end, Complete) and lease.message_id not in lost:
                    self.done.add(lease.message_id)


async def retry_until_done(call: Any) -> Any:
    while True:
        try:
            return await call()
        except DriverUnavailable:
            continue


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_under_all_faults_nothing_is_lost_and_every_extra_run_has_a_reason(
    driver: SQSDriver, proxy: FaultProxy, seed: int
) -> None:
    names = [f"m{number}" for number in range(40)]
    faults = RandomFaults(random.Random(seed))
    second = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=driver._directory.names.prefix)
    workers = [Worker(driver, Counter(), set(), set()) for driver in (driver, second)]
    workers[1].done = workers[0].done
    proxy.plan = faults
    stored: set[str] = set()
    for start in range(0, 40, 10):
        try:
            stored.update(await driver.enqueue(messages(*names[start : start + 10])))
        except DriverUnavailable:
            stored.update(names[start : start + 10])
            proxy.plan = lambda _: None
            await driver.enqueue(messages(*names[start : start + 10]))
            faults.doubled.update(names[start : start + 10])
            proxy.plan = faults

    async with asyncio.timeout(patient_s(150)):
        await asyncio.gather(*(worker.work(len(names)) for worker in workers))

    proxy.plan = lambda _: None
    await second.close()
    runs = workers[0].runs + workers[1].runs
    late = workers[0].late | workers[1].late
    assert stored == set(names) == workers[0].done, "nothing is lost"
    assert {attempt for _, attempt in runs} >= {1, 2}
    extra = {name for (name, attempt), count in runs.items() if count > 1 or attempt > 2}
    unexplained = extra - faults.doubled - late
    assert not unexplained, f"ran again without a doubled send or a late settlement: {unexplained} ({faults.met})"
    assert sum(faults.met.values()) > 5
