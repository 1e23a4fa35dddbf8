"""What redis-py raises, mapped_errors once into our errors; texts name the address, never a password."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from redis import exceptions as redis_errors

from asynctasq.drivers.tls import certificate_refused
from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable

__all__ = ["is_connection_failure", "is_refused", "is_wrong_server", "mapped_errors"]

CONNECTION_FAILED = (redis_errors.ConnectionError, OSError, redis_errors.InvalidResponse)
REFUSED = (redis_errors.AuthenticationError, redis_errors.AuthorizationError, redis_errors.NoPermissionError)
TRANSIENT = (redis_errors.ReadOnlyError, redis_errors.ClusterDownError)
SLOT_MOVES = (redis_errors.TryAgainError, redis_errors.AskError)
# Error codes for which redis-py has no class. A script of Redis 6 wraps the code in a text of its own.
TRANSIENT_CODES = ("BUSY", "MISCONF", "UNBLOCKED", "NOREPLICAS", "READONLY", "max number of clients")
MISCONFIGURED_CODES = (
    "DENIED",
    "CROSSSLOT",
    "unknown command",
    "DB index is out of range",
    "WRONGTYPE",
    "cluster support disabled",
)


def is_connection_failure(error: BaseException) -> bool:
    """Whether the connection broke before the reply came, so that nobody knows if the command took effect."""
    return isinstance(error, CONNECTION_FAILED) and not isinstance(error, (*REFUSED, TimeoutError))


def is_refused(error: BaseException) -> bool:
    """Whether asking another sentinel or node would not help: the login is wrong, or these are no nodes."""
    return isinstance(error, REFUSED) or "cluster support disabled" in str(error)


def is_wrong_server(error: BaseException) -> bool:
    """Whether a server refused because another one is in charge: the command was not executed."""
    if isinstance(error, redis_errors.AskError) and not isinstance(error, redis_errors.MovedError):
        return False
    kinds = (redis_errors.ReadOnlyError, redis_errors.MovedError, redis_errors.MasterDownError)
    return isinstance(error, kinds) or (isinstance(error, redis_errors.ResponseError) and "-READONLY" in str(error))


@contextmanager
def mapped_errors(label: str) -> Generator[None, None, None]:
    """Turn every exception of redis-py and of the sockets into a DriverError."""
    try:
        yield
    except (redis_errors.RedisError, redis_errors.RedisClusterException, OSError) as error:
        # The frames of redis-py's handshake hold the password in a local variable.
        raise _map_error(error, label) from error.with_traceback(None)


def _map_error(error: Exception, label: str) -> DriverError:
    text = str(error)
    if refused := certificate_refused(error, label, option="ssl_ca_certs"):
        return refused
    if isinstance(error, REFUSED):
        return DriverMisconfigured(f"{label} refused access: {text}; check user name, password and ACL of the address")
    if isinstance(error, (redis_errors.TimeoutError, asyncio.TimeoutError)):
        return DriverUnavailable(f"{label} did not answer in time: it is overloaded, paused or cut off; try again")
    if isinstance(error, redis_errors.OutOfMemoryError) or "-OOM" in text:
        return DriverUnavailable(
            f"{label} is at its memory limit and took nothing; let workers drain the queues or raise maxmemory"
        )
    if isinstance(error, CONNECTION_FAILED):
        return DriverUnavailable(f"{label} can't be reached: {text}; check that it runs and the address is right")
    if isinstance(error, SLOT_MOVES) or "non local key" in text:
        return DriverUnavailable(f"{label} moves the slot of these keys from one node to another ({text}); try again")
    if isinstance(error, TRANSIENT) or any(code in text for code in TRANSIENT_CODES):
        return DriverUnavailable(f"{label} can't do this at the moment: {text}; try again")
    if any(code in text for code in MISCONFIGURED_CODES):
        return DriverMisconfigured(f"{label} can't be used as it is set up: {text}")
    return DriverError(f"{label} failed: {text}")
