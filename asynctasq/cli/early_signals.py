"""SIGTERM and SIGINT while a worker starts: it holds nothing yet and ends with exit code 0. Imports nothing of ours."""

import signal
import threading
from types import FrameType

__all__ = ["end_at_stop_signals", "stop_requested"]

_requests: list[int] = []


def end_at_stop_signals() -> None:
    """Leave the process at SIGTERM and SIGINT from now on, until an event loop handles them."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def stop_requested() -> bool:
    """Return whether such a signal came: code of the application may have caught the exit."""
    return bool(_requests)


def _leave(number: int, _frame: FrameType | None) -> None:
    _requests.append(number)
    raise SystemExit(0)
