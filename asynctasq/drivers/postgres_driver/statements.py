"""The statements of the PostgreSQL driver, built once from validated names; nothing here connects or decides.

Parameters are `$n` and always cast, so that every client library can send them. Instants and delays are
integer microseconds. `clock` is read once per statement, from the server.
"""

from dataclasses import dataclass
from hashlib import blake2b

from asynctasq.drivers.postgres_driver.storing_statements import CLOCK, MICROSECONDS_NOW, RANKED, StoringStatements
from asynctasq.drivers.sql.identifiers import check_identifier, quote

__all__ = ["KIND_BURY", "KIND_COMPLETE", "KIND_RELEASE", "Names", "Statements"]

KIND_COMPLETE, KIND_RELEASE, KIND_BURY = 0, 1, 2
TOKEN_MAX, CRASHES_MAX = 2**63 - 2, 2**31 - 2


@dataclass(frozen=True, slots=True)
class Names:
    """Where the tables are: a schema and a prefix, both plain identifiers."""

    schema: str
    prefix: str

    def __post_init__(self) -> None:
        check_identifier(self.schema, "schema", characters_max=63)
        check_identifier(self.prefix, "table_prefix")

    def table(self, suffix: str) -> str:
        """Return the quoted name of one of our tables, with its schema."""
        return f"{quote(self.schema)}.{quote(f'{self.prefix}_{suffix}')}"

    @property
    def channel(self) -> str:
        """Return the channel of the wake-ups; the digest keeps prefixes of two schemas apart within 63 characters."""
        return f"{self.prefix}_{_digest(f'{self.schema}.{self.prefix}').hex()}"

    @property
    def lock_key(self) -> int:
        """Return the advisory lock under which migrations run, one for all prefixes: they may share a new schema."""
        return int.from_bytes(_digest(self.schema), "big", signed=True)


def _digest(name: str) -> bytes:
    return blake2b(f"asynctasq.{name}".encode(), digest_size=8).digest()


class Statements:
    """Every statement on the messages and results of one pair of names."""

    def __init__(self, names: Names, *, notify: bool = True) -> None:
        self._notify = notify
        self._m = m = names.table("messages")
        self._results = names.table("results")
        self._store = names.table("store")
        # The channel is a plain identifier and a hex digest, so it needs no escaping inside quotes.
        self._channel = names.channel
        self.storing = StoringStatements(m, self._results, self._store, self._woken)
        self.claim = f"WITH {CLOCK}, {self._claim_ctes(2, guard='')} {self._claim_rows('NULL::text[]')}"
        self.settle_plain = f"WITH {CLOCK}, {self._plain_ctes()} SELECT array_agg(id) FROM settled"
        self.settle_full = (
            f"WITH {CLOCK}, {self._full_ctes()} SELECT (SELECT array_agg(id) FROM settled),"
            f" (SELECT count(*) FROM woken), (SELECT s.id FROM {self._store} s)"
        )
        after_settled = "AND (SELECT count(*) FROM settled) >= 0"
        won = "(SELECT array_agg(id) FROM settled)"
        self.turn_plain = (
            f"WITH {CLOCK}, {self._plain_ctes()}, {self._claim_ctes(5, guard=after_settled)} {self._claim_rows(won)}"
        )
        self.turn_full = (
            f"WITH {CLOCK}, {self._full_ctes()}, {self._claim_ctes(18, guard=after_settled)}"
            f" {self._claim_rows(won, woken='(SELECT count(*) FROM woken)')}"
        )
        self.next_due = f"""
            WITH {CLOCK}
            SELECT (SELECT us FROM clock), min(first.visible_us), {MICROSECONDS_NOW} + $1::bigint
            FROM unnest($2::text[], $3::bigint[]) AS q(name, lower_us)
            CROSS JOIN LATERAL (
                SELECT m.visible_us FROM {m} m
                WHERE m.queue = q.name AND m.reason IS NULL AND m.visible_us >= q.lower_us
                ORDER BY m.visible_us, m.seq LIMIT 1
            ) first"""
        given = "unnest($2::text[], $3::bigint[], $4::bigint[]) AS g(id, seq, token)"
        ours = "m.id = g.id AND m.seq = g.seq AND m.token = g.token AND m.leased"
        # The outer scan gives the leases in the order of their ids, so two batches lock rows in one order.
        # `sooner` sees the rows as they were before: calls that wait for these queues would sleep too long now.
        self.extend = f"""
            WITH {CLOCK}, sooner AS MATERIALIZED (
                SELECT m.queue FROM clock, {given} JOIN {m} m ON {ours} WHERE m.visible_us > clock.us + $5::bigint
            ), renewed AS (
                UPDATE {m} m SET visible_us = clock.us + $5::bigint
                FROM clock, {given} WHERE {ours} RETURNING m.id, m.seq, m.token
            ), {self._woken("sooner")}
            SELECT id, seq, token, (SELECT array_agg(DISTINCT queue) FROM sooner), (SELECT count(*) FROM woken)
            FROM renewed"""
        self.reserve_released = f"""
            WITH {CLOCK} UPDATE {m} m SET visible_us = clock.us + $5::bigint, token = m.token + 1, leased = true,
                reserved_us = clock.us, reserved_by = $6::text, progress = NULL
            FROM clock, {given}
            WHERE m.id = g.id AND m.seq = g.seq AND m.token = g.token AND NOT m.leased AND m.reason IS NULL
            RETURNING 0, 0, m.seq, m.token, m.id, m.queue, m.body, m.attempts, m.crashes, m.enqueued_us, m.visible_us,
                NULL"""
        self.store = f"SELECT s.id FROM {self._store} s"
        self._inspection_statements()

    def _inspection_statements(self) -> None:
        m = self._m
        columns = (
            "m.id, m.queue, m.body, m.leased, m.attempts, m.crashes, m.enqueued_us, m.visible_us, m.reason, m.error,"
            " m.reserved_us, m.reserved_by, m.progress"
        )
        waiting = "m.reason IS NULL AND (NOT m.leased OR m.visible_us <= clock.us)"
        self.depth = f"""
            WITH {CLOCK}, living AS MATERIALIZED (
                SELECT count(*) FILTER (WHERE m.visible_us <= clock.us) AS ready,
                       count(*) FILTER (WHERE m.visible_us > clock.us AND NOT m.leased) AS scheduled,
                       count(*) FILTER (WHERE m.visible_us > clock.us AND m.leased) AS reserved,
                       min(m.visible_us) FILTER (WHERE m.visible_us <= clock.us AND m.queue <> ALL ($3::text[]))
                           AS oldest_us
                FROM clock, {m} m WHERE m.queue = ANY ($2::text[] || $3::text[]) AND m.reason IS NULL
            ), ranked AS MATERIALIZED (
                SELECT min(first.enqueued_us) AS oldest_us FROM unnest($3::text[]) AS q(name) CROSS JOIN LATERAL (
                    SELECT m.enqueued_us FROM {m} m WHERE m.queue = q.name AND m.reason IS NULL
                    ORDER BY m.visible_us, m.seq LIMIT 1
                ) first
            ), buried AS MATERIALIZED (
                SELECT count(*) AS dead FROM {m} m WHERE m.queue = ANY ($2::text[]) AND m.reason IS NOT NULL
            )
            SELECT ready, scheduled, reserved, dead, LEAST(living.oldest_us, ranked.oldest_us),
                (SELECT us FROM clock) FROM living, ranked, buried"""
        redriven = f"""
            moved AS (
                UPDATE {m} m SET reason = NULL, error = NULL, attempts = 0, crashes = 0, visible_us = clock.us,
                    enqueued_us = clock.us, unique_key = NULL
                FROM clock, chosen WHERE m.id = chosen.id RETURNING m.id, m.queue
            ), {self._woken("moved")}"""
        self.redrive = f"""
            WITH {CLOCK}, chosen AS MATERIALIZED (
                SELECT m.id FROM {m} m WHERE m.queue = ANY ($2::text[]) AND m.reason IS NOT NULL
                ORDER BY m.visible_us, m.seq LIMIT $3::bigint FOR UPDATE SKIP LOCKED
            ), {redriven}
            SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM woken)"""
        self.redrive_ids = f"""
            WITH {CLOCK}, chosen AS MATERIALIZED (
                SELECT m.id FROM {m} m WHERE m.id = ANY ($2::text[]) AND m.reason IS NOT NULL
                ORDER BY m.id FOR UPDATE
            ), {redriven}
            SELECT id, queue, (SELECT count(*) FROM woken) FROM moved"""
        self.find = f"WITH {CLOCK} SELECT (SELECT us FROM clock), {columns} FROM {m} m WHERE m.id = $2::text"
        self.list_messages = f"""
            WITH {CLOCK} SELECT clock.us, {columns}, m.seq FROM clock, {m} m
            WHERE m.queue = ANY ($2::text[]) AND m.seq > $3::bigint AND CASE $4::text
                WHEN 'ready' THEN m.reason IS NULL AND m.visible_us <= clock.us
                WHEN 'scheduled' THEN m.reason IS NULL AND m.visible_us > clock.us AND NOT m.leased
                WHEN 'reserved' THEN m.reason IS NULL AND m.visible_us > clock.us AND m.leased
                WHEN 'dead' THEN m.reason IS NOT NULL
                ELSE $4::text IS NULL END
            ORDER BY m.seq LIMIT $5::bigint"""
        self.cancel = f"""
            WITH {CLOCK} DELETE FROM {m} m USING clock, unnest($2::text[]) AS g(id)
            WHERE m.id = g.id AND {waiting} RETURNING m.id"""
        self.cancel_running = f"""
            WITH {CLOCK}, gone AS (
                DELETE FROM {m} m USING unnest($2::text[]) AS g(id) WHERE m.id = g.id AND m.reason IS NULL
                RETURNING m.id, CASE WHEN m.leased THEN m.seq || '.' || m.token ELSE '' END AS token,
                    CASE WHEN m.leased THEN COALESCE(m.reserved_by, '') ELSE '' END AS holder
            ), kept AS (
                INSERT INTO {self._results} (id, result, expires_us)
                SELECT gone.id, $3::bytea || convert_to(gone.token, 'UTF8'), clock.us + $4::bigint FROM gone, clock
                ON CONFLICT (id) DO UPDATE SET result = excluded.result, expires_us = excluded.expires_us
                RETURNING 1
            ), told AS (
                SELECT '=' || gone.id AS queue FROM gone
                UNION ALL SELECT chr(10) || gone.holder FROM gone WHERE gone.holder <> ''
            ), {self._woken("told")}
            SELECT id, token, holder, (SELECT count(*) FROM woken) FROM gone"""
        self.discard = f"""
            WITH {CLOCK} DELETE FROM {m} m USING clock, unnest($2::text[]) AS g(id)
            WHERE m.id = g.id AND m.reason IS NOT NULL RETURNING m.id"""
        self.purge = f"""
            WITH {CLOCK}, gone AS (
                DELETE FROM {m} m USING clock WHERE m.queue = ANY ($2::text[]) AND {waiting} RETURNING 1
            ) SELECT count(*) FROM gone"""
        # One step from name to name along each index, whatever the number of messages.
        self.queues = " UNION ".join(
            f"""(WITH RECURSIVE name AS (
                (SELECT m.queue FROM {m} m WHERE m.reason {test} ORDER BY m.queue LIMIT 1)
                UNION ALL
                SELECT (SELECT m.queue FROM {m} m WHERE m.reason {test} AND m.queue > name.queue
                        ORDER BY m.queue LIMIT 1)
                FROM name WHERE name.queue IS NOT NULL
            ) SELECT queue FROM name WHERE queue IS NOT NULL)"""
            for test in ("IS NULL", "IS NOT NULL")
        )
        self.lives = f"SELECT 1 FROM {m} m WHERE m.id = $1::text AND m.reason IS NULL"
        self.report_progress = f"""
            UPDATE {m} m SET progress = g.progress
            FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS g(id, seq, token, progress)
            WHERE m.id = g.id AND m.seq = g.seq AND m.token = g.token AND m.leased"""
        self.fetch_result = f"""
            WITH {CLOCK} SELECT r.result FROM clock, {self._results} r
            WHERE r.id = $2::text AND r.expires_us > clock.us"""
        # Of a row that no driver has written; the new arrival makes a token that was never granted.
        self.bury_damaged = f"""
            WITH {CLOCK} UPDATE {m} m SET id = g.new_id, attempts = g.attempts, crashes = g.crashes,
                enqueued_us = g.enqueued_us, error = g.error, reason = 'undecodable', visible_us = clock.us,
                leased = false, token = 0, seq = DEFAULT
            FROM clock, unnest($2::text[], $3::bigint[], $4::text[], $5::integer[], $6::integer[], $7::bigint[],
                $8::text[]) AS g(id, token, new_id, attempts, crashes, enqueued_us, error)
            WHERE m.id = g.id AND m.token = g.token AND m.leased"""
        self._retention_statements()

    def _retention_statements(self) -> None:
        """Build what removes what is to go, some at once; each counts what it removed.

        The clock is a subselect and the ids are an array, so that each is looked up in an index: joins would scan.
        """
        m, dead = self._m, "m.queue = q.name AND m.reason IS NOT NULL"
        self.prune_results = f"""
            WITH {CLOCK}, old AS MATERIALIZED (
                SELECT r.id FROM {self._results} r WHERE r.expires_us <= (SELECT us FROM clock)
                ORDER BY r.expires_us LIMIT $2::bigint FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {self._results} r WHERE r.id = ANY (ARRAY(SELECT id FROM old)) RETURNING 1
            ) SELECT count(*) FROM gone"""
        # Only rows that are dead letters still, once their locks are there, are removed.
        self.prune_dead = f"""
            WITH {CLOCK}, q AS MATERIALIZED (SELECT unnest($2::text[]) AS name), old AS MATERIALIZED (
                (SELECT o.id FROM clock, q CROSS JOIN LATERAL (
                    SELECT m.id FROM {m} m WHERE {dead} AND m.visible_us <= clock.us - $3::bigint
                    ORDER BY m.visible_us, m.seq LIMIT $5::bigint
                ) o)
                UNION
                (SELECT o.id FROM q CROSS JOIN LATERAL (
                    SELECT m.id FROM {m} m WHERE {dead}
                    ORDER BY m.visible_us DESC, m.seq DESC OFFSET $4::bigint LIMIT $5::bigint
                ) o)
            ), gone AS (
                DELETE FROM {m} m WHERE m.id = ANY (ARRAY(SELECT id FROM old)) AND m.reason IS NOT NULL RETURNING 1
            ) SELECT count(*) FROM gone"""

    def _woken(self, source: str) -> str:
        if not self._notify:
            return "woken AS MATERIALIZED (SELECT 1 WHERE false)"
        return (
            f"woken AS MATERIALIZED (SELECT pg_notify('{self._channel}', names.queue)"
            f" FROM (SELECT DISTINCT queue FROM {source}) names)"
        )

    def _claim_ctes(self, first: int, *, guard: str) -> str:
        """Lease visible rows in the order of the index.

        Parameters: lines, the lines they move to, lower bounds, limit, lease, holder.

        The row is updated through its ctid: it is locked, so it can't move. A row that changed between the
        snapshot and the lock has a newer ctid, unknown to the snapshot: it is left for the next claim. `guard`
        makes the settling part come first; rows it changed are then skipped by the lock. No damaged number of one
        row lets the statement fail for all. Lines by rank are walked only if some message of the store waits by rank:
        one look into an index that has no entries where there are no fair keys.
        """
        ranked_wait = f"(SELECT m.queue FROM {self._m} m WHERE {RANKED} ORDER BY m.queue LIMIT 1) IS NOT NULL"
        lines, moved, lower, limit, lease, holder = (f"${first + n}" for n in range(6))
        return f"""picked AS MATERIALIZED (
                SELECT p.tid, p.visible_us, q.position, q.moved
                FROM clock CROSS JOIN unnest({lines}::text[], {moved}::text[], {lower}::bigint[])
                     WITH ORDINALITY AS q(name, moved, lower_us, position)
                CROSS JOIN LATERAL (
                    SELECT m.ctid AS tid, m.visible_us FROM {self._m} m
                    WHERE m.queue = q.name AND m.reason IS NULL
                      AND m.visible_us >= q.lower_us AND m.visible_us <= clock.us {guard}
                    ORDER BY m.visible_us, m.seq LIMIT {limit}::bigint FOR UPDATE SKIP LOCKED
                ) p
                WHERE q.name = q.moved OR {ranked_wait}
                LIMIT {limit}::bigint
            ), taken AS (
                UPDATE {self._m} m SET queue = picked.moved, visible_us = clock.us + {lease}::bigint,
                    token = LEAST(m.token, {TOKEN_MAX}) + 1,
                    crashes = LEAST(m.crashes, {CRASHES_MAX}) + m.leased::integer, leased = true,
                    reserved_us = clock.us, reserved_by = {holder}::text, progress = NULL
                FROM picked, clock WHERE m.ctid = picked.tid
                RETURNING picked.position, picked.visible_us AS was_us, m.seq, m.token, m.id, m.queue, m.body,
                    m.attempts, m.crashes, m.enqueued_us, m.visible_us
            )"""

    @staticmethod
    def _claim_rows(won: str, *, woken: str = "0::bigint") -> str:
        """One row per lease, then one with what was settled, the clock and the time the statement took."""
        return f"""
            SELECT position, was_us, seq, token, id, queue, body, attempts, crashes, enqueued_us, visible_us,
                NULL::text[] AS won FROM taken
            UNION ALL
            SELECT NULL, clock.us, {MICROSECONDS_NOW} + $1::bigint - clock.us, {woken}, NULL, NULL, NULL,
                NULL, NULL, NULL, NULL, {won} FROM clock"""

    def _plain_ctes(self) -> str:
        """Delete what completed; parameters from $2: ids, arrivals, tokens, sorted by id as in `extend`."""
        return f"""settled AS (
                DELETE FROM {self._m} m USING unnest($2::text[], $3::bigint[], $4::bigint[]) AS g(id, seq, token)
                WHERE m.id = g.id AND m.seq = g.seq AND m.token = g.token AND m.leased RETURNING m.id
            )"""

    def _full_ctes(self) -> str:
        """Apply any settlements; parameters $2 to $12 are columns of them, $13 to $17 of their follow-ups."""
        return f"""given AS MATERIALIZED (
                SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::integer[], $6::bigint[],
                    $7::integer[], $8::integer[], $9::text[], $10::text[], $11::bytea[], $12::bigint[])
                WITH ORDINALITY
                AS g(id, seq, token, kind, delay_us, counted, crashed, reason, error, result, ttl_us, entry)
            ), held AS MATERIALIZED (
                SELECT g.*, m.queue FROM given g JOIN {self._m} m ON m.id = g.id
                WHERE m.seq = g.seq AND m.token = g.token AND m.leased ORDER BY m.id FOR UPDATE OF m
            ), completed AS (
                DELETE FROM {self._m} m USING held h WHERE m.id = h.id AND h.kind = {KIND_COMPLETE} RETURNING m.id
            ), changed AS (
                UPDATE {self._m} m SET leased = false, visible_us = clock.us + h.delay_us, reason = h.reason,
                    attempts = m.attempts + h.counted, crashes = m.crashes + h.crashed,
                    error = CASE WHEN h.kind = {KIND_BURY} THEN h.error ELSE COALESCE(h.error, m.error) END
                FROM held h, clock WHERE m.id = h.id AND h.kind <> {KIND_COMPLETE} RETURNING m.id
            ), settled AS MATERIALIZED (
                SELECT id FROM completed UNION ALL SELECT id FROM changed
            ), kept AS (
                INSERT INTO {self._results} (id, result, expires_us)
                SELECT h.id, h.result, clock.us + h.ttl_us FROM held h, clock WHERE h.result IS NOT NULL
                ON CONFLICT (id) DO UPDATE SET result = excluded.result, expires_us = excluded.expires_us
                RETURNING 1
            ), followed AS (
                INSERT INTO {self._m} (id, queue, body, visible_us, enqueued_us)
                SELECT f.id, f.queue, f.body, clock.us + f.delay_us, clock.us
                FROM clock, unnest($13::bigint[], $14::text[], $15::text[], $16::bytea[], $17::bigint[])
                     WITH ORDINALITY AS f(entry, id, queue, body, delay_us, position)
                JOIN held h ON h.entry = f.entry
                WHERE (SELECT count(*) FROM settled) >= 0
                ORDER BY f.position
                ON CONFLICT (id) DO NOTHING RETURNING queue
            ), changed_queues AS (
                SELECT queue FROM followed UNION ALL SELECT h.queue FROM held h WHERE h.kind = {KIND_RELEASE}
                UNION ALL SELECT '=' || h.id FROM held h WHERE h.kind = {KIND_BURY} OR h.result IS NOT NULL
            ), {self._woken("changed_queues")}"""
