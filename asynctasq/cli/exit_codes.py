"""The command's exit codes, and how errors become them; docs/reference/cli.md lists them."""

import enum
import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager

from asynctasq.errors import (
    ConfigError,
    DriverError,
    DriverMisconfigured,
    InvalidQueueName,
    LifespanError,
    TaskNotFoundError,
)
from asynctasq.kernel.texts import printable_lines
from asynctasq.logs import get_logger

__all__ = ["ExitCode", "exit_on_error"]

logger = get_logger(__name__)


class ExitCode(enum.IntEnum):
    """0 done, also after a signal; 2 is the command line's own, for wrong usage."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    BACKEND = 4
    UNEXPECTED = 5
    LIFESPAN = 6


@contextmanager
def exit_on_error() -> Generator[None]:
    """Turn errors into an exit code: those that a command is known to end with in one line, others with a traceback."""
    try:
        yield
    except (ConfigError, DriverMisconfigured, InvalidQueueName) as error:
        _exit(error, ExitCode.CONFIGURATION)
    except TaskNotFoundError as error:
        _exit(error, ExitCode.FAILED)
    except DriverError as error:
        _exit(error, ExitCode.BACKEND)
    except LifespanError as error:
        _exit(error, ExitCode.LIFESPAN)
    except Exception as error:  # noqa: BLE001 - the top of the program
        _exit_unexpected(error)


def _exit(error: Exception, code: ExitCode) -> None:
    sys.stderr.write(f"asynctasq: {printable_lines(str(error))}\n")
    raise SystemExit(int(code))


def _exit_unexpected(error: Exception) -> None:
    from asynctasq.core.exception_codec import log_error

    log_error(
        logger, logging.CRITICAL, "asynctasq ended with an error that it does not expect; please report it", error
    )
    raise SystemExit(int(ExitCode.UNEXPECTED))
