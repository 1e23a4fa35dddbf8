"""The parts of the SQS driver that ask no server: names, wire format, forwarding, clock, lease registry, errors."""

import json
import logging
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asynctasq.drivers.sqs_driver.client import ServerClock
from asynctasq.drivers.sqs_driver.errors import QueueGone, Refused, mapped_errors
from asynctasq.drivers.sqs_driver.forwarding import HIDE_S_MAX, REFRESH_AFTER_S, Forwarder
from asynctasq.drivers.sqs_driver.leases import FORGET_AFTER_S, REMEMBERED_MAX, SWEEP_AT_LEAST, LeaseRegistry
from asynctasq.drivers.sqs_driver.names import QueueNames
from asynctasq.drivers.sqs_driver.wire import (
    HEADER_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Envelope,
    NewerVersion,
    Outgoing,
    Received,
    Writer,
)
from asynctasq.errors import ConfigError, DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import MICROSECONDS, Bury, DeadReason, ErrorRecord, Lease, Release

QUEUES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,79}", fullmatch=True) | st.builds(
    "".join,
    st.lists(st.sampled_from(["a", "-", "_", ".", ":", "-_", "-dead", ".fifo", "_d", "h"]), min_size=1, max_size=20),
).filter(lambda name: re.match(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,79}\Z", name))
PREFIXES = st.sampled_from(["", "prod-", "p_", "a-_"])
SQS_NAME = re.compile(r"[A-Za-z0-9_\-]{1,80}\Z|[A-Za-z0-9_\-]{1,75}\.fifo\Z")


# -- names ---------------------------------------------------------------------------------------


@given(queue=QUEUES, prefix=PREFIXES, all_fifo=st.booleans())
def test_a_queue_name_is_legal_on_sqs_and_can_be_read_back(queue: str, prefix: str, all_fifo: bool) -> None:
    names = QueueNames(prefix=prefix, all_fifo=all_fifo)

    for dead in (False, True):
        assert SQS_NAME.match(names.encode(queue, dead=dead))
    if "-_h" not in names.encode(queue):
        assert names.decode(names.encode(queue)) == queue


@given(queues=st.sets(QUEUES, min_size=2, max_size=20), prefix=PREFIXES, all_fifo=st.booleans())
def test_no_two_queues_share_an_sqs_name(queues: set[str], prefix: str, all_fifo: bool) -> None:
    names = QueueNames(prefix=prefix, all_fifo=all_fifo)

    encoded = {names.encode(queue, dead=dead) for queue in queues for dead in (False, True)}

    assert len(encoded) == 2 * len(queues)


@pytest.mark.parametrize("queue", ["mail", "aws-tasks", "low_priority", "a--b", "x" * 80])
def test_an_ordinary_name_stays_as_it_is(queue: str) -> None:
    assert QueueNames().encode(queue) == queue


def test_a_name_that_reads_like_dead_letters_is_kept_apart_from_them() -> None:
    names = QueueNames()

    assert names.encode("mail", dead=True) == "mail-dead"
    assert names.encode("mail-dead") == "mail-_k"
    assert names.decode("mail-dead") is None


def test_a_name_that_does_not_fit_ends_in_a_hash() -> None:
    names = QueueNames(prefix="prod-")
    long, other = "a." * 40, "a." * 39 + "a:"

    assert len(names.encode(long)) == 80
    assert names.encode(long) != names.encode(other)
    assert names.decode(names.encode(long)) is None


def test_a_prefix_that_sqs_would_refuse_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"queue_name_prefix 'a\.b'"):
        QueueNames(prefix="a.b")


# -- wire ----------------------------------------------------------------------------------------


def writer(*, fifo: bool = False, bytes_max: int = MESSAGE_BYTES_MAX) -> Writer:
    return Writer(is_fifo=lambda _: fifo, ordered=True, bytes_max=bytes_max)


def received(entry: dict[str, Any], *, receives: int = 1, sent_ms: int = 1_700_000_000_000, **more: Any) -> Received:
    """Deliver what was sent, as SQS would."""
    reply = {
        "MessageId": "sqs-1",
        "ReceiptHandle": "receipt-1",
        "Body": entry["MessageBody"],
        "MessageAttributes": entry.get("MessageAttributes", {}),
        "Attributes": {"ApproximateReceiveCount": str(receives), "SentTimestamp": str(sent_ms)},
        **more,
    }
    return Received.parse("q", reply, taken_at=sent_ms / 1000 + 1, lease_s=30)


@given(
    body=st.binary(max_size=50),
    message_id=st.text(min_size=1, max_size=128),
    attempts=st.integers(0, 9),
    crashes=st.integers(0, 9),
    receives=st.integers(1, 5),
)
def test_a_message_comes_back_as_it_was_sent(
    body: bytes, message_id: str, attempts: int, crashes: int, receives: int
) -> None:
    envelope = Envelope(id=message_id, body=body, attempts=attempts, crashes=crashes, enqueued_us=1_600_000_000_123_456)

    lease = received(writer().build(envelope, "q").entry("0"), receives=receives).lease()

    assert (lease.message_id, lease.body, lease.token) == (message_id, body, "0:receipt-1")
    assert (lease.attempt, lease.crashes) == (attempts + 1, crashes + receives - 1)
    assert (lease.enqueued_at, lease.expires_at) == (1_600_000_000.123456, 1_700_000_031.0)


def test_a_first_copy_was_enqueued_when_sqs_stored_it() -> None:
    entry = writer().build(Envelope(id="m", body=b""), "q").entry("0")

    assert "MessageAttributes" not in entry, "SQS refuses an empty attribute"
    assert received(entry).lease().enqueued_at == 1_700_000_000.0


@given(delay_us=st.integers(0, 900 * MICROSECONDS))
def test_a_delay_sqs_can_do_is_rounded_up_and_not_forwarded(delay_us: int) -> None:
    entry = writer().build(Envelope(id="m", body=b"b"), "q", delay_us=delay_us).entry("0")

    assert delay_us <= entry["DelaySeconds"] * MICROSECONDS < delay_us + MICROSECONDS
    assert received(entry).is_leasable


@pytest.mark.parametrize(("fifo", "delay_us", "asked"), [(False, 900 * MICROSECONDS + 1, 900), (True, 1, None)])
def test_a_delay_sqs_can_not_do_goes_into_the_envelope(fifo: bool, delay_us: int, asked: int | None) -> None:
    entry = writer(fifo=fifo).build(Envelope(id="m", body=b"b"), "q", delay_us=delay_us).entry("0")

    assert entry.get("DelaySeconds") == asked
    assert received(entry).envelope.due_in_us == delay_us
    assert not received(entry).is_leasable


@given(
    texts=st.tuples(*[st.text(max_size=60) | st.integers(0, 8000).map(lambda n: "é\udc80\n" * n) for _ in range(3)]),
    spare=st.integers(0, 2000),
)
def test_an_error_is_cut_until_a_dead_letter_fits(texts: tuple[str, str, str], spare: int) -> None:
    limit = 4 * HEADER_BYTES_MAX
    lease = received(
        writer().build(Envelope(id="é" * 128, body=bytes(limit - HEADER_BYTES_MAX - spare)), "q").entry("0")
    )
    error = ErrorRecord(type=texts[0], message=texts[1], traceback=texts[2])

    bury = Bury(reason=DeadReason.FAILED, counted=True, error=error)
    outgoing = writer(bytes_max=limit).build(Envelope.released(lease.lease(), bury), "q")

    assert outgoing.bytes <= limit
    assert outgoing.dead
    assert json.loads(outgoing.text)["dead"] == "failed"


def test_of_a_long_traceback_the_end_is_kept() -> None:
    error = ErrorRecord(type="ValueError", message="bad", traceback="x" * 50_000 + "the last line")
    envelope = Envelope(id="m", body=b"", reason="failed", error=error)

    kind, message, traceback = json.loads(envelope.header(10_000))["error"]

    assert (kind, message) == ("ValueError", "bad")
    assert traceback.startswith("[trimmed] ")
    assert traceback.endswith("the last line")


@pytest.mark.parametrize(
    "text",
    [
        *("", "hello", "{}", "[1]", "null", "[" * 100_000, "\ud800"),
        *('{"asynctasq":1}', '{"asynctasq":"x","id":"m"}'),
        *('{"asynctasq":1,"id":"m","attempts":"many"}', '{"asynctasq":1,"id":"m","enqueued_us":[]}'),
    ],
)
def test_a_text_that_is_not_ours_becomes_a_body_nobody_can_decode(text: str) -> None:
    lease = received({"MessageBody": text}).lease()

    assert (lease.message_id, lease.body) == ("sqs-1", text.encode(errors="surrogatepass"))


def test_a_newer_wire_version_is_left_alone() -> None:
    with pytest.raises(NewerVersion, match="wire version 2"):
        received({"MessageBody": '{"asynctasq":2,"id":"m"}'})


def test_the_copy_of_a_retry_counts_it() -> None:
    lease = received(
        writer().build(Envelope(id="m", body=b"b", attempts=1, crashes=2), "q").entry("0"), receives=3
    ).lease()

    copy = Envelope.released(lease, Release(counted=True, crashed=True))

    assert (copy.attempts, copy.crashes, copy.copy) == (2, 5, 1)
    assert copy.enqueued_us == 1_700_000_000 * MICROSECONDS


def test_a_fifo_entry_is_deduplicated_by_id_and_later_by_its_receipt() -> None:
    first, again, other = (
        writer(fifo=True).build(Envelope(id="m", body=b"b"), "q", key=key).entry("0") for key in ("", "", "receipt")
    )

    assert first == again
    assert first["MessageDeduplicationId"] != other["MessageDeduplicationId"]
    assert first["MessageGroupId"] == other["MessageGroupId"] == "all"


# -- forwarding ----------------------------------------------------------------------------------


class UnusedBatches:
    """The forwarder under test only decides; it calls nothing."""


@settings(deadline=None)
@given(
    delay_s=st.floats(900.001, 365 * 86_400) | st.floats(900.001, 100_000),
    late_s=st.floats(0, 300),
    fifo=st.booleans(),
)
@example(delay_s=15600386.00390625, late_s=0.9, fifo=False)
def test_forwarding_ends_in_a_leasable_copy_that_is_never_early(delay_s: float, late_s: float, fifo: bool) -> None:
    batches: Any = UnusedBatches()
    forwarder = Forwarder(batches, writer(fifo=fifo), ServerClock(FixedClock()))
    start = now = 1_700_000_000.0
    outgoing = writer(fifo=fifo).build(Envelope(id="m", body=b"b"), "q", delay_us=math.ceil(delay_s * MICROSECONDS))
    copy = received(outgoing.entry("0"), sent_ms=round(now * 1000))
    now += outgoing.delay_s
    steps = 0
    while not copy.is_leasable:
        now += late_s  # nobody polled
        steps += 1
        assert now - copy.sent_us / MICROSECONDS < 4 * 86_400, "the copy would have been dropped by its age"
        hide_s = forwarder._hide_s(copy, now)
        if hide_s:
            assert 0 < hide_s <= HIDE_S_MAX
            now += hide_s
        else:
            outgoing = forwarder._next_copy(copy, now)
            copy = received(outgoing.entry("0"), sent_ms=round(now * 1000), receives=1)
            now += outgoing.delay_s

    assert now >= start + delay_s - 0.002, "SQS's own timestamps have milliseconds"
    assert now <= start + delay_s + 2 + late_s + 0.002 * steps, "a copy is as late as the polls that find it, no more"
    assert steps <= delay_s / 40_000 * 2 + 4
    assert copy.lease().enqueued_at == start
    assert REFRESH_AFTER_S < 4 * 86_400


# -- clock ---------------------------------------------------------------------------------------


class FixedClock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@given(
    ahead_s=st.floats(-1e6, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 2), st.floats(0, 2)), max_size=30),
)
def test_the_server_s_time_is_never_taken_for_later_than_it_is(
    ahead_s: float, steps: list[tuple[float, float, float]]
) -> None:
    local = FixedClock()
    clock = ServerClock(local)
    for pause_s, there_s, back_s in steps:
        asked_at = local.time + pause_s
        server = asked_at + there_s + ahead_s
        local.time = asked_at + there_s + back_s
        clock.observe(_date(server), asked_at, local.time)

        assert clock.now() <= local.time + ahead_s + 1e-3
        assert clock.now() >= local.time + ahead_s - 1 - back_s - 1e-3 or len(steps) > 1


def _date(server: float) -> str:
    from email.utils import formatdate

    return formatdate(math.floor(server), usegmt=True)


def test_the_clock_follows_when_one_of_the_two_was_set() -> None:
    local = FixedClock()
    clock = ServerClock(local)
    clock.observe(_date(local.time), local.time, local.time + 0.01)
    local.time += 3600

    clock.observe(_date(local.time - 3600), local.time, local.time + 0.01)

    assert clock.now() == pytest.approx(local.time - 3600, abs=1.1)


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_without_a_date_our_own_clock_must_do(date: str) -> None:
    local = FixedClock()
    clock = ServerClock(local)

    assert clock.observe(date, 1.0, 2.0) is None
    assert clock.now() == local.time


# -- lease registry ------------------------------------------------------------------------------


def copy_of(message_id: str, *, sqs_id: str, receipt: str, taken_at: float = 0.0, copy: int = 0) -> Received:
    entry = writer().build(Envelope(id=message_id, body=b"b", copy=copy), "q").entry("0")
    got = received(entry, MessageId=sqs_id, ReceiptHandle=receipt)
    return replace(got, taken_at=taken_at, ends_at=taken_at + 30)


def grant(registry: LeaseRegistry, copy: Received, now: float) -> Lease:
    lease = registry.grant(copy, now)
    assert lease is not None
    return lease


def test_two_copies_of_a_message_are_one_lease() -> None:
    registry = LeaseRegistry()
    lease = grant(registry, copy_of("m", sqs_id="1", receipt="a"), 1)

    assert registry.grant(copy_of("m", sqs_id="2", receipt="b", taken_at=2), 2) is None
    assert registry.grant(copy_of("m", sqs_id="1", receipt="c", taken_at=3), 3) is None

    held = registry.find(lease, 4)
    assert held is not None
    assert held.receipts == {"1": "c", "2": "b"}, "of each copy the latest receipt counts"


def test_a_later_copy_is_a_lease_of_its_own_and_an_earlier_one_is_not() -> None:
    registry = LeaseRegistry()
    lease = grant(registry, copy_of("m", sqs_id="2", receipt="b", copy=2), 1)

    assert registry.grant(copy_of("m", sqs_id="1", receipt="a", copy=1, taken_at=2), 2) is None
    later = grant(registry, copy_of("m", sqs_id="3", receipt="c", copy=3, taken_at=3), 3)

    assert registry.find(lease, 4) is None, "another driver settled it: it was replaced"
    assert registry.find(later, 4) is not None


def test_the_replacement_of_a_message_is_no_copy_of_it() -> None:
    registry = LeaseRegistry()
    lease = grant(registry, copy_of("m", sqs_id="1", receipt="a"), 1)
    held = registry.find(lease, 2)
    assert held is not None
    registry.mark_settling(held)

    retry = grant(registry, copy_of("m", sqs_id="2", receipt="b", taken_at=2), 2)

    assert held.receipts == {"1": "a"}, "or the delete that ends the first would delete the retry"
    assert registry.find(lease, 3) is held
    registry.end(held)
    assert registry.find(retry, 4) is not None


def test_a_later_lease_makes_the_earlier_one_stale() -> None:
    registry = LeaseRegistry()
    old = grant(registry, copy_of("m", sqs_id="1", receipt="a"), 1)
    new = grant(registry, copy_of("m", sqs_id="1", receipt="b", taken_at=31), 31)

    assert registry.find(old, 32) is None
    assert registry.find(new, 32) is not None


def test_a_lease_that_ended_is_over_and_its_copies_are_known_as_deleted() -> None:
    registry = LeaseRegistry()
    lease = grant(registry, copy_of("m", sqs_id="1", receipt="a"), 1)
    held = registry.find(lease, 2)
    assert held is not None
    held.deleted = True
    registry.end(held)

    assert registry.find(lease, 3) is None
    assert registry.was_deleted("1")
    assert registry.grant(copy_of("m", sqs_id="2", receipt="b", taken_at=4), 4) is not None


def test_another_driver_s_lease_counts_unless_we_hold_the_message() -> None:
    registry = LeaseRegistry()
    foreign = copy_of("m", sqs_id="1", receipt="theirs").lease()
    assert registry.find(foreign, 1) is not None

    other = LeaseRegistry()
    grant(other, copy_of("m", sqs_id="1", receipt="ours", taken_at=40), 40)
    assert other.find(foreign, 41) is None
    assert other.find(foreign, 71) is not None, "ours ran out: theirs may be the later one"


def test_the_registry_forgets_what_was_never_settled() -> None:
    registry = LeaseRegistry()
    for number in range(SWEEP_AT_LEAST * 3):
        now = number * FORGET_AFTER_S / 100
        grant(registry, copy_of(f"m{number}", sqs_id=str(number), receipt=str(number), taken_at=now), now)

    assert len(registry._held) < SWEEP_AT_LEAST * 1.5
    assert len(registry._latest) == len(registry._held)
    assert len(registry._ended_tokens) <= REMEMBERED_MAX


# -- errors --------------------------------------------------------------------------------------


def _refusal(code: str, status: int) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "SendMessageBatch")


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (_refusal("AWS.SimpleQueueService.NonExistentQueue", 400), QueueGone),
        (_refusal("com.amazonaws.sqs#QueueDoesNotExist", 400), QueueGone),
        (_refusal("InvalidParameterValue", 400), Refused),
        (_refusal("RequestThrottled", 403), DriverUnavailable),
        (_refusal("AnyThing", 429), DriverUnavailable),
        (_refusal("AnyThing", 503), DriverUnavailable),
        (_refusal("OverLimit", 403), DriverUnavailable),
        (_refusal("AccessDenied", 403), DriverMisconfigured),
        (_refusal("InvalidClientTokenId", 403), DriverMisconfigured),
        (_refusal("UnsupportedOperation", 400), DriverMisconfigured),
        (_refusal("Strange", 0), DriverError),
        (EndpointConnectionError(endpoint_url="http://x"), DriverUnavailable),
        (ConnectTimeoutError(endpoint_url="http://x"), DriverUnavailable),
        (ConnectionResetError(), DriverUnavailable),
        (TimeoutError(), DriverUnavailable),
        (NoCredentialsError(), DriverMisconfigured),
    ],
)
def test_every_library_error_is_mapped_once(raised: Exception, wanted: type[Exception]) -> None:
    with pytest.raises(wanted) as caught, mapped_errors("SQS at home", "SendMessageBatch"):
        raise raised

    assert type(caught.value) is wanted
    assert caught.value.__cause__ is raised
    assert "SQS at home" in str(caught.value)


def test_what_sqs_says_about_a_signature_is_not_repeated() -> None:
    error = _refusal("SignatureDoesNotMatch", 403)
    error.response["Error"]["Message"] = "the canonical string was: AKIAEXAMPLE secret"

    with pytest.raises(DriverMisconfigured) as caught, mapped_errors("SQS", "open"):
        raise error

    assert "AKIA" not in str(caught.value)


def test_outgoing_counts_what_sqs_counts() -> None:
    outgoing = Outgoing(queue="q", dead=False, text="12345", body=b"123", delay_s=0, fifo_group=None, fifo_key=None)

    assert outgoing.bytes == 5 + len("body") + len("Binary") + 3
    assert logging.getLogger("asynctasq.drivers.sqs_driver.client").handlers == []
