"""What only the SQS driver has: its addresses, its queues, batches, long polls and costs."""

import asyncio
import gc
import json
from contextlib import suppress
from typing import Any

import pytest

import asynctasq
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import BodyTooLarge, ConfigError, DispatchError, DriverMisconfigured, UnknownQueue
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Depth, ErrorRecord
from asynctasq.tasks import AsyncTask
from asynctasq.testing.servers import Server
from tests.patience import SOON_S, until

from .fixtures import *  # noqa: F403 - fixtures, found by their names
from .fixtures import REGION, SECRET, attributes_of, message, take, take_one, url_of
from .proxy import Fault, FaultProxy, first

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


async def test_the_depth_of_a_queue_does_not_create_it(driver: SQSDriver, proxy: FaultProxy) -> None:
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


@pytest.fixture
def _kept_unclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came for a call that was cancelled is kept for the next, however long the test takes to make it."""
    monkeypatch.setattr("asynctasq.drivers.sqs_driver.receiver.UNCLAIMED_S", 3600)


@pytest.mark.usefixtures("_kept_unclaimed")
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
    waiting = asyncio.create_task(take(driver, wait_s=600))
    await until(lambda: proxy.requests["ReceiveMessage"] == 1)
    closing = asyncio.create_task(driver.close())
    await asyncio.wait_for(waiting, SOON_S)
    proxy.held.set()
    await asyncio.wait_for(closing, SOON_S)

    assert waiting.result() == []
    assert (await take_one(driver)).crashes == 0


async def test_an_idle_wait_costs_one_call_per_queue(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.reserve(["a", "b"], limit=5, lease_s=30)
    before = proxy.requests["ReceiveMessage"]
    loop = asyncio.get_running_loop()
    started = loop.time()

    assert await driver.reserve(["a", "b"], limit=5, lease_s=30, wait_s=2) == []

    assert loop.time() - started > 1.5
    assert proxy.requests["ReceiveMessage"] - before == 2


async def test_short_waits_share_long_polls(driver: SQSDriver, proxy: FaultProxy) -> None:
    await driver.reserve(["q"], limit=5, lease_s=30)
    before = proxy.requests["ReceiveMessage"]

    for _ in range(6):
        assert await take(driver, wait_s=1, lease_s=30) == []

    assert proxy.requests["ReceiveMessage"] - before == 2, "one of a second, then one of twenty"
    await driver.enqueue([message("m")])
    assert (await take_one(driver, wait_s=1, lease_s=30)).message_id == "m"


@pytest.mark.usefixtures("_kept_unclaimed")
async def test_a_lease_is_whole_though_its_message_came_before_it_was_asked_for(
    driver: SQSDriver, proxy: FaultProxy
) -> None:
    await driver.reserve(["q"], limit=1, lease_s=5)
    waiting = asyncio.create_task(take(driver, wait_s=5, lease_s=5))
    await until(lambda: proxy.requests["ReceiveMessage"] == 2)
    waiting.cancel()
    await asyncio.wait([waiting])
    await driver.enqueue([message("m")])
    resources = await driver._resources.get()
    await until(lambda: resources.receiver._ready_count(["q"]))
    arrived = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > arrived + 0.3)

    lease = await take_one(driver, lease_s=600)

    assert proxy.requests["ChangeMessageVisibilityBatch"] == 1
    assert lease.expires_at - driver._clock.local() > 590
    assert lease.crashes == 0


async def test_a_wait_below_a_second_polls_at_its_end(driver: SQSDriver) -> None:
    await driver.enqueue([message("m", delay_s=2.5)])  # the server counts whole seconds, from the second before
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
    assert consumed < 100 / 3, "ten receives and ten deletes, and what an empty queue and the first turn cost"


# -- the guide -----------------------------------------------------------------------------------

DONE: list[str] = []


class AWSTask(AsyncTask[None]):
    queue = "aws-tasks"
    _driver_override = "sqs"

    async def execute(self) -> None:
        DONE.append(f"{type(self).__name__} {self._current_attempt}")


class FailingTask(AWSTask):
    max_attempts = 2
    retry_delay = 1

    async def execute(self) -> None:
        await super().execute()
        raise ValueError("no")


async def test_the_guide_s_tasks_run_retry_and_die_on_sqs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    asynctasq.init({"driver": "memory"})
    driver = SQSDriver()

    await AWSTask().dispatch()
    await FailingTask().dispatch()
    async with asyncio.timeout(SOON_S):
        await asynctasq.Worker(driver, ["aws-tasks"], max_tasks=3).start()

    assert sorted(DONE) == ["AWSTask 0", "FailingTask 0", "FailingTask 1"]
    assert await driver.depth("aws-tasks") == Depth(ready=0, scheduled=0, reserved=0, dead=1)
    await driver.close()
    await asynctasq.close()


# -- loops ---------------------------------------------------------------------------------------


def test_every_run_of_asyncio_finds_the_driver_ready_and_leaks_nothing(server: Server, prefix: str) -> None:
    driver = SQSDriver(region=REGION, endpoint_url=server.url, queue_name_prefix=prefix)

    async def once(name: str) -> None:
        await driver.enqueue([message(name)])
        assert (await take_one(driver)).message_id == name  # and never closed: the loop's end does it

    for number in range(3):
        asyncio.run(once(f"m{number}"))
    gc.collect()
