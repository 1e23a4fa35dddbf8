"""What only the SQS driver has: its addresses, its queues, long polls, hops, dead letters, duplicates and costs."""

import asyncio
import gc
import json
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any

import pytest
from aiobotocore.session import AioSession

from asynctasq.clock import SystemClock
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import BodyTooLarge, ConfigError, DispatchError, DriverMisconfigured, UnknownQueue
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Depth, ErrorRecord, Lease, Message, Release
from asynctasq.testing.servers import Server, start_server

from .sqs_proxy import Fault, FaultProxy, first

REGION = "eu-central-1"
SECRET = "not-to-be-seen"


@pytest.fixture(scope="module")
def server() -> Generator[Server, None, None]:
    server = start_server("sqs")
    yield server
    server.remove()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.name)) % 10**9}-"


@pytest.fixture
async def proxy(server: Server) -> AsyncGenerator[FaultProxy, None]:
    async with FaultProxy(server.url) as proxy:
        yield proxy


@pytest.fixture
async def driver(proxy: FaultProxy, prefix: str) -> AsyncGenerator[SQSDriver, None]:
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix)
    yield driver
    await driver.close()


@pytest.fixture
async def raw(server: Server) -> AsyncGenerator[Any, None]:
    """A plain client, as the console is."""
    session: Any = AioSession()
    async with session.create_client("sqs", region_name=REGION, endpoint_url=server.url) as client:
        yield client


def message(message_id: str, *, queue: str = "q", body: bytes = b"body", delay_s: float = 0.0) -> Message:
    return Message(id=message_id, queue=queue, body=body, delay_s=delay_s)


async def take(
    driver: SQSDriver, *, limit: int = 1, queue: str = "q", lease_s: float = 60, wait_s: float = 5
) -> list[Lease]:
    return await driver.reserve([queue], limit=limit, lease_s=lease_s, wait_s=wait_s)


async def take_one(driver: SQSDriver, **how: Any) -> Lease:
    leases = await take(driver, **how)
    assert len(leases) == 1
    return leases[0]


async def url_of(raw: Any, name: str) -> str:
    url: str = (await raw.get_queue_url(QueueName=name))["QueueUrl"]
    return url


async def attributes_of(raw: Any, name: str) -> dict[str, str]:
    reply = await raw.get_queue_attributes(QueueUrl=await url_of(raw, name), AttributeNames=["All"])
    found: dict[str, str] = reply["Attributes"]
    return found


# -- addresses -----------------------------------------------------------------------------------


def test_a_url_names_region_and_options() -> None:
    driver = create_driver("sqs://eu-north-1?endpoint_url=http://127.0.0.1:5000&create_queues=no&fifo=1")

    assert isinstance(driver, SQSDriver)
    assert driver._endpoint.region == "eu-north-1"
    assert driver._endpoint.endpoint_url == "http://127.0.0.1:5000"
    assert str(driver) == "SQS at http://127.0.0.1:5000"


def test_without_a_region_botocore_finds_one() -> None:
    assert str(create_driver("sqs")) == "SQS in the default region"
    assert str(create_driver("sqs://?queue_name_prefix=p-")) == "SQS in the default region, queues p-*"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"sqs://AKIA:{SECRET}@eu-central-1", "takes no credentials"),
        ("sqs://eu-central-1/queue", "is not valid"),
        ("sqs://eu-central-1:99", "is not valid"),
        ("sqs://?regoin=x", "did you mean 'region'"),
        ("sqs://?create_queues=maybe", "must be a bool"),
        ("sqs://?endpoint_url=localhost:5000", "endpoint_url must be"),
        ("sqs://?queue_url_prefix=queues", "queue_url_prefix must be"),
        ("sqs://?message_bytes_max=1000", "message_bytes_max must be"),
        ("sqs://?clock_offset=1", "clock_offset must be 0"),
        ("sqs://?queue_name_prefix=a.b", "queue_name_prefix"),
    ],
)
def test_a_wrong_address_is_a_config_error_without_secrets(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        create_driver(url)

    assert SECRET not in str(caught.value)


def test_the_clock_of_sqs_can_not_be_shifted() -> None:
    driver = SQSDriver()
    driver.clock_offset = 0.0

    with pytest.raises(ConfigError, match="can't be shifted"):
        driver.clock_offset = 5.0


async def test_without_a_region_or_credentials_open_says_what_to_set(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DriverMisconfigured, match="AWS_DEFAULT_REGION"):
        await SQSDriver().open()

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    driver = SQSDriver(region=REGION, endpoint_url=server.url)
    with pytest.raises(DriverMisconfigured, match="AWS_ACCESS_KEY_ID"):
        await driver.open()


async def test_open_tells_refused_credentials_from_a_queue_that_need_not_exist(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.open()
    await driver.open()
    assert proxy.requests == {"GetQueueUrl": 1}
    await driver.close()
    proxy.plan = first("GetQueueUrl", Fault("status", 403, "InvalidClientTokenId"))

    with pytest.raises(DriverMisconfigured, match="check the credentials") as caught:
        await driver.open()

    assert SECRET not in str(caught.value)
    await driver.open()


# -- queues --------------------------------------------------------------------------------------


async def test_a_queue_is_created_with_its_dead_letters_beside_it(driver: SQSDriver, raw: Any, prefix: str) -> None:
    await driver.enqueue([message("m", queue="mail.eu:1")])

    made = await attributes_of(raw, f"{prefix}mail-_deu-_c1")
    dead = await attributes_of(raw, f"{prefix}mail-_deu-_c1-dead")
    assert made["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"
    assert json.loads(made["RedrivePolicy"])["deadLetterTargetArn"] == dead["QueueArn"]
    assert (await take_one(driver, queue="mail.eu:1")).queue == "mail.eu:1"


async def test_without_leave_to_create_the_error_has_the_command(proxy: FaultProxy, raw: Any, prefix: str) -> None:
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix, create_queues=False)
    command = (
        f'aws sqs create-queue --queue-name {prefix}q --attributes \'{{"MessageRetentionPeriod":"1209600"}}\' '
        f"--region {REGION} --endpoint-url {proxy.url}"
    )
    with pytest.raises(UnknownQueue) as caught:
        await driver.enqueue([message("m")])
    assert command in str(caught.value)
    with pytest.raises(UnknownQueue):
        await take(driver)

    for name in ("q", "q-dead"):
        await raw.create_queue(QueueName=prefix + name)
    await driver.enqueue([message("m")])

    assert (await take_one(driver)).message_id == "m"
    assert proxy.requests["CreateQueue"] == 0
    await driver.close()


async def test_an_unknown_queue_stores_nothing_of_the_batch(proxy: FaultProxy, raw: Any, prefix: str) -> None:
    await raw.create_queue(QueueName=f"{prefix}known")
    driver = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix, create_queues=False)

    with pytest.raises(UnknownQueue):
        await driver.enqueue([message("a", queue="known"), message("b", queue="unknown")])

    assert await driver.depth("known") == Depth(ready=0, scheduled=0, reserved=0, dead=0)
    await driver.close()


async def test_looking_at_a_queue_does_not_create_it(driver: SQSDriver, proxy: FaultProxy) -> None:
    assert await driver.depth("q") == Depth(ready=0, scheduled=0, reserved=0, dead=0)
    assert await driver.redrive("q", limit=5) == 0

    assert proxy.requests["CreateQueue"] == 0


async def test_a_url_prefix_saves_the_look_up_and_creates_what_is_missing(proxy: FaultProxy, prefix: str) -> None:
    driver = SQSDriver(
        region=REGION,
        endpoint_url=proxy.url,
        queue_name_prefix=prefix,
        queue_url_prefix=f"{proxy.url}/123456789012/",
    )
    await driver.enqueue([message("m")])

    assert (await take_one(driver)).message_id == "m"
    assert proxy.requests["GetQueueUrl"] == 0
    assert await driver.depth("other") == Depth(ready=0, scheduled=0, reserved=0, dead=0)
    await driver.close()


async def test_a_queue_deleted_under_us_is_made_again(driver: SQSDriver, raw: Any, prefix: str) -> None:
    await driver.enqueue([message("lost")])
    lease = await take_one(driver)
    await raw.delete_queue(QueueUrl=await url_of(raw, f"{prefix}q"))

    assert await driver.settle([(lease, Complete())]) == {"lost"}
    await driver.enqueue([message("m")])
    assert (await take_one(driver)).message_id == "m"


# -- sizes and batches ---------------------------------------------------------------------------


# aiohttp warns that a body above 1 MiB is written in one go, which takes a millisecond.
LARGE = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@LARGE
async def test_the_largest_body_passes_and_one_byte_more_does_not(driver: SQSDriver) -> None:
    limit = driver.capabilities.body_bytes_max
    assert limit is not None
    with pytest.raises(BodyTooLarge, match=f"SQS takes {limit}"):
        await driver.enqueue([message("m", body=bytes(limit + 1))])

    await driver.enqueue([message("é" * 128, body=b"\xff" * limit)])

    lease = await take_one(driver)
    assert lease.body == b"\xff" * limit
    error = ErrorRecord(type="E", message="m", traceback="x" * 9_000)
    assert await driver.settle([(lease, Bury(reason=DeadReason.FAILED, error=error))]) == set()
    assert await driver.redrive("q", limit=1) == 1
    assert (await take_one(driver)).body == lease.body


@LARGE
async def test_a_batch_is_as_large_as_sqs_allows(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message(f"a{number}") for number in range(25)])
    await driver.enqueue([message(f"b{number}", body=bytes(400_000)) for number in range(4)])

    sizes = [len(seen.body["Entries"]) for seen in proxy.log if seen.operation == "SendMessageBatch"]
    assert sorted(sizes[:3]) == [5, 10, 10]
    assert sizes[3:] == [2, 2]


@pytest.mark.parametrize("message_id", ["", "x" * 129, "a\nb"])
async def test_an_id_that_sqs_could_not_carry_is_refused(driver: SQSDriver, message_id: str) -> None:
    with pytest.raises(DispatchError, match="message id"):
        await driver.enqueue([message("good"), message(message_id)])


# -- waiting -------------------------------------------------------------------------------------


async def test_a_cancelled_reserve_leaves_its_messages_to_the_next(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message("warm")])
    await driver.settle([(await take_one(driver), Complete())])
    waiting = asyncio.create_task(take(driver, wait_s=5))
    await until(lambda: driver.api_calls["receive_message"] >= 2)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    receives = proxy.requests["ReceiveMessage"]
    await driver.enqueue([message("m")])

    lease = await take_one(driver)

    assert (lease.message_id, lease.crashes) == ("m", 0)
    assert proxy.requests["ReceiveMessage"] == receives, "the poll that was under way is taken over"


async def test_what_nobody_reserves_is_handed_back_uncounted(driver: SQSDriver, proxy: FaultProxy, prefix: str) -> None:
    other = SQSDriver(region=REGION, endpoint_url=proxy.url, queue_name_prefix=prefix)
    waiting = asyncio.create_task(take(driver, wait_s=5))
    await until(lambda: proxy.requests["ReceiveMessage"] == 1)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await other.enqueue([message("m")])

    lease = await take_one(other, wait_s=10)

    assert (lease.attempt, lease.crashes) == (1, 0)
    assert await other.settle([(lease, Complete())]) == set()
    assert (await driver.depth("q")).reserved == 0
    await other.close()


async def test_close_ends_who_waits_and_hands_back_what_came(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message("m")])
    proxy.plan = first("ReceiveMessage", Fault("hold"))
    waiting = asyncio.create_task(take(driver, wait_s=20))
    await until(lambda: proxy.requests["ReceiveMessage"] == 1)
    before = asyncio.get_running_loop().time()
    closing = asyncio.create_task(driver.close())
    await asyncio.wait([waiting])
    proxy.held.set()
    await closing

    assert waiting.result() == []
    assert asyncio.get_running_loop().time() - before < 5
    assert (await take_one(driver)).crashes == 0


async def test_an_idle_wait_costs_one_call_per_queue(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.reserve(["a", "b"], limit=5, lease_s=30)
    before = proxy.requests["ReceiveMessage"]
    loop = asyncio.get_running_loop()
    started = loop.time()

    assert await driver.reserve(["a", "b"], limit=5, lease_s=30, wait_s=2) == []

    assert 1.5 < loop.time() - started < 4
    assert proxy.requests["ReceiveMessage"] - before == 2


async def test_a_wait_below_a_second_polls_at_its_end(driver: SQSDriver) -> None:
    await driver.enqueue([message("m", delay_s=0.5)])
    waiting = asyncio.create_task(take(driver, wait_s=0.9))
    assert await waiting == []

    assert (await take_one(driver)).message_id == "m"


async def test_the_first_queue_goes_first(driver: SQSDriver) -> None:
    await driver.enqueue([message(f"{queue}{n}", queue=queue) for queue in ("low", "high") for n in range(3)])

    for wait_s in (0, 5):
        (lease,) = await driver.reserve(["high", "low"], limit=1, lease_s=60, wait_s=wait_s)
        assert lease.queue == "high"
    rest = await driver.reserve(["high", "low"], limit=9, lease_s=60, wait_s=5)
    assert [lease.queue for lease in rest] == ["high", "low", "low", "low"]


async def test_a_full_load_costs_less_than_a_third_of_a_call_per_task(driver: SQSDriver) -> None:
    await driver.enqueue([message("warm")])
    leases = await take(driver)
    await driver.enqueue([message(f"m{number}") for number in range(100)])
    driver.api_calls.clear()
    done = 0
    while leases:
        lost, leases = await driver.turn([(lease, Complete()) for lease in leases], ["q"], limit=50, lease_s=60)
        assert lost == set()
        done += len(leases)

    assert done == 100
    consumed = sum(driver.api_calls.values())
    assert consumed <= 25, "ten receives and ten deletes, and what an empty queue and the first turn cost"
    assert (consumed + 10) / 100 <= 0.35, "with the ten calls of the sends"


async def until(met: Any) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.005)


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


async def test_a_redrive_of_the_console_starts_anew(driver: SQSDriver, raw: Any, prefix: str) -> None:
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


# -- hops ----------------------------------------------------------------------------------------


async def test_a_delay_beyond_sqs_is_asked_for_in_steps(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.enqueue([message("m", delay_s=3600)])

    (sent,) = [seen for seen in proxy.log if seen.operation == "SendMessageBatch"]
    assert sent.body["Entries"][0]["DelaySeconds"] == 900
    assert (await driver.depth("q")).scheduled == 1


async def send_hop(driver: SQSDriver, raw: Any, prefix: str, *, due_in_s: float, **more: Any) -> None:
    await driver.reserve(["q"], limit=1, lease_s=1)
    text = json.dumps({"asynctasq": 1, "id": "m", "due_in_us": round(due_in_s * 1e6), **more})
    await raw.send_message(QueueUrl=await url_of(raw, f"{prefix}q"), MessageBody=text)


async def test_the_last_hop_is_sent_anew_and_neither_early_nor_counted(
    driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str
) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await send_hop(driver, raw, prefix, due_in_s=2.5, attempts=1, crashes=2)

    lease = await take_one(driver, wait_s=10)

    assert loop.time() - started >= 2.5
    assert (lease.attempt, lease.crashes, lease.body) == (2, 2, b"")
    assert proxy.requests["SendMessageBatch"] == 1
    assert await driver.settle([(lease, Complete())]) == set()


async def test_an_early_hop_is_hidden_not_leased(driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str) -> None:
    await send_hop(driver, raw, prefix, due_in_s=5000)

    assert await take(driver, wait_s=1) == []

    await until(lambda: proxy.requests["ChangeMessageVisibilityBatch"])
    (hidden,) = [seen for seen in proxy.log if seen.operation == "ChangeMessageVisibilityBatch"]
    assert 4390 <= hidden.body["Entries"][0]["VisibilityTimeout"] <= 4400
    assert (await driver.depth("q")).reserved == 1


async def test_a_hop_that_sqs_will_not_hide_is_sent_anew(
    driver: SQSDriver, proxy: FaultProxy, raw: Any, prefix: str
) -> None:
    proxy.plan = first("ChangeMessageVisibilityBatch", Fault("status", 400, "InvalidParameterValue"))
    await send_hop(driver, raw, prefix, due_in_s=5000)

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


# -- loops ---------------------------------------------------------------------------------------


def test_every_run_of_asyncio_finds_the_driver_ready_and_leaks_nothing(server: Server, prefix: str) -> None:
    driver = SQSDriver(region=REGION, endpoint_url=server.url, queue_name_prefix=prefix)

    async def once(name: str) -> None:
        await driver.enqueue([message(name)])
        assert (await take_one(driver)).message_id == name  # and never closed: the loop's end does it

    for number in range(3):
        asyncio.run(once(f"m{number}"))
    gc.collect()
