"""Makes `datetime.now()` and `time.time()` of the code under test follow a virtual clock, through freezegun."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from asynctasq.errors import MissingExtra
from asynctasq.testing.clock import VirtualClock

__all__ = ["frozen_to"]


@contextmanager
def frozen_to(clock: VirtualClock) -> Generator[None]:
    """Freeze the wall clock to `clock` and move it whenever the clock moves.

    freezegun replaces the functions in every imported module, so the whole process sees virtual
    time meanwhile: one frozen simulation at a time, and entering takes milliseconds. asyncio's own
    loops keep real time; `time.sleep` really sleeps.

    Raises: MissingExtra if freezegun is not installed.
    """
    frozen: Any
    with _freezegun().freeze_time(clock.utc().replace(tzinfo=None), real_asyncio=True) as frozen:
        frozen_us = clock.elapsed_us

        def follow(elapsed_us: int) -> None:
            nonlocal frozen_us
            frozen.tick(timedelta(microseconds=elapsed_us - frozen_us))
            frozen_us = elapsed_us

        unwatch = clock.watch(follow)
        try:
            yield
        finally:
            unwatch()


def _freezegun() -> Any:
    try:
        import freezegun
    except ImportError as error:
        raise MissingExtra(
            "freeze_time=True needs freezegun, which is not installed; run: pip install 'asynctasq[testing]'"
        ) from error
    return freezegun
