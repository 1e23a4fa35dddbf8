"""The logger of attempts, and the record of one that failed: what trackers of errors and log searches see of it."""

import logging

from asynctasq.core.exception_codec import log_error
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.kernel.decide import Crashed, Failed, Outcome, Rejected, RetryRequested, Unrunnable
from asynctasq.kernel.messages import Bury, Complete, Release, Settlement
from asynctasq.logs import get_logger

__all__ = ["log_failure", "logger"]

logger = get_logger("asynctasq.attempts")


def log_failure(attempt: InFlightAttempt, exception: BaseException, outcome: Outcome, settlement: Settlement) -> None:
    """Log an attempt that failed with an exception: an error where it becomes a dead letter, else a warning.

    What the task's code asked for itself is less: a retry is an info, a rejection a warning, both without traceback.
    """
    if not isinstance(outcome, Failed | Crashed | RetryRequested | Rejected | Unrunnable):
        return
    asked = isinstance(outcome, RetryRequested | Rejected)
    match settlement:
        case Bury():
            level = logging.WARNING if isinstance(outcome, Rejected) else logging.ERROR
            what = "it becomes a dead letter"
        case Release():
            level, what = logging.INFO if asked else logging.WARNING, f"it is run again in {settlement.delay_s:g} s"
        case Complete():
            return
    if not logger.isEnabledFor(level):
        return
    text = f"{attempt} failed in attempt {attempt.lease.attempt}; {what}"
    if asked and level < logging.ERROR:
        logger.log(level, "%s: %s", text, f"{outcome.error.type}: {outcome.error.message}")
    else:
        log_error(logger, level, text, exception)
