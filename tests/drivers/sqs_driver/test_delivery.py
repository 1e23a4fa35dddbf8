"""How messages come back, die and are delayed on SQS: counts, dead letters, duplicates, forwarding and FIFO queues."""

import asyncio
import json
from typing import Any

import pytest

from asynctasq.clock import SystemClock
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Depth, ErrorRecord, Release
from asynctasq.testing.servers import Server
from tests.patience import until

from .fixtures import *  # noqa: F403 - fixtures, found by their names
from .fixtures import REGION, attributes_of, message, take, take_one, url_of
from .proxy import Fault, FaultProxy, first

# -- settling ------------------------------------------------------------------------------------


async def test_counts_survive_every_way_back(driver: SQSDriver) -> None:
    await driver.enqueue([message("m")])
    ends = [Release(counted=True), Release(counted=False), Release(counted=True, crashed=True), Release(counted=False)]
    for end in ends:
        assert await driver.settle([(await take_one(driver), end)]) == set()

    lease = await take_one(driver, lease_s=1)

    assert (lease.attempt, lease.crashes) == (3, 1)
    again = await take_one(driver)
    assert (again.attempt, again.crashes, again.enqueued_at) == (3, 2, lease.enqueued_at)


async def test_a_dead_letter_tells_the_console_why(driver: SQSDriver, raw: Any, prefix: str) -> None:
    await driver.enqueue([message("m")])
    error = ErrorRecord(type="ValueError", message="bad \ud800", traceback="line 1\nline 2")
    await driver.settle([(await take_one(driver), Bury(reason=DeadReason.FAILED, counted=True, error=error))])

    dead = await raw.receive_message(QueueUrl=await url_of(raw, f"{prefix}q-dead"), MessageAttributeNames=["All"])
    header = json.loads(dead["Messages"][0]["Body"])

    assert (header["id"], header["dead"], header["attempts"]) == ("m", "failed", 1)
    assert header["error"] == ["ValueError", "bad \ud800", "line 1\nline 2"]
    assert dead["Messages"][0]["MessageAttributes"]["body"]["BinaryValue"] == b"body"


async def test_a_redrive_of_the_console_starts_again_at_attempt_1(driver: SQSDriver, raw: Any, prefix: str) -> None:
    await driver.enqueue([message("m")])
    await driver.settle([(await take_one(driver), Release(counted=True, crashed=True))])
    await driver.settle([(await take_one(driver), Bury(reason=DeadReason.CRASHED, counted=True))])
    dead_url = await url_of(raw, f"{prefix}q-dead")
    (dead,) = (await raw.receive_message(QueueUrl=dead_url, MessageAttributeNames=["All"]))["Messages"]
    await raw.send_message(
        QueueUrl=await url_of(raw, f"{prefix}q"),
        MessageBody=dead["Body"],
        MessageAttributes=dead["MessageAttributes"],
    )
    await raw.delete_message(QueueUrl=dead_url, ReceiptHandle=dead["ReceiptHandle"])

    lease = await take_one(driver)

    assert (lease.message_id, lease.body, lease.attempt, lease.crashes) == ("m", b"body", 1, 0)
    await driver.settle([(lease, Complete())])
    assert await driver.depth("q") == Depth(ready=0, scheduled=0, reserved=0, dead=0)


async def test_what_sqs_itself_moved_to_the_dead_letters_can_be_redriven(
    driver: SQSDriver, raw: Any, prefix: str
) -> None:
    await driver.enqueue([message("m")])
    (copy,) = (await raw.receive_message(QueueUrl=await url_of(raw, f"{prefix}q"), MessageAttributeNames=["All"]))[
        "Messages"
    ]
    await raw.send_message(
        QueueUrl=await url_of(raw, f"{prefix}q-dead"),
        MessageBody=copy["Body"],
        MessageAttributes=copy["MessageAttributes"],
    )

    assert await driver.redrive("q", limit=10) == 1

    lease = await take_one(driver)
    assert (lease.message_id, lease.attempt, lease.crashes) == ("m", 1, 0)


async def test_two_copies_of_a_message_run_once_while_one_worker_has_both(driver: SQSDriver) -> None:
    await driver.enqueue([message("m")])
    await driver.enqueue([message("m")])

    leases = await take(driver, limit=10)
    while len(leases) == 0 or (await driver.depth("q")).ready:
        leases += await take(driver, limit=10, wait_s=1)

    assert len(leases) == 1
    assert await driver.extend(leases, lease_s=90) == set()
    assert await driver.settle([(leases[0], Complete())]) == set()
    assert await driver.depth("q") == Depth(ready=0, scheduled=0, reserved=0, dead=0)


async def test_a_stale_lease_is_refused_by_who_granted_the_later_one(driver: SQSDriver) -> None:
    await driver.enqueue([message("m")])
    stale = await take_one(driver, lease_s=1)
    latest = await take_one(driver)

    for end in (Complete(), Release(counted=True), Bury(reason=DeadReason.FAILED)):
        assert await driver.settle([(stale, end)]) == {"m"}
    assert await driver.extend([stale], lease_s=30) == {"m"}
    assert await driver.settle([(latest, Complete())]) == set()
    assert await driver.settle([(latest, Complete())]) == {"m"}


async def test_a_message_settled_through_another_driver_is_leased_again(driver: SQSDriver, server: Server) -> None:
    other = SQSDriver(region=REGION, endpoint_url=server.url, queue_name_prefix=driver._directory.names.prefix)
    await driver.enqueue([message("m")])
    lease = await take_one(driver)

    assert await other.extend([lease], lease_s=60) == set()
    assert await other.settle([(lease, Release(counted=True))]) == set()

    assert (await take_one(driver)).attempt == 2
    await other.close()


async def test_settlements_of_one_lease_at_once_count_once(driver: SQSDriver) -> None:
    await driver.enqueue([message("m")])
    lease = await take_one(driver)

    lost = await asyncio.gather(*(driver.settle([(lease, Release(counted=True))]) for _ in range(5)))

    assert sorted(map(len, lost)) == [0, 1, 1, 1, 1]
    assert (await driver.depth("q")).ready == 1
    assert (await take_one(driver)).attempt == 2


async def test_a_cancelled_settlement_goes_on_and_its_repetition_waits_for_it(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.enqueue([message("m")])
    lease = await take_one(driver)
    proxy.plan = first("SendMessageBatch", Fault("hold"))
    cancelled = asyncio.create_task(driver.settle([(lease, Release(counted=True))]))
    before = proxy.requests["SendMessageBatch"]
    await until(lambda: proxy.requests["SendMessageBatch"] > before)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    repeated = asyncio.create_task(driver.settle([(lease, Release(counted=True))]))
    await asyncio.sleep(0)
    proxy.held.set()

    assert await repeated == {"m"}

    assert (await take_one(driver)).attempt == 2
    assert (await driver.depth("q")).ready == 0


async def test_a_late_retry_asks_sqs_whether_the_lease_is_still_ours(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message("m")])
    lease = await take_one(driver, lease_s=1)
    await until(lambda: driver._clock.now() > lease.expires_at)

    assert await driver.settle([(lease, Release(counted=True))]) == set()

    assert proxy.requests["ChangeMessageVisibilityBatch"] == 1
    assert (await take_one(driver)).attempt == 2


class JumpingClock(SystemClock):
    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


async def test_at_the_end_of_twelve_hours_a_lease_is_lost_in_words(
    proxy: FaultProxy, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = JumpingClock()
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix, clock=clock)
    await driver.enqueue([message("m")])
    lease = await take_one(driver)
    clock.ahead_s = 12 * 3600 - 20
    proxy.log.clear()

    assert await driver.extend([lease], lease_s=30) == {"m"}

    (hidden,) = [seen for seen in proxy.log if seen.operation == "ChangeMessageVisibilityBatch"]
    assert 15 <= hidden.body["Entries"][0]["VisibilityTimeout"] < 20, "hidden for as long as SQS still allows"
    assert "almost 12 hours" in caplog.text
    await driver.close()


async def test_sqs_s_own_refusal_to_extend_is_a_lost_lease(driver: SQSDriver) -> None:
    await driver.enqueue([message("m"), message("n")])
    leases = await take(driver, limit=2)
    while len(leases) < 2:
        leases += await take(driver, limit=1)
    foreign = SQSDriver(region=REGION, endpoint_url=driver._endpoint.endpoint_url, queue_name_prefix="x-")
    foreign._directory = driver._directory

    assert await foreign.extend(leases, lease_s=60) == set()
    assert await foreign.extend(leases, lease_s=43_200) == {"m", "n"}, "12 hours from the receive, not from now"
    await foreign.close()


# -- forwarding ----------------------------------------------------------------------------------


async def test_a_delay_beyond_sqs_is_asked_for_in_steps(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message("m", delay_s=3600)])

    (sent,) = [seen for seen in proxy.log if seen.operation == "SendMessageBatch"]
    assert sent.body["Entries"][0]["DelaySeconds"] == 900
    assert (await driver.depth("q")).scheduled == 1


async def send_forwarded(driver: SQSDriver, raw: Any, prefix: str, *, due_in_s: float, **more: Any) -> None:
    await driver.reserve(["q"], limit=1, lease_s=1)
    text = json.dumps({"asynctasq": 1, "id": "m", "due_in_us": round(due_in_s * 1e6), **more})
    await raw.send_message(QueueUrl=await url_of(raw, f"{prefix}q"), MessageBody=text)


async def test_the_last_copy_is_sent_again_and_neither_early_nor_counted(
    driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str
) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await send_forwarded(driver, raw, prefix, due_in_s=2.5, attempts=1, crashes=2)

    lease = await take_one(driver, wait_s=10)

    assert loop.time() - started >= 2.5
    assert (lease.attempt, lease.crashes, lease.body) == (2, 2, b"")
    assert proxy.requests["SendMessageBatch"] == 1
    assert await driver.settle([(lease, Complete())]) == set()


async def test_a_copy_that_is_not_due_is_hidden_not_leased(
    driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str
) -> None:
    await send_forwarded(driver, raw, prefix, due_in_s=5000)

    assert await take(driver, wait_s=1) == []

    await until(lambda: proxy.requests["ChangeMessageVisibilityBatch"])
    (hidden,) = [seen for seen in proxy.log if seen.operation == "ChangeMessageVisibilityBatch"]
    assert 4390 <= hidden.body["Entries"][0]["VisibilityTimeout"] <= 4400
    assert (await driver.depth("q")).reserved == 1


async def test_a_copy_that_sqs_will_not_hide_is_sent_again(
    driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str
) -> None:
    proxy.plan = first("ChangeMessageVisibilityBatch", Fault("status", 400, "InvalidParameterValue"))
    await send_forwarded(driver, raw, prefix, due_in_s=5000)

    assert await take(driver, wait_s=1) == []

    await until(lambda: proxy.requests["DeleteMessageBatch"])
    (sent,) = [seen for seen in proxy.log if seen.operation == "SendMessageBatch"]
    assert sent.body["Entries"][0]["DelaySeconds"] == 900
    assert (await driver.depth("q")).scheduled == 1


async def test_a_message_of_a_newer_version_stays(
    driver: SQSDriver, raw: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.enqueue([message("known")])
    text = json.dumps({"asynctasq": 2, "id": "m"})
    await raw.send_message(QueueUrl=await url_of(raw, f"{prefix}q"), MessageBody=text)

    leases = await take(driver, limit=10, wait_s=1) + await take(driver, limit=10, wait_s=1)

    assert [lease.message_id for lease in leases] == ["known"]
    assert "newer worker" in caplog.text
    assert (await driver.depth("q")).reserved == 2


# -- FIFO ----------------------------------------------------------------------------------------


async def test_a_fifo_queue_goes_by_arrival_and_drops_equal_ids(driver: SQSDriver, raw: Any, prefix: str) -> None:
    names = [f"m{number}" for number in range(12)]
    await driver.enqueue([message(name, queue="o.fifo") for name in names])
    await driver.enqueue([message("m3", queue="o.fifo")])

    seen: list[str] = []
    while len(seen) < 12:
        leases = await take(driver, limit=5, queue="o.fifo")
        seen += [lease.message_id for lease in leases]
        await driver.settle([(lease, Complete()) for lease in leases])

    assert seen == names
    assert await driver.depth("o.fifo") == Depth(ready=0, scheduled=0, reserved=0, dead=0)
    assert (await attributes_of(raw, f"{prefix}o-dead.fifo"))["FifoQueue"] == "true"


async def test_a_delay_in_a_fifo_queue_is_kept_and_holds_up_nobody(driver: SQSDriver) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await driver.enqueue([message("later", queue="o.fifo", delay_s=2.5), message("now", queue="o.fifo")])

    now = await take_one(driver, queue="o.fifo")
    assert now.message_id == "now"
    await driver.settle([(now, Complete())])
    later = await take_one(driver, queue="o.fifo", wait_s=10)

    assert (later.message_id, later.crashes) == ("later", 0)
    assert loop.time() - started >= 2.5


async def test_fifo_retries_dead_letters_and_redrives(driver: SQSDriver) -> None:
    await driver.enqueue([message("m", queue="o.fifo")])
    for _ in range(2):
        await driver.settle([(await take_one(driver, queue="o.fifo"), Release(counted=True))])
    lease = await take_one(driver, queue="o.fifo")
    assert lease.attempt == 3
    await driver.settle([(lease, Bury(reason=DeadReason.FAILED))])
    assert (await driver.depth("o.fifo")).dead == 1

    assert await driver.redrive("o.fifo", limit=1) == 1

    assert (await take_one(driver, queue="o.fifo")).attempt == 1


async def test_a_fifo_queue_of_one_group_per_message_runs_side_by_side(server: Server, prefix: str) -> None:
    driver = SQSDriver(region=REGION, endpoint_url=server.url, queue_name_prefix=prefix, fifo=True, fifo_ordered=False)
    await driver.enqueue([message("a"), message("b")])

    first_lease, second_lease = await take_one(driver), await take_one(driver)

    assert {first_lease.message_id, second_lease.message_id} == {"a", "b"}
    await driver.close()
