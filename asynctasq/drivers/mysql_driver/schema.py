"""The schema of the MySQL/MariaDB driver as migrations; each one leaves workers of the version before it running."""

from asynctasq.drivers.base import Migration
from asynctasq.drivers.levels import LINE_NAME_BYTES_MAX
from asynctasq.drivers.mysql_driver.statements import Statements, literal
from asynctasq.kernel.messages import HOLDER_CHARS_MAX, UNIQUE_CHARS_MAX

__all__ = ["migrations"]


def migrations(sql: Statements) -> list[Migration]:
    """Return the steps in order, each with the statement that records it at its end.

    MySQL commits at each DDL statement, so every statement can be repeated.
    """
    first = (_create_versions(sql), _create_messages(sql), _create_results(sql), _record_version(sql, 1))
    second = (*_add_lease_columns(sql), _record_version(sql, 2))
    third = (*_add_unique_key(sql), _record_version(sql, 3))
    # A line of another level than normal has a longer name than its queue: see `drivers/levels.py`.
    fourth = (
        f"ALTER TABLE {sql.messages} MODIFY COLUMN queue VARBINARY({LINE_NAME_BYTES_MAX}) NOT NULL",
        _record_version(sql, 4),
    )
    return [
        Migration(version=1, title="messages and results", statements=first),
        Migration(version=2, title="holder and progress of a lease", statements=second),
        Migration(version=3, title="unique keys", statements=third),
        Migration(version=4, title="names of lines", statements=fourth),
    ]


def _create_messages(sql: Statements) -> str:
    # `due` has exactly the order of the claim, with nothing to sort; dead letters are in another part of it.
    # VARBINARY compares byte by byte on both servers: no case folding, no trailing-space rule.
    return f"""CREATE TABLE IF NOT EXISTS {sql.messages} (
  seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  id VARBINARY(512) NOT NULL,
  queue VARBINARY(80) NOT NULL,
  dead TINYINT UNSIGNED NOT NULL DEFAULT 0,
  leased TINYINT UNSIGNED NOT NULL DEFAULT 0,
  visible_us BIGINT NOT NULL,
  token BIGINT UNSIGNED NOT NULL DEFAULT 0,
  claim BIGINT UNSIGNED NOT NULL DEFAULT 0,
  claimed_us BIGINT NOT NULL DEFAULT 0,
  attempts INT UNSIGNED NOT NULL DEFAULT 0,
  crashes INT UNSIGNED NOT NULL DEFAULT 0,
  enqueued_us BIGINT NOT NULL,
  reason VARBINARY(40) NULL,
  error LONGBLOB NULL,
  body LONGBLOB NOT NULL,
  PRIMARY KEY (seq),
  UNIQUE KEY by_id (id),
  KEY due (queue, dead, visible_us, seq, leased)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4"""


def _create_results(sql: Statements) -> str:
    return f"""CREATE TABLE IF NOT EXISTS {sql.results} (
  id VARBINARY(512) NOT NULL,
  expires_us BIGINT NOT NULL,
  result LONGBLOB NOT NULL,
  PRIMARY KEY (id),
  KEY expiry (expires_us)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4"""


def _create_versions(sql: Statements) -> str:
    return f"""CREATE TABLE IF NOT EXISTS {sql.versions} (
  version INT UNSIGNED NOT NULL PRIMARY KEY,
  store VARBINARY(36) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"""


def _add_lease_columns(sql: Statements) -> list[str]:
    """Add them in one step, unless they are there: MySQL has no ADD COLUMN IF NOT EXISTS.

    A claim overwrites `reserved_by` in place, since its width is fixed, and leaves `progress` alone, which is not shown
    any more: with a text of any length, or the BLOB set to NULL, a claim took the server half as much time again.
    """
    add = (
        f"ALTER TABLE {sql.messages} ADD COLUMN reserved_us BIGINT NOT NULL DEFAULT 0,"
        f" ADD COLUMN reserved_by BINARY({HOLDER_CHARS_MAX}) NOT NULL DEFAULT 0x00,"
        " ADD COLUMN progress_token BIGINT UNSIGNED NOT NULL DEFAULT 0, ADD COLUMN progress BLOB NULL"
    )
    return _unless_there(sql, "progress", add)


def _add_unique_key(sql: Statements) -> list[str]:
    """Add the key and its constraint, which holds among the rows whose key is not NULL."""
    add = (
        f"ALTER TABLE {sql.messages} ADD COLUMN unique_key VARBINARY({UNIQUE_CHARS_MAX}) NULL,"
        " ADD COLUMN unique_started TINYINT UNSIGNED NOT NULL DEFAULT 0, ADD UNIQUE KEY by_unique (unique_key)"
    )
    return _unless_there(sql, "unique_key", add)


def _unless_there(sql: Statements, column: str, add: str) -> list[str]:
    name = literal(sql.messages.strip("`"))
    found = (
        "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE()"
        f" AND table_name = CONVERT({name} USING utf8mb4) AND column_name = '{column}'"
    )
    return [
        f"SET @asynctasq_sql = IF(({found}) > 0, 'DO 0', '{add}')",
        "PREPARE asynctasq_migration FROM @asynctasq_sql",
        "EXECUTE asynctasq_migration",
        "DEALLOCATE PREPARE asynctasq_migration",
    ]


def _record_version(sql: Statements, version: int) -> str:
    values = f"({version}, UUID()) ON DUPLICATE KEY UPDATE version = version"
    return f"INSERT INTO {sql.versions} (version, store) VALUES {values}"
