"""What asyncpg and the network raise, mapped once into our errors; texts name the address, never a password."""

import ssl
from collections.abc import Generator
from contextlib import contextmanager

import asyncpg

from asynctasq.drivers.tls import certificate_refused
from asynctasq.errors import AsyncTasqError, ConfigError, DriverError, DriverMisconfigured, DriverUnavailable

__all__ = ["is_conflict", "mapped_errors"]

UNAVAILABLE_CLASSES = frozenset({"08", "25", "40", "53", "55", "57", "58", "XX"})
MISCONFIGURED_CLASSES = frozenset({"0A", "26", "28", "3D", "3F", "42"})


def is_conflict(error: Exception) -> bool:
    """Say whether the server rolled the transaction back because of another one: deadlock, serialization."""
    return isinstance(error, (asyncpg.DeadlockDetectedError, asyncpg.SerializationError))


@contextmanager
def mapped_errors(where: str) -> Generator[None, None, None]:
    """Turn what asyncpg and the network raise into a `DriverError` that names the address."""
    try:
        yield
    except AsyncTasqError:
        raise
    except asyncpg.PostgresError as error:
        raise _from_server(error, where) from error
    except ssl.SSLCertVerificationError as error:
        raise certificate_refused(error, where, option="sslrootcert") or error from error
    except asyncpg.ClientConfigurationError as error:
        raise ConfigError(f"the address of {where} can't be used: {error}") from error
    except ValueError as error:
        # asyncpg's own DataError: a value that the protocol can't carry.
        raise DriverError(f"{where}: a value can't be sent: {error}") from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        text = str(error) or type(error).__name__
        if "rejected SSL upgrade" in text:
            raise DriverMisconfigured(
                f"{where} offers no TLS: turn it on at the server, or name less with sslmode=disable"
            ) from error
        raise DriverUnavailable(f"{where} can't be reached: {text}; is the server running?") from error


def _from_server(error: asyncpg.PostgresError, where: str) -> DriverError:
    state: str = getattr(error, "sqlstate", None) or "XX000"
    if state[:2] in UNAVAILABLE_CLASSES:
        return DriverUnavailable(f"{where} can't do this at the moment: {error} (SQLSTATE {state})")
    if state[:2] not in MISCONFIGURED_CLASSES:
        return DriverError(f"{where} refused: {error} (SQLSTATE {state})")
    advice = "check user, password, database and rights"
    if state in {"42P01", "42703", "3F000"}:
        advice = "run: asynctasq migrate --driver postgres"
    elif state in {"26000", "42P05", "0A000"}:
        advice = "behind PgBouncer in transaction mode leave statement_cache and listen out of the address"
    return DriverMisconfigured(f"{where} refused: {error} (SQLSTATE {state}); {advice}")
