"""`asynctasq worker --max-rss`: ends a worker that has grown too large, so that a fresh one takes its place."""

import asyncio
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asynctasq.logs import get_logger

__all__ = ["MEGABYTE", "rss_bytes", "stop_above"]

logger = get_logger(__name__)

MEGABYTE: Final = 2**20
CHECK_S: Final = 2.0
STATM: Final = Path("/proc/self/statm")


def rss_bytes() -> int:
    """Return the memory that this process has in RAM; where the system does not tell, the most it ever had."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


async def stop_above(limit_mb: int, stop: Callable[[], None], *, read: Callable[[], int] = rss_bytes) -> None:
    """Call `stop` once this process has more than so many megabytes in RAM."""
    while True:
        used_mb = read() // MEGABYTE
        if used_mb > limit_mb:
            break
        await asyncio.sleep(CHECK_S)
    logger.warning("the worker has %d MB in memory, more than %d (--max-rss): it drains and ends", used_mb, limit_mb)
    stop()
