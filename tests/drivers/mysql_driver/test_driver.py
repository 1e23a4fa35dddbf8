"""What only the MySQL/MariaDB driver has: addresses, its schema, its statements, other people's transactions."""

import asyncio
import random
from typing import Any

import pytest

from asynctasq.drivers.levels import lines_of
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.drivers.mysql_driver import MySQLDriver
from asynctasq.drivers.mysql_driver.address import parse_address
from asynctasq.drivers.mysql_driver.claim_cursors import ClaimCursors
from asynctasq.drivers.mysql_driver.pool import Conflict, Connection, check_server, mapped_errors, packets
from asynctasq.drivers.mysql_driver.statements import Ending, Statements, literal, server_now
from asynctasq.drivers.mysql_driver.steps import parse_token
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import (
    BodyTooLarge,
    ConfigError,
    DriverError,
    DriverMisconfigured,
    DriverUnavailable,
)
from asynctasq.kernel.messages import Bury, Complete, DeadReason, ErrorRecord, Lease, Message, Release
from asynctasq.testing.conformance.harnesses.mysql import MySQLHarness
from tests.drivers.mysql_driver.support import EMPTY, ids, messages
from tests.patience import until

SQL = Statements("asynctasq")
LINES = lines_of("q")


# -- addresses -----------------------------------------------------------------------------------


def test_a_url_is_read_with_its_options() -> None:
    driver = create_driver("mariadb://us%40er:p%2Fw@db.example:3307/app?tls=on&table_prefix=jobs&max_connections=3")

    assert str(driver) == "mysql://db.example:3307/app (tables jobs_*)"


def test_the_password_shows_nowhere() -> None:
    driver = create_driver("mysql://root:s3cr3t@127.0.0.1:1/app")

    assert "s3cr3t" not in f"{driver} {parse_address('mysql://root:s3cr3t@h/app', command_timeout_s=1)!r}"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://root:s3cr3t@h", "names no database"),
        ("mysql://root:s3cr3t@h/a/b", "names no database"),
        ("mysql://root:s3cr3t@h:x/app", "port"),
        ("postgres://root:s3cr3t@h/app", "not a MySQL address"),
        ("mysql://root:s3cr3t@h/app?tls=maybe", "off, on, verify"),
        ("mysql://root:s3cr3t@h/app?connect_timeout_s=0", "above 0"),
        ("mysql://root:s3cr3t@h/app?command_timeout_s=-1", "above 0"),
        ("mysql://root:s3cr3t@h/app?max_conections=3", "did you mean 'max_connections'"),
        ("mysql://root:s3cr3t@h/app?max_connections=1", "2 or more"),
        ("mysql://root:s3cr3t@h/app?table_prefix=a`b", "table_prefix"),
    ],
)
def test_a_wrong_address_is_refused_in_words(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        MySQLDriver.from_url(url)

    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("version", ["8.0.36", "8.4.3", "9.1.0", "8.0.mysql_aurora.3.04.0", "10.6.12-MariaDB-log"])
def test_servers_with_skip_locked_are_accepted(version: str) -> None:
    check_server({"version": version, "log_bin": "ON", "binlog_format": "ROW"}, "here")


@pytest.mark.parametrize("version", ["5.7.44-log", "10.5.23-MariaDB", "5.5.62"])
def test_older_servers_are_refused(version: str) -> None:
    with pytest.raises(DriverMisconfigured, match="upgrade the server"):
        check_server({"version": version}, "here")


def test_a_statement_based_log_is_refused() -> None:
    with pytest.raises(DriverMisconfigured, match="ROW or MIXED"):
        check_server({"version": "8.0.36", "log_bin": "ON", "binlog_format": "STATEMENT"}, "here")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1213, Conflict),
        (1205, Conflict),
        (1040, DriverUnavailable),
        (1203, DriverUnavailable),
        (2013, DriverUnavailable),
        (1290, DriverUnavailable),
        (1045, DriverMisconfigured),
        (1146, DriverMisconfigured),
        (1064, DriverError),
    ],
)
def test_errors_of_the_server_become_ours(code: int, kind: type[DriverError]) -> None:
    from asyncmy.errors import OperationalError

    with pytest.raises(DriverError) as caught, mapped_errors("mysql://h:3306/app"):
        raise OperationalError(code, "text")

    assert type(caught.value) is kind or isinstance(caught.value, kind)
    assert isinstance(caught.value.__cause__, OperationalError)


# -- schema --------------------------------------------------------------------------------------


async def test_an_unmigrated_database_says_what_to_run(store: MySQLHarness) -> None:
    driver = MySQLDriver(store.url, table_prefix="other")

    assert await driver.schema_version() == 0
    with pytest.raises(DriverMisconfigured, match="run: asynctasq migrate --driver mysql"):
        await driver.open()
    with pytest.raises(DriverMisconfigured, match="run: asynctasq migrate --driver mysql"):
        await driver.enqueue(messages("a"))


async def test_migrating_at_once_from_several_places_applies_each_step_once(store: MySQLHarness) -> None:
    drivers = [MySQLDriver(store.url, table_prefix="fresh") for _ in range(4)]

    applied = await asyncio.gather(*(driver.migrate() for driver in drivers))

    assert sorted(applied) == [[], [], [], [1, 2, 3, 4]]
    assert await drivers[0].schema_version() == 4


async def test_a_migration_that_broke_off_is_finished_by_the_next(store: MySQLHarness, connection: Connection) -> None:
    driver = store.create()
    await driver.enqueue(messages("kept"))
    await connection.run("DROP TABLE asynctasq_results", "DELETE FROM asynctasq_schema")

    assert await MySQLDriver(store.url).migrate() == [1, 2, 3, 4]

    assert ids(await driver.reserve(["q"], limit=9, lease_s=9)) == ["kept"]
    assert (await connection.run("SELECT COUNT(*) FROM asynctasq_results"))[0].rows[0] == (0,)


async def test_the_statements_of_the_migrations_do_by_hand_what_migrate_does(
    store: MySQLHarness, connection: Connection
) -> None:
    driver = MySQLDriver(store.url, table_prefix="by_hand")

    for migration in driver.migrations():
        await connection.run(*migration.statements)

    assert await driver.migrate() == []
    assert await driver.enqueue(messages("a")) == ["a"]
    await driver.close()


async def test_two_prefixes_are_two_stores(store: MySQLHarness) -> None:
    other = MySQLDriver(store.url, table_prefix="other")
    await other.migrate()

    await store.create().enqueue(messages("a"))

    assert await other.depth("q") == EMPTY
    await other.close()


async def test_a_missing_database_and_a_wrong_password_are_named(store: MySQLHarness) -> None:
    with pytest.raises(DriverMisconfigured, match="does not exist"):
        await MySQLDriver(store.url + "_no").open()
    with pytest.raises(DriverMisconfigured, match="password is wrong") as caught:
        await MySQLDriver(store.url.replace("root@", "nobody:s3cr3t@")).open()
    assert "s3cr3t" not in str(caught.value)


# -- statements ----------------------------------------------------------------------------------


async def plan(connection: Connection, statement: str) -> list[tuple[str, str, str, str]]:
    """Return table, access type, index and remarks of each line of the plan."""
    (result,) = await connection.run(f"EXPLAIN {statement}")
    return [(str(row[2]), str(row[3]), str(row[5]), str(row[9])) for row in result.rows]


@pytest.mark.parametrize("rows", [0, 3, 5000])
async def test_every_locking_statement_goes_by_its_index_and_sorts_nothing(
    store: MySQLHarness, connection: Connection, rows: int
) -> None:
    await store.create().enqueue([Message(id=f"m{number}", queue="q", body=b"") for number in range(rows)])
    now = "@now"
    await connection.run(f"SET @now = {server_now(0)}")
    held = [(1, 1), (2, 1), (3, 2)]
    ending = Ending(held=(1, 1), delay_us=0, counted=True, crashed=False, reason=None, error=None)

    claim = await plan(connection, SQL.claim(LINES, limit=10, now=now, lease_us=1, holder="", after={}))
    behind = await plan(connection, SQL.claim(LINES, limit=10, now=now, lease_us=1, holder="h", after={"q": (5, 6)}))
    others = [
        await plan(connection, statement)
        for statement in (
            SQL.held(held),
            SQL.held_until(held, now=now, lease_us=1),
            SQL.extend(held, now=now, lease_us=1),
            SQL.complete(held),
            SQL.end([ending, ending], now=now),
            SQL.redrive("q", limit=10, now=now),
            SQL.purge("q", up_to=9, limit=10, now=now),
            SQL.removable([1, 2, 3], dead=True, now=now),
        )
    ]

    assert claim[-2][2] == "due"
    assert not [line for line in (*claim, *behind) if "filesort" in line[3] or "temporary" in line[3]]
    lines = [line for lines in [claim, behind, *others] for line in lines]
    # A redrive sorts what it found in the lines of the queue.
    found = [line for line in lines if not line[0].startswith("<union")]
    assert not [line for line in found if "filesort" in line[3] or "temporary" in line[3]]
    assert {line[2] for line in lines if line[0] in ("m", "asynctasq_messages")} <= {"due", "PRIMARY"}
    assert not [line for line in lines if line[0] == "m" and line[1] in ("ALL", "index")]


async def test_a_claim_locks_the_rows_it_takes_and_no_other(store: MySQLHarness, connection: Connection) -> None:
    driver = store.create()
    await driver.enqueue(messages(*"abcdefghij"))
    await connection.run(f"SET @asynctasq_now = {server_now(0)}, @asynctasq_claim = 1", "START TRANSACTION")
    await connection.run(SQL.claim(LINES, limit=2, now="@asynctasq_now", lease_us=1, holder="w", after={}))

    meanwhile = await driver.reserve(["q"], limit=9, lease_s=9)

    assert ids(meanwhile) == list("cdefghij")
    await connection.run("ROLLBACK")
    assert ids(await driver.reserve(["q"], limit=9, lease_s=9)) == ["a", "b"]


async def test_what_a_claim_locks_of_the_next_level_is_free_at_its_end(
    store: MySQLHarness, connection: Connection
) -> None:
    driver = store.create()
    await driver.enqueue([Message(id=f"h{number}", queue="q", body=b"", priority="high") for number in range(3)])
    await driver.enqueue(messages("a", "b"))
    await connection.run(f"SET @asynctasq_now = {server_now(0)}, @asynctasq_claim = 1", "START TRANSACTION")
    await connection.run(SQL.claim(LINES, limit=2, now="@asynctasq_now", lease_us=1, holder="w", after={}))

    meanwhile = await driver.reserve(["q"], limit=9, lease_s=9)
    await connection.run("COMMIT")

    assert ids(meanwhile)[0] == "h2"
    assert {"a", "b"} <= {*ids(meanwhile), *ids(await driver.reserve(["q"], limit=9, lease_s=9))}


async def test_now_is_whole_microseconds_in_any_time_zone(connection: Connection) -> None:
    zones = ["+00:00", "+12:45", "-11:00"]
    readings = [await connection.run(f"SET time_zone = '{zone}'", f"SELECT {server_now(0)}") for zone in zones]
    (exact, _, micros) = (
        await connection.run(f"SELECT {server_now(0)}, SLEEP(0), UNIX_TIMESTAMP(NOW(6)) * 1000000 - {server_now(0)}")
    )[0].rows[0]

    instants = [results[1].rows[0][0] for results in readings]
    assert all(isinstance(instant, int) for instant in [*instants, exact])
    assert instants == sorted(instants)
    assert instants[-1] - instants[0] < 60_000_000
    assert micros == 0


async def test_now_moves_on_within_a_packet(connection: Connection) -> None:
    first, _, second = await connection.run(f"SELECT {server_now(0)}", "DO SLEEP(0.02)", f"SELECT {server_now(0)}")

    assert second.rows[0][0] - first.rows[0][0] >= 20_000


def test_statements_hold_nothing_that_another_library_reads_as_a_placeholder() -> None:
    hostile = Message(id="%s'\\\"?:x;--", queue="q:1", body=bytes(range(256)))
    ending = Ending(held=(1, 1), delay_us=0, counted=True, crashed=False, reason="failed", error="%(a)s ' ?")

    made = [
        SQL.insert([hostile], now=server_now(5), claim="1"),
        SQL.inserted([hostile.id], claim="1"),
        SQL.end([ending], now=server_now(-5)),
        SQL.claim(lines_of("q:1"), limit=1, now=server_now(0), lease_us=1, holder=hostile.id, after={}),
        SQL.store_identity(now=server_now(0)),
    ]

    assert not [statement for statement in made if set('%?:;\\"') & set(statement)]
    assert literal(b"") == "''"


def test_statements_are_packed_in_order_up_to_a_size() -> None:
    small, large = "SELECT 1", "SELECT " + "1" * 2_000_000

    assert list(packets([small, small, large, small])) == ["SELECT 1;SELECT 1", large, small]


@pytest.mark.parametrize("token", ["", "1", "1.", ".1", "a.b", "1.1.1", "-1.1", "1.1 ", "\u0661.1", "9" * 60 + ".1"])
def test_a_token_we_never_granted_is_refused(token: str) -> None:
    assert parse_token(token) is None


def test_a_claim_starts_after_the_last_one_until_a_full_scan_is_due() -> None:
    cursors = ClaimCursors()
    assert cursors.start_after(["q"], offset_us=0, at=5.0) == {}

    cursors.note_full_scan({"q": (7, 8)}, full=True, offset_us=0, started_at=5.0, ended_at=5.001)
    assert cursors.start_after(["r", "q"], offset_us=0, at=5.05) == {"q": (7, 8)}
    cursors.note_partial_scan({"q": (9, 1)}, full=True)
    assert cursors.start_after(["q"], offset_us=0, at=5.05) == {"q": (9, 1)}

    assert cursors.start_after(["q"], offset_us=1, at=5.05) == {}, "the clock was moved"
    assert cursors.start_after(["q"], offset_us=0, at=5.2) == {}, "a full scan is due"
    cursors.note_partial_scan({"q": (9, 5)}, full=False)
    assert cursors.start_after(["q"], offset_us=0, at=5.05) == {}, "there was no backlog any more"


def test_a_full_scan_that_takes_long_is_rare_but_comes() -> None:
    cursors = ClaimCursors()

    cursors.note_full_scan({"q": (1, 1)}, full=True, offset_us=0, started_at=0.0, ended_at=0.1)
    assert cursors.start_after(["q"], offset_us=0, at=1.09)
    assert not cursors.start_after(["q"], offset_us=0, at=1.11)
    cursors.note_full_scan({"q": (1, 1)}, full=True, offset_us=0, started_at=0.0, ended_at=60.0)
    assert not cursors.start_after(["q"], offset_us=0, at=62.1)


# -- storing -------------------------------------------------------------------------------------


async def test_ids_and_queues_differ_by_case_and_trailing_space(store: MySQLHarness) -> None:
    driver = store.create()
    names = ["a", "A", "a ", "\u00e4", "a\u0308", "'", "\\", "\U0001f600", "x" * 128]

    assert await driver.enqueue([*messages(*names), *messages("Q", queue="Q")]) == [*names, "Q"]

    leases = await driver.reserve(["q"], limit=99, lease_s=9)
    assert [(lease.message_id, lease.body) for lease in leases] == [(name, name.encode()) for name in names]
    assert await driver.queues() == ["Q", "q"]


async def test_every_byte_and_an_empty_body_come_back(store: MySQLHarness) -> None:
    driver = store.create()
    bodies = [bytes(range(256)) * 3, b"", b"\\'\"\0\x1a%s"]

    await driver.enqueue([Message(id=str(number), queue="q", body=body) for number, body in enumerate(bodies)])

    assert [lease.body for lease in await driver.reserve(["q"], limit=9, lease_s=9)] == bodies


async def test_the_largest_body_fits_and_a_larger_one_stores_nothing(store: MySQLHarness) -> None:
    driver = store.create()
    largest = driver.capabilities.body_bytes_max
    assert largest is not None

    with pytest.raises(BodyTooLarge):
        await driver.enqueue([*messages("a"), Message(id="b", queue="q", body=b"x" * (largest + 1))])
    assert await driver.depth("q") == EMPTY

    body = random.Random(1).randbytes(largest)
    await driver.enqueue([Message(id="b", queue="q", body=body), *messages("c")])
    (lease, _) = await driver.reserve(["q"], limit=2, lease_s=99)
    assert lease.body == body
    assert await driver.settle([(lease, Complete(result=body, result_ttl_s=60))]) == set()
    assert await driver.fetch_result("b") == body


async def test_a_hundred_thousand_messages_are_stored_as_one(store: MySQLHarness) -> None:
    driver = store.create()
    batch = [Message(id=f"m{number}", queue="q", body=b"x" * 50) for number in range(100_000)]

    new = await driver.enqueue([batch[70_000], *batch])

    assert len(new) == 100_000
    assert (await driver.depth("q")).ready == 100_000
    assert ids(await driver.reserve(["q"], limit=2, lease_s=9)) == ["m70000", "m0"]


async def test_a_batch_says_exactly_which_of_its_ids_are_new(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("b", "d"))

    assert await driver.enqueue(messages("a", "b", "a", "c", "d")) == ["a", "c"]
    assert await driver.enqueue(messages("a", "b")) == []
    assert await driver.enqueue(messages("b")) == []


async def test_numbers_of_another_call_keep_no_message_out(store: MySQLHarness, connection: Connection) -> None:
    driver = store.create()
    insert = SQL.insert(messages("a"), now=server_now(0), claim="0")
    await connection.run("START TRANSACTION", insert)
    waiting = asyncio.create_task(driver.enqueue(messages("a", "b", "c")))  # has its numbers; waits for "a"
    await until(lambda: _is_waited_for_locks(connection), "the call waits")
    assert await driver.enqueue(messages("b", "d")) == ["b", "d"]  # with the numbers behind those

    await connection.run("ROLLBACK")

    assert await waiting == ["a", "c"]
    assert sorted(ids(await driver.reserve(["q"], limit=9, lease_s=9))) == list("abcd")


async def _is_waited_for_locks(connection: Connection) -> bool:
    (shown,) = await connection.run("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(shown.rows[0][1]) > 0


async def test_a_lease_of_an_earlier_life_of_the_same_id_settles_nothing(store: MySQLHarness) -> None:
    driver = store.create()
    await driver.enqueue(messages("a"))
    (first,) = await driver.reserve(["q"], limit=1, lease_s=9)
    await driver.settle([(first, Complete())])
    await driver.enqueue(messages("a"))
    (second,) = await driver.reserve(["q"], limit=1, lease_s=9)

    assert await driver.settle([(first, Complete())]) == {"a"}
    assert await driver.extend([first], lease_s=9) == {"a"}
    assert await driver.settle([(second, Complete())]) == set()


async def test_results_that_ran_out_are_dropped_when_others_are_stored(
    store: MySQLHarness, connection: Connection
) -> None:
    driver = store.create()
    await driver.enqueue(messages(*"abc"))
    leases = await driver.reserve(["q"], limit=3, lease_s=9)
    await driver.settle([(lease, Complete(result=b"r", result_ttl_s=5)) for lease in leases[:2]])
    store.advance(6)

    await driver.settle([(leases[2], Complete(result=b"r", result_ttl_s=5))])

    assert [row[0] for row in (await connection.run("SELECT id FROM asynctasq_results"))[0].rows] == [b"c"]


# -- the same as the reference -------------------------------------------------------------------


def _operation(rng: random.Random, held: list[tuple[Lease, Lease]]) -> tuple[str, Any]:
    names = [f"m{rng.randrange(12)}" for _ in range(rng.choice([1, 2, 5]))]
    queue = rng.choice("abc")
    match rng.choice("eerrttxcdpzsf"):
        case "e":
            return "enqueue", [
                Message(id=name, queue=queue, body=b"x", delay_s=rng.choice([0, 0, 50])) for name in names
            ]
        case "r":
            return "reserve", (rng.sample("abc", rng.randint(1, 3)), rng.choice([1, 2, 9]), rng.choice([10, 1000]))
        case "t" | "s":
            return "settle", [(rng.randrange(len(held)), _settlement(rng, queue)) for _ in names] if held else []
        case "x":
            return "extend", [rng.randrange(len(held)) for _ in names] if held else []
        case "c":
            return "cancel", names
        case "d":
            return "discard", names
        case "p":
            return "purge", queue
        case "z":
            return "redrive", (queue, rng.choice([1, 9]))
        case _:
            return "advance", rng.choice([5, 60])


def _settlement(rng: random.Random, queue: str) -> Complete | Release | Bury:
    follow_ups = (Message(id=f"m{rng.randrange(12)}", queue=queue, body=b"f"),) if rng.random() < 0.2 else ()
    error = ErrorRecord(type="E", message="caf\u00e9 ' %s") if rng.random() < 0.5 else None
    settlements: list[Complete | Release | Bury] = [
        Complete(follow_ups=follow_ups),
        Complete(result=b"r", result_ttl_s=20),
        Release(counted=rng.random() < 0.5, crashed=rng.random() < 0.2, error=error, delay_s=rng.choice([0, 30])),
        Bury(reason=DeadReason.FAILED, counted=True, error=error, follow_ups=follow_ups),
    ]
    return rng.choice(settlements)


async def _apply(driver: Any, name: str, what: Any, held: list[Lease], rng: random.Random) -> Any:
    match name:
        case "enqueue":
            return await driver.enqueue(what)
        case "reserve":
            queues, limit, lease_s = what
            leases = await driver.reserve(queues, limit=limit, lease_s=lease_s)
            held += leases
            return [(lease.message_id, lease.queue, lease.body, lease.attempt, lease.crashes) for lease in leases]
        case "settle":
            return await driver.settle([(held[index], settlement) for index, settlement in what])
        case "extend":
            return await driver.extend([held[index] for index in what], lease_s=100)
        case "redrive":
            return await driver.redrive(what[0], limit=what[1])
        case "advance":
            driver.clock_offset += what
            return None
        case _:
            return await getattr(driver, name)(what)


async def _contents(driver: Any) -> Any:
    found = {}
    for queue in await driver.queues():
        depth = await driver.depth(queue)
        listed = (await driver.list_messages(queue)).messages
        kept = [(one.id, one.state, one.attempts, one.crashes, one.reason, one.error) for one in listed]
        found[queue] = (depth.ready, depth.scheduled, depth.reserved, depth.dead, kept)
    return found, [await driver.fetch_result(f"m{number}") for number in range(12)]


async def _is_same_message(driver: MemoryDriver, lease: Lease) -> bool:
    found = await driver.find(lease.message_id)
    return found is not None and found.enqueued_at == lease.enqueued_at


@pytest.mark.parametrize("seed", range(6))
async def test_random_operations_do_what_they_do_in_memory(store: MySQLHarness, seed: int) -> None:
    rng, mine, reference = random.Random(seed), store.create(), MemoryDriver()
    ours: list[Lease] = []
    theirs: list[Lease] = []

    # In memory the tokens of an id start again when it is stored again, so its earlier leases are dropped.
    for step in range(120):
        name, what = _operation(rng, list(zip(ours, theirs, strict=True)))
        got = await _apply(mine, name, what, ours, rng)
        wanted = await _apply(reference, name, what, theirs, rng)

        assert got == wanted, f"step {step}: {name} {what}"
        assert await _contents(mine) == await _contents(reference), f"step {step}: {name} {what}"
        is_same = [await _is_same_message(reference, lease) for lease in theirs]
        ours = [lease for lease, same in zip(ours, is_same, strict=True) if same]
        theirs = [lease for lease, same in zip(theirs, is_same, strict=True) if same]
