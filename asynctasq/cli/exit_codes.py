"""The command's exit codes, and how errors become them; docs/reference/cli.md lists them."""

import enum
import sys
from collections.abc import Generator
from contextlib import contextmanager

from asynctasq.errors import AsyncTasqError, ConfigError, DriverError, InvalidQueueName, TaskDefinitionError
from asynctasq.kernel.texts import printable_lines

__all__ = ["ExitCode", "exit_on_error"]


class ExitCode(enum.IntEnum):
    """0 done, also after a signal; 2 is the command line's own, for wrong usage."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    BACKEND = 4


@contextmanager
def exit_on_error() -> Generator[None]:
    """Turn asynctasq's errors into one line on standard error and an exit code; let others pass."""
    try:
        yield
    except (ConfigError, TaskDefinitionError, InvalidQueueName, ValueError) as error:
        _exit(error, ExitCode.CONFIGURATION)
    except DriverError as error:
        _exit(error, ExitCode.BACKEND)
    except AsyncTasqError as error:
        _exit(error, ExitCode.FAILED)


def _exit(error: Exception, code: ExitCode) -> None:
    sys.stderr.write(f"asynctasq: {printable_lines(str(error))}\n")
    raise SystemExit(int(code))
