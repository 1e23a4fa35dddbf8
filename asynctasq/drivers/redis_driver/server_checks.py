"""What a Redis must be and should be like for a queue; says in plain words what could be lost."""

from collections.abc import Mapping

from redis.exceptions import NoPermissionError

from asynctasq.drivers.redis_driver.pool import Pool
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable
from asynctasq.logs import get_logger

__all__ = ["check_server", "check_version", "parse_info", "warnings_about"]

logger = get_logger(__name__)

VERSION_MIN = (6, 2)
checked_addresses: set[str] = set()
"""What this process has warned about already."""


def parse_info(text: bytes) -> dict[str, str]:
    """Return the fields of an INFO reply."""
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check_version(info: Mapping[str, str], label: str) -> tuple[int, ...]:
    """Return the version as numbers, () if the server hides it. Valkey states the Redis it is compatible with.

    Raises: DriverMisconfigured if it is too old.
    """
    text = info.get("redis_version", "")
    version = tuple(int(part) for part in text.split(".") if part.isdigit())
    if version and version < VERSION_MIN:
        raise DriverMisconfigured(f"{label} is Redis {text}; asynctasq needs Redis 6.2 or newer, or Valkey")
    return version


def warnings_about(info: Mapping[str, str], save: str | None) -> list[str]:
    """Return sentences for the log; `save` is the snapshot setting, None if the server refused to say."""
    found: list[str] = []
    policy = info.get("maxmemory_policy")
    if policy is None:
        found.append("its maxmemory-policy could not be checked; make sure it is 'noeviction'")
    elif policy != "noeviction":
        found.append(
            f"maxmemory-policy is {policy!r}: when memory is full it deletes keys, and with them whole queues; "
            "set maxmemory-policy to 'noeviction'"
        )
    aof = info.get("aof_enabled")
    if aof is None:
        found.append("its persistence could not be checked; without an append-only file a restart loses messages")
    elif aof == "0" and save == "":
        found.append("it keeps nothing on disk: a restart loses every message; set appendonly to 'yes'")
    elif aof == "0":
        snapshots = "whether it makes snapshots could not be checked" if save is None else "it makes snapshots only"
        found.append(
            f"it has no append-only file, and {snapshots}: a crash loses what came after the last snapshot, and "
            "brings back what was done since; set appendonly to 'yes'"
        )
    return found


async def check_server(pool: Pool) -> None:
    """Check the server behind the pool, and log once per process and address what could be lost.

    Managed servers forbid CONFIG, some INFO: what can't be checked is said so, not refused.
    """
    info = await _info(pool)
    pool.has_script_flags = check_version(info, pool.address.label) >= (7,)
    if pool.address.label in checked_addresses:
        return
    checked_addresses.add(pool.address.label)
    for warning in warnings_about(info, await _snapshot_setting(pool) if info else None):
        logger.warning("%s: %s", pool.address.label, warning)


async def _info(pool: Pool) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        for section in ("server", "memory", "persistence"):
            found.update(parse_info(await pool.command("INFO", section)))
    except DriverUnavailable:
        raise
    except DriverError as error:
        if not isinstance(error.__cause__, NoPermissionError) and "unknown command" not in str(error):
            raise
        logger.debug("%s does not allow INFO: %s", pool.address.label, error)
    return found


async def _snapshot_setting(pool: Pool) -> str | None:
    try:
        reply = await pool.command("CONFIG", "GET", "save")
    except DriverUnavailable:
        raise
    except DriverError as error:
        logger.debug("%s does not allow CONFIG: %s", pool.address.label, error)
        return None
    return str(reply[1].decode()) if len(reply) > 1 else None
