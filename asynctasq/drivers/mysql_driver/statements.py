"""Every SQL text of the MySQL/MariaDB driver, with all values written in; runs nothing.

Values are numbers or hexadecimal literals, so no text needs escaping: neither `sql_mode` nor the character
set can change what a statement means, several statements fit into one packet, and no statement holds the
characters `%`, `:` or `?` that other libraries read as placeholders.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asynctasq.drivers.damaged import DamagedMessage
from asynctasq.drivers.levels import line_of, lines_of, queue_in
from asynctasq.drivers.mysql_driver.claim_cursors import Position
from asynctasq.drivers.sql.identifiers import quote
from asynctasq.kernel.messages import Message, State, microseconds

__all__ = ["CLAIM", "MESSAGE_COLUMNS", "NOW", "Ending", "KeptResult", "LeaseKey", "Statements", "literal", "server_now"]

NOW = "@asynctasq_now"
"""Where a transaction of our own keeps the instant it works with, in microseconds."""
CLAIM = "@asynctasq_claim"
"""Where it keeps the unique number that marks the rows it wrote."""

TOKEN_MAX, CRASHES_MAX = 2**63 - 2, 2**32 - 2
MESSAGE_COLUMNS = (
    "dead, id, queue, body, leased, attempts, crashes, enqueued_us, visible_us, reason, error,"
    " reserved_us, TRIM(TRAILING 0x00 FROM reserved_by), IF(progress_token = token, progress, NULL)"
)

LeaseKey = tuple[int, int]
"""`seq` and `token` of a lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a `Release` or a `Bury` does to one row."""

    held: LeaseKey
    delay_us: int
    counted: bool
    crashed: bool
    reason: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResult:
    """What a `Complete` leaves behind."""

    held: LeaseKey
    ttl_us: int
    result: bytes


def literal(value: str | bytes | None) -> str:
    """Return a text or bytes as SQL."""
    if value is None:
        return "NULL"
    data = value.encode() if isinstance(value, str) else value
    return f"0x{data.hex()}" if data else "''"


def server_now(offset_us: int) -> str:
    """Return an expression for whole microseconds since the epoch at the start of the statement it stands in.

    UTC_TIMESTAMP knows no time zone, and TIMESTAMPDIFF counts in integers where UNIX_TIMESTAMP has a fraction.
    """
    return f"(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + {offset_us})"


def _fence(held: Iterable[LeaseKey], table: str, *, leased: int = 1) -> str:
    """Return a condition that holds for exactly these leases and can be found by primary key; or, once released."""
    by_token: dict[int, list[str]] = {}
    for seq, token in held:
        by_token.setdefault(token, []).append(str(seq))
    parts = [f"{table}.token = {token} AND {table}.seq IN ({','.join(seqs)})" for token, seqs in by_token.items()]
    return f"{table}.leased = {leased} AND ({' OR '.join(parts)})"


def _in(lines: Iterable[str]) -> str:
    return f"queue IN ({','.join(map(literal, lines))})"


def _values(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a table. MySQL and MariaDB have different VALUES syntax; both accept this."""
    first, *rest = rows
    head = ",".join(f"{value} AS {name}" for name, value in zip(names, first, strict=True))
    return " UNION ALL ".join([f"SELECT {head}", *(f"SELECT {','.join(map(str, row))}" for row in rest)])


def _redriven(now: str) -> str:
    return (
        " SET m.dead = 0, m.attempts = 0, m.crashes = 0, m.reason = NULL, m.error = NULL, m.unique_key = NULL,"
        f" m.visible_us = {now}, m.enqueued_us = {now}"
    )


class Statements:
    """The statements for the tables of one prefix. `now` is an expression or a number, in microseconds."""

    def __init__(self, prefix: str) -> None:
        self.messages = quote(f"{prefix}_messages", mark="`")
        self.results = quote(f"{prefix}_results", mark="`")
        self.versions = quote(f"{prefix}_schema", mark="`")

    # -- schema ----------------------------------------------------------------------------------

    def state(self) -> str:
        """Select the version recorded last, NULL if none, and the id of these tables."""
        return f"SELECT MAX(version), ({self._store()}) FROM {self.versions}"

    def _store(self) -> str:
        return f"SELECT store FROM {self.versions} WHERE version = 1"

    def store_identity(self, *, now: str) -> str:
        """Select now, a unique number, and the database and the id of the tables that a connection reaches."""
        return f"SELECT {now}, UUID_SHORT(), DATABASE(), ({self._store()})"

    # -- storing ---------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], *, now: str, claim: str) -> str:
        """Store what is new; its affected rows say how many. A plain no-op update keeps all other errors errors.

        It must not name `seq`: the server would then go on numbering after the row that is there, with numbers that
        other transactions have been promised, and take the rows that get one of those for stored already.
        """
        rows = ",".join(
            f"({literal(message.id)},{literal(line_of(message))},"
            f"{now}+{microseconds(message.delay_s)},{now},{claim},{literal(message.body)})"
            for message in messages
        )
        columns = "id, queue, visible_us, enqueued_us, claim, body"
        return f"INSERT INTO {self.messages} ({columns}) VALUES {rows} ON DUPLICATE KEY UPDATE id = id"

    def select_stored(self, message_ids: Iterable[str]) -> str:
        """Select those of the ids that are stored, without a lock."""
        ids = ",".join(map(literal, message_ids))
        return f"SELECT id FROM {self.messages} FORCE INDEX (by_id) WHERE id IN ({ids})"

    def inserted(self, message_ids: Iterable[str], *, claim: str) -> str:
        """Select the ids that this transaction's insert stored."""
        return f"{self.select_stored(message_ids)} AND claim = {claim}"

    # -- reserving -------------------------------------------------------------------------------

    def claim(
        self,
        lines: Sequence[str],
        *,
        limit: int | str,
        now: str,
        lease_us: int,
        holder: str,
        after: Mapping[str, Position],
    ) -> str:
        """Lease the first visible messages of the lines of a queue, or those after a position; affected rows: how many.

        Each inner select reads `due` in its own order, so it locks what it returns and nothing else; what the lines
        before left no room for is free again at the end of the transaction. The outer part goes by primary key, in
        that order: with a plan of its own choice it would wait for others' rows. No damaged number of one row lets the
        statement fail for all.
        """
        walks: list[str] = []
        for line in lines:
            position, start = after.get(line), ""
            if position is not None:
                start = f" AND (visible_us > {position[0]} OR visible_us = {position[0]} AND seq > {position[1]})"
            walks.append(
                f"(SELECT seq, visible_us, leased FROM {self.messages} FORCE INDEX (due)"
                f" WHERE queue = {literal(line)} AND dead = 0 AND visible_us <= {now}{start}"
                f" ORDER BY queue, dead, visible_us, seq LIMIT {limit} FOR UPDATE SKIP LOCKED)"
            )
        chosen = walks[0] if len(walks) == 1 else f"({' UNION ALL '.join(walks)} LIMIT {limit})"
        return (
            f"UPDATE {chosen} AS c"
            f" STRAIGHT_JOIN {self.messages} AS m FORCE INDEX (PRIMARY) ON m.seq = c.seq"
            f" SET m.crashes = LEAST(m.crashes, {CRASHES_MAX}) + (c.leased > 0), m.leased = 1,"
            f" m.token = LEAST(m.token, {TOKEN_MAX}) + 1,"
            f" m.claim = {CLAIM}, m.claimed_us = c.visible_us, m.visible_us = {now} + {lease_us},"
            f" m.reserved_us = {now}, m.reserved_by = {literal(holder or chr(0))}"
        )

    def claim_queue(
        self,
        lines: Sequence[str],
        *,
        limit: int | str,
        now: str,
        lease_us: int,
        holder: str,
        after: Mapping[str, Position],
    ) -> list[str]:
        """Lease from the lines of a queue; `limit` may be a variable of the server.

        A walk of an empty line locks, for a moment, the row behind it, which is that of another queue. So the other
        lines are walked only if a look without locks has found messages there. A LIMIT takes a number only, so the
        statement is put together on the server. It holds no quote.
        """
        queue = queue_in(lines[0])

        def text(some: Sequence[str]) -> str:
            whole = self.claim(some, limit="@", now=now, lease_us=lease_us, holder=holder, after=after)
            parts = f"LIMIT ', {limit}, '".join(whole.split("LIMIT @"))
            return f"CONCAT('{parts}')"

        others = _in(line for line in lines if line != queue)
        found = f"EXISTS (SELECT 1 FROM {self.messages} FORCE INDEX (due) WHERE {others} AND dead = 0)"
        return [
            # Not SET: that would lock what its subselect reads.
            f"SELECT IF({found}, {text(lines)}, {text([queue])}) INTO @asynctasq_sql",
            "PREPARE asynctasq_claim FROM @asynctasq_sql",
            "EXECUTE asynctasq_claim",
        ]

    def claimed(self, lines: Iterable[str], *, now: str, lease_us: int) -> str:
        """Select what this transaction leased: all of it has the same new `visible_us`, so `due` finds it."""
        return (
            "SELECT seq, queue, id, body, token, attempts, crashes, enqueued_us, visible_us, claimed_us"
            f" FROM {self.messages} FORCE INDEX (due) WHERE {_in(lines)} AND dead = 0"
            f" AND visible_us = {now} + {lease_us} AND claim = {CLAIM}"
        )

    def claim_released(self, released: Sequence[LeaseKey], *, now: str, lease_us: int, holder: str) -> list[str]:
        """Lease what these leases released and nobody has reserved since; select it, with its queue."""
        source = f"{self.messages} AS m FORCE INDEX (PRIMARY)"
        seqs = ",".join(str(seq) for seq, _ in released)
        claim = (
            f"UPDATE {source} SET m.leased = 1, m.token = m.token + 1, m.claim = {CLAIM},"
            f" m.visible_us = {now} + {lease_us}, m.reserved_us = {now}, m.reserved_by = {literal(holder or chr(0))}"
            f" WHERE m.dead = 0 AND {_fence(released, 'm', leased=0)}"
        )
        columns = "m.seq, m.queue, m.id, m.body, m.token, m.attempts, m.crashes, m.enqueued_us, m.visible_us, 0"
        return [claim, f"SELECT {columns} FROM {source} WHERE m.seq IN ({seqs}) AND m.claim = {CLAIM}"]

    def next_visible(self, queues: Iterable[str], *, now: str) -> str:
        """Select now and, for each line, when its first message is visible."""
        firsts = [
            f"(SELECT MIN(visible_us) FROM {self.messages} FORCE INDEX (due)"
            f" WHERE queue = {literal(line)} AND dead = 0)"
            for queue in queues
            for line in lines_of(queue)
        ]
        return f"SELECT {', '.join([now, *firsts])}"

    # -- settling --------------------------------------------------------------------------------

    def held(self, held: Iterable[LeaseKey]) -> str:
        """Lock those of the leases that are still the latest, in the order of the key, and select them."""
        fence = _fence(held, "m")
        return f"SELECT m.seq, m.token FROM {self.messages} AS m FORCE INDEX (PRIMARY) WHERE {fence} FOR UPDATE"

    def held_until(self, held: Iterable[LeaseKey], *, now: str, lease_us: int) -> str:
        """Do as `held`, and select the queue and whether the lease was to end later than that from now, too."""
        more = f", m.queue, m.visible_us > {now} + {lease_us}"
        source = f"{self.messages} AS m FORCE INDEX (PRIMARY)"
        return f"SELECT m.seq, m.token{more} FROM {source} WHERE {_fence(held, 'm')} FOR UPDATE"

    def extend(self, held: Iterable[LeaseKey], *, now: str, lease_us: int) -> str:
        """Let the leases that are still the latest end so much later than now."""
        source = f"{self.messages} AS m FORCE INDEX (PRIMARY)"
        return f"UPDATE {source} SET m.visible_us = {now} + {lease_us} WHERE {_fence(held, 'm')}"

    def report_progress(self, held: LeaseKey, progress: str) -> str:
        """Store how far an attempt is whose lease is still the latest."""
        source = f"{self.messages} AS m FORCE INDEX (PRIMARY)"
        change = f"m.progress = {literal(progress)}, m.progress_token = m.token"
        return f"UPDATE {source} SET {change} WHERE {_fence([held], 'm')}"

    def complete(self, held: Iterable[LeaseKey]) -> str:
        """Remove finished messages."""
        return f"DELETE m FROM {self.messages} AS m FORCE INDEX (PRIMARY) WHERE {_fence(held, 'm')}"

    def keep_results(self, results: Sequence[KeptResult], *, now: str) -> list[str]:
        """Store results of leases that hold, before `complete`; delete up to twice as many expired ones."""
        rows = _values(
            ("seq", "token", "ttl_us", "result"),
            ((*kept.held, kept.ttl_us, literal(kept.result)) for kept in results),
        )
        store = (
            f"INSERT INTO {self.results} (id, expires_us, result)"
            f" SELECT m.id, {now} + v.ttl_us, v.result FROM ({rows}) AS v"
            f" STRAIGHT_JOIN {self.messages} AS m FORCE INDEX (PRIMARY) ON m.seq = v.seq"
            " WHERE m.leased = 1 AND m.token = v.token"
            f" ON DUPLICATE KEY UPDATE expires_us = {now} + v.ttl_us, result = v.result"
        )
        return [store, self.prune_results(now=now, limit=2 * len(results))]

    def end(self, endings: Iterable[Ending], *, now: str) -> str:
        """Release or bury; a dead letter gets this instant as `visible_us`."""
        rows = _values(
            ("seq", "token", "delay_us", "counted", "crashed", "dead", "reason", "error"),
            (
                (
                    *(*ending.held, ending.delay_us, int(ending.counted), int(ending.crashed)),
                    *(int(ending.reason is not None), literal(ending.reason), literal(ending.error)),
                )
                for ending in endings
            ),
        )
        return (
            f"UPDATE ({rows}) AS v STRAIGHT_JOIN {self.messages} AS m FORCE INDEX (PRIMARY) ON m.seq = v.seq"
            " SET m.leased = 0, m.dead = v.dead, m.reason = v.reason, m.attempts = m.attempts + v.counted,"
            " m.crashes = m.crashes + v.crashed, m.error = IF(v.dead, v.error, COALESCE(v.error, m.error)),"
            f" m.visible_us = {now} + v.delay_us WHERE m.leased = 1 AND m.token = v.token"
        )

    def bury_damaged(self, held: LeaseKey, dead: DamagedMessage, *, now: str) -> str:
        """Make a dead letter of a row that was just leased and that no driver has written."""
        seq, token = held
        return (
            f"UPDATE {self.messages} AS m FORCE INDEX (PRIMARY) SET m.id = {literal(dead.message_id)}, m.dead = 1,"
            f" m.leased = 0, m.reason = {literal('undecodable')}, m.error = {literal(dead.error)}, m.token = 0,"
            f" m.attempts = {dead.attempts}, m.crashes = {dead.crashes}, m.enqueued_us = {dead.enqueued_us},"
            f" m.visible_us = {now} WHERE m.seq = {seq} AND m.token = {token} AND m.leased = 1"
        )

    # -- what is to go -----------------------------------------------------------------------------

    def prune_results(self, *, now: str, limit: int) -> str:
        """Delete some expired results; its affected rows say how many."""
        return (
            f"DELETE r FROM (SELECT id FROM {self.results} FORCE INDEX (expiry) WHERE expires_us <= {now}"
            f" ORDER BY expires_us LIMIT {limit} FOR UPDATE SKIP LOCKED) AS c"
            f" STRAIGHT_JOIN {self.results} AS r FORCE INDEX (PRIMARY) ON r.id = c.id"
        )

    def dead_too_old(self, line: str, *, ttl_us: int, limit: int, now: str) -> str:
        """Select the keys of the oldest of the dead letters whose time is over, without a lock."""
        return (
            f"SELECT seq FROM {self.messages} FORCE INDEX (due) WHERE queue = {literal(line)} AND dead = 1"
            f" AND visible_us <= {now} - {ttl_us} ORDER BY queue, dead, visible_us, seq LIMIT {limit}"
        )

    def dead_too_many(self, line: str, *, keep: int, limit: int) -> str:
        """Select the keys of dead letters beyond the newest ones, without a lock."""
        return (
            f"SELECT seq FROM {self.messages} FORCE INDEX (due) WHERE queue = {literal(line)} AND dead = 1"
            f" ORDER BY queue DESC, dead DESC, visible_us DESC, seq DESC LIMIT {limit} OFFSET {keep}"
        )

    def remove_dead(self, seqs: Iterable[int]) -> str:
        """Delete those of the rows that are dead letters still."""
        return f"{self.remove(seqs)} AND m.dead = 1"

    # -- inspecting ---------------------------------------------------------------------------------

    def depth(self, queue: str, *, now: str) -> str:
        """Select now, ready, scheduled, reserved, dead and the oldest ready instant, of one snapshot."""
        source = f"FROM {self.messages} FORCE INDEX (due) WHERE {_in(lines_of(queue))} AND dead"
        later = f"(SELECT COUNT(*) {source} = 0 AND visible_us > {now} AND leased"
        return (
            f"SELECT {now}, (SELECT COUNT(*) {source} = 0 AND visible_us <= {now}), {later} = 0), {later} > 0),"
            f" (SELECT COUNT(*) {source} > 0), (SELECT MIN(visible_us) {source} = 0 AND visible_us <= {now})"
        )

    def redrive(self, queue: str, *, limit: int, now: str) -> str:
        """Make the oldest dead letters ready; its affected rows say how many."""
        walks = " UNION ALL ".join(
            f"(SELECT seq, visible_us FROM {self.messages} FORCE INDEX (due) WHERE queue = {literal(line)} AND dead = 1"
            f" ORDER BY queue, dead, visible_us, seq LIMIT {limit} FOR UPDATE SKIP LOCKED)"
            for line in lines_of(queue)
        )
        return (
            f"UPDATE ({walks} ORDER BY visible_us, seq LIMIT {limit}) AS c"
            f" STRAIGHT_JOIN {self.messages} AS m FORCE INDEX (PRIMARY) ON m.seq = c.seq{_redriven(now)}"
        )

    def redrive_seqs(self, seqs: Iterable[int], *, now: str) -> str:
        """Make dead letters ready that this transaction has locked."""
        source = f"{self.messages} AS m FORCE INDEX (PRIMARY)"
        return f"UPDATE {source}{_redriven(now)} WHERE m.seq IN ({','.join(map(str, seqs))})"

    def queues(self) -> str:
        """Select the names of all queues."""
        return f"SELECT DISTINCT queue FROM {self.messages} ORDER BY queue"

    def find(self, message_id: str, *, now: str) -> str:
        """Select now and the message."""
        return f"SELECT {now}, {MESSAGE_COLUMNS} FROM {self.messages} WHERE id = {literal(message_id)}"

    def lives(self, message_id: str) -> str:
        """Select one row if the message is there and no dead letter."""
        return f"SELECT 1 FROM {self.messages} WHERE id = {literal(message_id)} AND dead = 0"

    def list_messages(self, queue: str, state: State | None, *, after: int, limit: int, now: str) -> str:
        """Select now, seq and up to `limit` messages in the order of arrival."""
        return (
            f"SELECT {now}, seq, {MESSAGE_COLUMNS} FROM {self.messages} WHERE {_in(lines_of(queue))}"
            f" AND seq > {after} AND {_STATES[state].format(now=now)} ORDER BY seq LIMIT {limit}"
        )

    def seqs(self, message_ids: Iterable[str], *, lock: bool = False) -> str:
        """Select the keys of messages by their ids, without a lock unless asked for one."""
        ids = ",".join(map(literal, message_ids))
        locking = " FOR UPDATE" if lock else ""
        return f"SELECT seq FROM {self.messages} FORCE INDEX (by_id) WHERE id IN ({ids}){locking}"

    def removable(self, seqs: Iterable[int], *, dead: bool, now: str) -> str:
        """Lock and select those of the messages that are dead letters, or not leased; in order of the key."""
        state = "dead > 0" if dead else f"dead = 0 AND (leased = 0 OR visible_us <= {now})"
        return (
            f"SELECT seq, id, queue FROM {self.messages} FORCE INDEX (PRIMARY)"
            f" WHERE seq IN ({','.join(map(str, seqs))}) AND {state} FOR UPDATE"
        )

    def cancellable(self, seqs: Iterable[int]) -> str:
        """Lock those of the messages that are no dead letters, in order of the key; select their leases and holders."""
        return (
            "SELECT seq, id, leased, token, TRIM(TRAILING 0x00 FROM reserved_by)"
            f" FROM {self.messages} FORCE INDEX (PRIMARY)"
            f" WHERE seq IN ({','.join(map(str, seqs))}) AND dead = 0 FOR UPDATE"
        )

    def keep_marks(self, marks: Mapping[str, bytes], *, ttl_us: int, now: str) -> str:
        """Keep something in place of the results of messages."""
        rows = ",".join(f"({literal(key)},{now}+{ttl_us},{literal(mark)})" for key, mark in marks.items())
        return f"REPLACE INTO {self.results} (id, expires_us, result) VALUES {rows}"

    def remove(self, seqs: Iterable[int]) -> str:
        """Delete rows that this transaction has locked."""
        return f"DELETE m FROM {self.messages} AS m FORCE INDEX (PRIMARY) WHERE m.seq IN ({','.join(map(str, seqs))})"

    def last_seq(self, *, now: str) -> str:
        """Select now and the highest arrival."""
        return f"SELECT {now}, COALESCE(MAX(seq), 0) FROM {self.messages}"

    def purge(self, line: str, *, up_to: int, limit: int, now: str) -> str:
        """Delete some messages that are not leased and arrived by `up_to`; its affected rows say how many."""
        return (
            f"DELETE m FROM (SELECT seq FROM {self.messages} FORCE INDEX (due) WHERE queue = {literal(line)}"
            f" AND dead = 0 AND (leased = 0 OR visible_us <= {now}) AND seq <= {up_to}"
            f" ORDER BY queue, dead, visible_us, seq LIMIT {limit} FOR UPDATE SKIP LOCKED) AS c"
            f" STRAIGHT_JOIN {self.messages} AS m FORCE INDEX (PRIMARY) ON m.seq = c.seq"
        )

    def result(self, message_id: str, *, now: str) -> str:
        """Select a result that has not expired."""
        return f"SELECT result FROM {self.results} WHERE id = {literal(message_id)} AND expires_us > {now}"


_STATES: Mapping[State | None, str] = {
    None: "TRUE",
    State.READY: "dead = 0 AND visible_us <= {now}",
    State.SCHEDULED: "dead = 0 AND leased = 0 AND visible_us > {now}",
    State.RESERVED: "dead = 0 AND leased > 0 AND visible_us > {now}",
    State.DEAD: "dead > 0",
    State.COMPLETED: "FALSE",
    State.CANCELLED: "FALSE",
}
