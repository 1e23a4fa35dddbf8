"""The statements of the PostgreSQL driver that store messages, with keys and without; built once, from quoted names."""

from collections.abc import Callable

__all__ = ["CLOCK", "HOLDS_KEY", "MICROSECONDS_NOW", "RANKED", "StoringStatements"]

HOLDS_KEY = "unique_key IS NOT NULL AND reason IS NULL AND (unique_started IS NOT TRUE OR token = 0)"
"""Whether a row holds its key, which follows from the row: no statement has to free one."""
RANKED = "fair_key IS NOT NULL AND token = 0"
"""Whether a row waits by rank, which follows from the row, too: a fair key is stored with no other row."""
MICROSECONDS_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
CLOCK = f"clock AS MATERIALIZED (SELECT {MICROSECONDS_NOW} + $1::bigint AS us)"


class StoringStatements:
    """Statements on the tables of these names; `woken` returns what tells of the rows of a part of a statement."""

    def __init__(self, messages: str, results: str, store: str, woken: Callable[[str], str]) -> None:
        self._m, self._results, self._store, self._woken = messages, results, store, woken
        self.enqueue = self._enqueue()
        self.enqueue_keyed = self._enqueue(
            columns=", unique_key, unique_started", arrays=", $7::text[], $8::boolean[]", target=""
        )
        self.enqueue_fair = self._enqueue_fair()
        self._unique_statements()

    def _enqueue(self, *, columns: str = "", arrays: str = "", target: str = "(id)") -> str:
        """Parameters: offset, ids, queues, bodies, delays, the store that is meant (NULL: any), further `arrays`.

        The last row names the store that the statement ran in; if it is another one, nothing was stored. Without a
        `target` no constraint may be broken.
        """
        return f"""
            WITH {CLOCK}, inserted AS (
                INSERT INTO {self._m} (id, queue, body, visible_us, enqueued_us{columns})
                SELECT g.id, g.queue, g.body, clock.us + g.delay_us, clock.us{columns}
                FROM clock, unnest($2::text[], $3::text[], $4::bytea[], $5::bigint[]{arrays})
                     WITH ORDINALITY AS g(id, queue, body, delay_us{columns}, position)
                WHERE $6::text IS NULL OR $6::text = (SELECT s.id FROM {self._store} s)
                ORDER BY g.position
                ON CONFLICT {target} DO NOTHING RETURNING id, queue
            ), {self._woken("inserted")}
            SELECT id FROM inserted
            UNION ALL SELECT (SELECT s.id FROM {self._store} s) FROM (SELECT count(*) FROM woken) w"""

    def _enqueue_fair(self) -> str:
        """Do `enqueue_keyed` with one more array, the fair keys of those that wait by rank, NULL for the others.

        `place` is the rank of the first new message of a key in its line, as if all were stored one by one: where
        nobody waits, the first key of the batch has rank 1, the others follow it. What is not stored takes no rank.
        Ranks are no later than now, whatever others have stored there: who waits by rank is visible.
        """
        m = self._m
        return f"""
            WITH {CLOCK}, given AS MATERIALIZED (
                SELECT g.*, row_number() OVER (PARTITION BY g.queue, g.fair_key ORDER BY g.position) - 1 AS behind
                FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bigint[], $7::text[], $8::boolean[], $9::text[])
                     WITH ORDINALITY
                     AS g(id, queue, body, delay_us, unique_key, unique_started, fair_key, position)
                WHERE NOT EXISTS (SELECT FROM {m} m WHERE m.id = g.id)
                    AND NOT EXISTS (SELECT FROM {m} m WHERE m.unique_key = g.unique_key AND {HOLDS_KEY})
                    AND ($6::text IS NULL OR $6::text = (SELECT s.id FROM {self._store} s))
            ), placed AS MATERIALIZED (
                SELECT k.queue, k.fair_key, 1 + COALESCE(GREATEST(
                    (SELECT LEAST(m.visible_us, clock.us) FROM {m} m WHERE m.queue = k.queue AND m.reason IS NULL
                        ORDER BY m.visible_us, m.seq LIMIT 1),
                    (SELECT LEAST(m.visible_us, clock.us) FROM {m} m
                        WHERE m.queue = k.queue AND m.fair_key = k.fair_key AND {RANKED}
                        ORDER BY m.visible_us DESC LIMIT 1)), k.key - 1) AS place
                FROM clock, (
                    SELECT queue, fair_key, LEAST(2, row_number() OVER (PARTITION BY queue ORDER BY min(position)))
                        AS key
                    FROM given WHERE fair_key IS NOT NULL GROUP BY queue, fair_key
                ) k
            ), inserted AS (
                INSERT INTO {m} (id, queue, body, visible_us, enqueued_us, unique_key, unique_started, fair_key)
                SELECT g.id, g.queue, g.body, CASE WHEN g.fair_key IS NULL THEN clock.us + g.delay_us
                    ELSE LEAST(p.place + g.behind, clock.us) END, clock.us, g.unique_key, g.unique_started, g.fair_key
                FROM clock, given g LEFT JOIN placed p ON p.queue = g.queue AND p.fair_key = g.fair_key
                ORDER BY g.position
                ON CONFLICT DO NOTHING RETURNING id, queue
            ), {self._woken("inserted")}
            SELECT id FROM inserted
            UNION ALL SELECT (SELECT s.id FROM {self._store} s) FROM (SELECT count(*) FROM woken) w"""

    def _unique_statements(self) -> None:
        m, lives = self._m, f"SELECT EXISTS (SELECT FROM {self._m} m WHERE m.id ="
        self.look_for_holder = f"""
            {lives} $1::text), (SELECT id FROM {m} WHERE unique_key = $2::text AND {HOLDS_KEY})"""
        self.look_for_window = f"""
            WITH {CLOCK} {lives} $2::text), (SELECT convert_from(r.result, 'UTF8') FROM clock, {self._results} r
                WHERE r.id = $3::text AND r.expires_us > clock.us)"""
        self.forget_window = f"DELETE FROM {self._results} WHERE id = $1::text"
        keep = "ON CONFLICT (id) DO UPDATE SET result = excluded.result, expires_us = excluded.expires_us"
        self.keep_window = f"""
            WITH {CLOCK} INSERT INTO {self._results} (id, result, expires_us)
            SELECT $2::text, convert_to($3::text, 'UTF8'), clock.us + $4::bigint FROM clock {keep}"""
        # Rows that have expired are removed as results are.
        self.lock_keys = f"""
            INSERT INTO {self._results} (id, result, expires_us)
            SELECT g.id, ''::bytea, 0 FROM unnest($1::text[]) WITH ORDINALITY AS g(id, position)
            ORDER BY g.position {keep}"""
