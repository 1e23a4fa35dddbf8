"""What the command's exit codes mean; docs/reference/cli.md lists them."""

import enum
import sys
from collections.abc import Generator
from contextlib import contextmanager

from asynctasq.errors import AsyncTasqError, ConfigError, DriverError, InvalidQueueName, TaskDefinitionError

__all__ = ["ExitCode", "told_as_exit_code"]


class ExitCode(enum.IntEnum):
    """0 done, also after a signal; 2 is the command line's own, for wrong usage."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    BACKEND = 4


@contextmanager
def told_as_exit_code() -> Generator[None]:
    """Turn errors of ours into one line on standard error and an exit code; others stay tracebacks."""
    try:
        yield
    except (ConfigError, TaskDefinitionError, InvalidQueueName, ValueError) as error:
        _leave(error, ExitCode.CONFIGURATION)
    except DriverError as error:
        _leave(error, ExitCode.BACKEND)
    except AsyncTasqError as error:
        _leave(error, ExitCode.FAILED)


def _leave(error: Exception, code: ExitCode) -> None:
    sys.stderr.write(f"asynctasq: {error}\n")
    raise SystemExit(int(code))
