"""The loggers of the package; no handler of an application receives a text that could forge or control a log."""

import logging

from asynctasq.kernel.texts import printable

__all__ = ["get_logger"]


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; arguments of its records that are no numbers become bounded, printable texts."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape_arguments)
    return logger


def _escape_arguments(record: logging.LogRecord) -> bool:
    """Leave the template alone: handlers group records by it."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg if isinstance(arg, int | float) else printable(str(arg)) for arg in record.args)
    return True
