"""What only the PostgreSQL driver has: addresses, schema, wake-ups, faults of connections, scan bounds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from asynctasq.drivers.levels import all_lines_of, line_by_time, line_of
from asynctasq.drivers.postgres_driver import PostgresDriver
from asynctasq.drivers.postgres_driver.address import Address, TlsOptions
from asynctasq.drivers.postgres_driver.rows import MARGIN_US, NO_BOUND_US, ScanBounds, message_batches
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import ConfigError, DispatchError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, Release
from asynctasq.testing.conformance.harnesses.postgres import PostgresHarness
from tests.drivers.postgres_driver.support import Q, ids, make, messages, waits_for_lock
from tests.patience import SOON_S, until

UNREACHABLE_URL = "postgresql://someone:s3cr3t@127.0.0.1:1/nothing"


@pytest.fixture
async def other(store: PostgresHarness) -> AsyncIterator[Any]:
    """A connection beside the driver's."""
    connection = await asyncpg.connect(store.url)
    yield connection
    await connection.close()


# -- addresses and options -------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_an_address_may_hold_options(scheme: str) -> None:
    driver = create_driver(f"{scheme}://u:p@h:5433/d?schema=jobs&listen=false&max_connections=3", poll_s_max=1)

    assert isinstance(driver, PostgresDriver)
    assert str(driver) == f"{scheme}://***@h:5433/d"
    assert driver._names.table("messages") == '"jobs"."asynctasq_messages"'


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("shema=x", "did you mean 'schema'"),
        ("listen=maybe", "must be a bool"),
        ("max_connections=0", "at least 1"),
        ("schema=a.b", "schema 'a.b' is not valid"),
        ('table_prefix=x"; DROP TABLE users; --', "table_prefix .* is not valid"),
        ("table_prefix=" + "x" * 41, "1 to 40"),
        ("table_prefix=1x", "not starting with a digit"),
    ],
)
def test_a_wrong_or_hostile_option_is_refused(query: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PostgresDriver.from_url(f"postgres://h/d?{query}")


def test_a_password_may_hold_any_character_and_stays_out_of_texts() -> None:
    address = Address.parse("postgres://me:p@ss%2Fw%40rd@h:1/d", TlsOptions(), timeout_s=1)

    assert address.password == "p@ss/w@rd"
    assert address.dsn == "postgres://me@h:1/d"
    assert "p@ss" not in repr(address)


async def test_an_unreachable_server_is_named_without_the_password() -> None:
    driver = PostgresDriver(UNREACHABLE_URL)

    for call in (driver.open, lambda: driver.reserve([Q], limit=1, lease_s=1), driver.schema_version, driver.migrate):
        with pytest.raises(DriverUnavailable, match=r"127\.0\.0\.1:1/nothing") as caught:
            await call()
        assert "s3cr3t" not in str(caught.value)


async def test_a_missing_database_is_a_misconfiguration(store: PostgresHarness) -> None:
    driver = PostgresDriver(store.url + "_not")

    with pytest.raises(DriverMisconfigured, match="does not exist"):
        await driver.open()


# -- schema ----------------------------------------------------------------------------------------


async def test_an_unmigrated_database_says_what_to_run(bare: PostgresHarness) -> None:
    driver = make(bare)

    for call in (driver.open, lambda: driver.enqueue(messages("a"))):
        with pytest.raises(DriverMisconfigured, match="run: asynctasq migrate --driver postgres"):
            await call()

    assert await driver.schema_version() == 0
    assert await driver.migrate() == [m.version for m in driver.migrations()]
    assert await driver.enqueue(messages("a")) == ["a"]


async def test_migrating_many_times_at_once_applies_each_version_once(bare: PostgresHarness) -> None:
    drivers = [make(bare, schema="New_Schema") for _ in range(6)]

    applied = await asyncio.gather(*(driver.migrate() for driver in drivers))
    again = await drivers[0].migrate()

    assert sorted(version for versions in applied for version in versions) == [1, 2, 3, 4]
    assert again == []
    assert await drivers[1].schema_version() == 4


@pytest.mark.parametrize("schema", ["public", "New_Schema"])
async def test_the_statements_may_be_run_by_hand(bare: PostgresHarness, schema: str) -> None:
    driver = make(bare, schema=schema)
    connection = await asyncpg.connect(bare.url)

    await connection.execute(";\n".join(text for step in driver.migrations() for text in step.statements))

    assert await driver.migrate() == []
    assert await driver.enqueue(messages("a")) == ["a"]
    await connection.close()


async def test_migrating_needs_no_right_to_make_schemas(bare: PostgresHarness) -> None:
    role = f"role_{bare.database}"
    async with bare.admin() as admin:
        await admin.execute(f'CREATE ROLE "{role}" LOGIN')
    connection = await asyncpg.connect(bare.url)
    await connection.execute(f'CREATE SCHEMA "Own" AUTHORIZATION "{role}"')
    driver = PostgresDriver(bare.url.replace("postgres@", f"{role}@"), schema="Own")

    assert await driver.migrate() == [1, 2, 3, 4]

    await connection.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    await connection.close()


async def test_a_newer_schema_is_accepted(store: PostgresHarness, other: Any) -> None:
    await other.execute("INSERT INTO asynctasq_migrations (version, title) VALUES (99, 'of the future')")
    driver = make(store)

    await driver.open()

    assert await driver.schema_version() == 99
    assert await driver.migrate() == []


async def test_stores_of_one_database_are_apart(store: PostgresHarness) -> None:
    plain = make(store)
    odd = make(store, schema="Select", table_prefix="Order", auto_migrate=True)

    await odd.enqueue(messages("a"))
    await plain.enqueue(messages("b"))

    assert await odd.queues() == await plain.queues() == [Q]
    assert ids(await odd.reserve([Q], limit=5, lease_s=60)) == ["a"]
    assert await plain.find("a") is None


# -- statements ------------------------------------------------------------------------------------


async def test_an_unusable_id_stores_nothing(store: PostgresHarness) -> None:
    driver = make(store)

    for wrong in ("", "x" * 129, "a\x00b", "\ud800"):
        with pytest.raises(DispatchError, match="message id"):
            await driver.enqueue([*messages("good"), Message(id=wrong, queue=Q, body=b"")])
        assert await driver.find(wrong) is None
        assert await driver.cancel([wrong]) == set()

    assert await driver.find("good") is None


async def test_a_hundred_thousand_messages_are_stored_whole_in_order(store: PostgresHarness) -> None:
    driver = make(store)
    many = [f"m{n:06}" for n in range(100_000)]

    assert await driver.enqueue(messages(*many)) == many
    taken = await driver.reserve([Q], limit=100_000, lease_s=600)

    assert ids(taken) == many


async def test_a_batch_that_fails_in_a_later_part_stores_nothing(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await other.execute("ALTER TABLE asynctasq_messages ADD CHECK (id <> 'm9999')")

    with pytest.raises(Exception, match="check constraint"):
        await driver.enqueue(messages(*(f"m{n}" for n in range(10_000))))

    assert await driver.queues() == []


def test_parts_are_bounded_in_bytes_and_number() -> None:
    large = [Message(id=str(n), queue=Q, body=bytes(20 * 1024 * 1024)) for n in range(3)]

    assert [len(batch) for batch in message_batches(large)] == [1, 1, 1]
    assert [len(batch) for batch in message_batches(messages(*map(str, range(12_000))))] == [5_000, 5_000, 2_000]
    assert message_batches([]) == []


async def test_a_lease_of_an_earlier_life_of_the_id_settles_nothing(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    [first] = await driver.reserve([Q], limit=1, lease_s=60)
    await driver.settle([(first, Complete())])
    await driver.enqueue(messages("a"))
    [second] = await driver.reserve([Q], limit=1, lease_s=60)

    lost = await driver.settle([(first, Complete())])

    assert lost == {"a"}
    assert first.token != second.token
    assert await driver.settle([(second, Complete())]) == set()


@pytest.mark.parametrize("token", ["", "1", "x.y", "1.x", "01.1", "1.01", "٣.1", "9" * 30 + ".1", "1.1.1"])
async def test_a_token_that_was_never_ours_is_lost(store: PostgresHarness, token: str) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    [lease] = await driver.reserve([Q], limit=1, lease_s=60)
    forged = Lease(
        message_id="a", queue=Q, body=b"", token=token, attempt=1, crashes=0, enqueued_at=0.0, expires_at=0.0
    )

    assert await driver.settle([(forged, Complete())]) == {"a"}
    assert await driver.settle([(forged, Release(counted=True))]) == {"a"}
    assert await driver.extend([forged], lease_s=60) == {"a"}
    assert await driver.settle([(lease, Complete())]) == set()


async def test_a_message_may_be_followed_by_itself(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages("a"))
    [lease] = await driver.reserve([Q], limit=1, lease_s=60)

    await driver.settle([(lease, Complete(follow_ups=tuple(messages("a"))))])

    [again] = await driver.reserve([Q], limit=1, lease_s=60)
    assert (again.message_id, again.attempt) == ("a", 1)


async def test_a_queue_named_twice_gives_each_message_once(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages("a", "b", "c"))

    assert ids(await driver.reserve([Q, Q], limit=5, lease_s=60)) == ["a", "b", "c"]


async def test_a_turn_does_not_lease_what_it_settles_late(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages("done", "released"))
    done, released = await driver.reserve([Q], limit=2, lease_s=60)
    driver.clock_offset += 100

    lost, leases = await driver.turn(
        [(done, Complete()), (released, Release(counted=True, delay_s=60))], [Q], limit=5, lease_s=60
    )
    plain_lost, _ = await driver.turn([(done, Complete())], [Q], limit=5, lease_s=60)

    assert (lost, leases) == (set(), [])
    assert plain_lost == {"done"}


async def test_the_claim_walks_its_index_and_sorts_nothing(store: PostgresHarness) -> None:
    driver = make(store)
    await driver.enqueue(messages(*map(str, range(500))))
    connection = await driver._address.connect(prepare=True)

    lines = [*all_lines_of(Q), *all_lines_of("other")]
    values = [0, lines, [*map(line_by_time, lines)], [NO_BOUND_US] * len(lines), 10, 60_000_000, "w"]
    plan = await connection.fetch(f"EXPLAIN {driver._sql.claim}", *values)

    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using asynctasq_messages_claim" in text
    assert "Tid Scan" in text
    assert "Sort" not in text
    assert "Seq Scan" not in text
    await connection.close()


async def test_a_rank_is_looked_up_in_indexes(store: PostgresHarness) -> None:
    driver = make(store)
    waiting = [Message(id=f"{n}", queue=Q, body=b"", fair_key=f"k{n % 50}") for n in range(2000)]
    await driver.enqueue(waiting)
    connection = await driver._address.connect(prepare=True)
    await connection.execute("ANALYZE asynctasq_messages")

    values = [0, ["m"], [line_of(waiting[0])], [b""], [0], None, [None], [False], ["k1"]]
    plan = await connection.fetch(f"EXPLAIN {driver._sql.storing.enqueue_fair}", *values)

    text = "\n".join(row[0] for row in plan)
    assert "asynctasq_messages_fair" in text
    assert "asynctasq_messages_claim" in text
    assert "Seq Scan on asynctasq_messages" not in text
    await connection.close()


async def test_results_past_their_time_are_removed_in_passing(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.enqueue(messages("a", "b"))
    a, b = await driver.reserve([Q], limit=2, lease_s=600)
    await driver.settle([(a, Complete(result=b"1", result_ttl_s=10))])
    driver.clock_offset += 100

    await driver.settle([(b, Complete(result=b"2", result_ttl_s=10))])
    await driver.reserve([Q], limit=1, lease_s=600)

    assert [row[0] for row in await other.fetch("SELECT id FROM asynctasq_results")] == ["b"]


async def test_a_deadlock_is_retried_inside(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.open()
    await other.execute("SET deadlock_timeout = '60s'")  # So that the driver's side is the one that gives up.
    transaction = other.transaction()
    await transaction.start()
    await driver.enqueue_in(other, messages("a"))
    enqueuing = asyncio.create_task(driver.enqueue(messages("b", "a")))
    await until(lambda: waits_for_lock(store))

    await driver.enqueue_in(other, messages("b"))
    await transaction.commit()

    assert await enqueuing == []
    assert await other.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") >= 1


async def test_many_reservers_take_each_message_once_without_deadlock(store: PostgresHarness, other: Any) -> None:
    total, seen = 8_000, list[str]()
    drivers = [make(store, max_connections=2) for _ in range(8)]
    await drivers[0].enqueue(messages(*map(str, range(total))))

    async def work(driver: PostgresDriver) -> None:
        ends: list[Any] = []
        while True:
            lost, leases = await driver.turn(ends, [Q], limit=40, lease_s=600)
            assert not lost
            if not leases:
                return
            seen.extend(ids(leases))
            # Another order than the server's, at the same time as the settling of the others.
            assert not await driver.extend(leases[::-1], lease_s=600)
            ends = [(lease, Complete()) for lease in sorted(leases, key=lambda lease: lease.token[::-1])]

    await asyncio.gather(*(work(driver) for driver in drivers))

    assert len(seen) == len(set(seen)) == total
    assert await other.fetchval("SELECT count(*) FROM asynctasq_messages") == 0


# -- without a statement cache ---------------------------------------------------------------------


async def test_without_a_statement_cache_no_state_stays_on_the_server(store: PostgresHarness) -> None:
    driver = make(store, statement_cache=False, listen=False)
    await driver.enqueue(messages("a", "b"))
    leases = await driver.reserve([Q], limit=1, lease_s=60)
    await driver.turn([(leases[0], Complete())], [Q], limit=1, lease_s=60)

    named = await driver._fetch("SELECT count(*) FROM pg_prepared_statements")
    settings = await driver._fetch("SELECT current_setting('enable_seqscan'), current_setting('plan_cache_mode')")

    assert named[0][0] == 0
    assert tuple(settings[0]) == ("on", "auto")


# -- where claims start --------------------------------------------------------------------------

NOW_US = 1_700_000_000_000_000


def test_a_quick_claim_starts_at_the_beginning() -> None:
    bounds = ScanBounds()

    for _ in range(5):
        bounds.note_scan(NOW_US, 900, 10, {Q: NOW_US})
        bounds.note_scan(NOW_US, 9_000_000, 10, {Q: NOW_US})
        bounds.note_scan(NOW_US, 900, 10, {Q: NOW_US})

    assert bounds.lower_us([Q]) == [NO_BOUND_US]


def test_slow_claims_start_before_what_was_found_and_scan_all_again_in_time() -> None:
    bounds = ScanBounds()
    bounds.note_scan(NOW_US, 100_000, 10, {Q: NOW_US - 7})
    bounds.note_scan(NOW_US, 100_000, 10, {Q: NOW_US - 7})
    bounded = bounds.lower_us([Q, "not scanned"])

    bounds.note_scan(NOW_US + 1_000_000, 500, 10, {Q: NOW_US + 900_000})
    advanced = bounds.lower_us([Q])
    bounds.note_scan(NOW_US + 5_000_000, 500, 10, {Q: NOW_US + 5_000_000})

    assert bounded == [NOW_US - 7 - MARGIN_US, NO_BOUND_US]
    assert advanced == [NOW_US + 900_000 - MARGIN_US]
    assert bounds.lower_us([Q]) == [NO_BOUND_US]


def test_a_shifted_clock_resets_the_bounds() -> None:
    bounds = ScanBounds()
    bounds.note_scan(NOW_US, 100_000, 10, {Q: NOW_US})
    bounds.note_scan(NOW_US, 100_000, 10, {Q: NOW_US})

    bounds.forget_if_shifted(1)

    assert bounds.lower_us([Q]) == [NO_BOUND_US]


async def test_a_message_committed_late_is_found_below_the_bounds(store: PostgresHarness, other: Any) -> None:
    driver = make(store, listen=False, poll_s_max=0.1)
    await driver.open()
    transaction = other.transaction()
    await transaction.start()
    await driver.enqueue_in(other, messages("late"))
    driver.clock_offset = 10.0
    now_us = await other.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint") + 10_000_000
    driver._scan_bounds.forget_if_shifted(10_000_000)
    for _ in range(2):
        driver._scan_bounds.note_scan(now_us, 100_000, 0, {Q: now_us})
    await transaction.commit()

    assert await driver.reserve([Q], limit=1, lease_s=60) == []
    assert ids(await driver.reserve([Q], limit=1, lease_s=60, wait_s=SOON_S)) == ["late"]


async def test_dead_letters_stay_out_of_the_claim(store: PostgresHarness, other: Any) -> None:
    driver = make(store)
    await driver.enqueue(messages("a", "b"))
    a, _ = await driver.reserve([Q], limit=2, lease_s=60)
    await driver.settle([(a, Bury(reason=DeadReason.FAILED))])
    driver.clock_offset += 100

    assert ids(await driver.reserve([Q], limit=5, lease_s=60)) == ["b"]
    assert await driver.redrive(Q, limit=5) == 1
    assert ids(await driver.reserve([Q], limit=5, lease_s=60)) == ["a"]


async def test_a_claim_that_can_not_bury_what_is_damaged_keeps_its_leases_and_says_so(
    store: PostgresHarness, other: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = make(store)
    await driver.enqueue(messages("good", "damaged"))
    await other.execute("UPDATE asynctasq_messages SET attempts = -1 WHERE id = 'damaged'")

    async def refuse(*_: object) -> None:
        raise DriverUnavailable("the server is gone")

    monkeypatch.setattr(driver._inspection, "bury_damaged", refuse)

    assert ids(await driver.reserve([Q], limit=5, lease_s=60)) == ["good"]
    assert "a claim was cut short" in caplog.text
    assert "the server is gone" in caplog.text
