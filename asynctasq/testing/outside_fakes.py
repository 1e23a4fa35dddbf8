"""What a dispatch gets in a test in which no FakeQueue is open; imports nothing that costs until one is made."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import pytest

from asynctasq.errors import DispatchError
from asynctasq.tasks.dispatching import Dispatcher, set_outside_fakes
from asynctasq.tasks.schedules import keep_by_default

if TYPE_CHECKING:
    from asynctasq.testing.fake_queue.implicit import ImplicitFake

__all__ = ["REAL_QUEUE", "RealQueueRule"]

REAL_QUEUE = "asynctasq_real_queue"
Mode = Literal["forbid", "fake", "allow"]


class RealQueueRule:
    """The mode of a pytest run and, while one runs, of a test. A run within another one has its own."""

    def __init__(self, mode: object, source: str) -> None:
        self._default: Mode = _mode(mode, source)
        self._mode: Mode = self._default
        self._refused: DispatchError | None = None
        self._fake: ImplicitFake | None = None
        self._before: Any = None
        self._kept_before = True

    def install(self) -> None:
        """Decide about dispatches from now on; no worker keeps schedules going without being told which."""
        self._before = set_outside_fakes(self._provide)
        self._kept_before = keep_by_default(False)

    def uninstall(self) -> None:
        """Leave it to whoever decided before."""
        set_outside_fakes(self._before)
        keep_by_default(self._kept_before)

    @contextmanager
    def for_test(self, marked: tuple[object, ...] | None) -> Generator[None]:
        """Let a test's marker decide while it runs, with its fixtures; None has no marker."""
        # A wrong marker is told where the test is set up: an error here would end the whole run.
        self._mode, self._refused = self._default, None
        if marked is not None:
            try:
                self._mode = _mode(marked[0] if len(marked) == 1 else marked, f"the marker {REAL_QUEUE}")
            except pytest.UsageError as error:
                self._refused = DispatchError(str(error))
        try:
            yield
        finally:
            self._mode, self._refused = self._default, None
            if self._fake is not None:
                self._fake.close()
                self._fake = None

    def raise_refused(self) -> None:
        """Raise the refusal of a dispatch once more, if there was one: the code under test may have swallowed it."""
        refused, self._refused = self._refused, None
        if refused is not None:
            raise refused

    def faked_text(self) -> str:
        """Return what was dispatched and faked, a line each."""
        return "" if self._fake is None else self._fake.text()

    def _provide(self) -> Dispatcher[Any] | None:
        match self._mode:
            case "allow":
                return None
            case "fake":
                if self._fake is None:
                    from asynctasq.testing.fake_queue.implicit import ImplicitFake

                    self._fake = ImplicitFake()
                return self._fake.dispatcher
            case "forbid":
                self._forbid()
                return None

    def _forbid(self) -> None:
        """Raise, unless the configured queue lives in the memory of this process, which nobody else sees."""
        from asynctasq.core.setup import current_setup

        driver = current_setup().queue.driver
        if not driver.capabilities.cross_process:
            return
        self._refused = DispatchError(
            "a test dispatched a task with no FakeQueue open, and it would have gone to the configured queue, "
            f"{driver}. Open one: use the fixture fake_queue, or `async with FakeQueue() as queue:` around this code. "
            f'If the real queue is meant, mark the test with @pytest.mark.{REAL_QUEUE}("allow"), '
            "or for every test write\n\n"
            f'    {REAL_QUEUE} = "allow"\n\n'
            'under [tool.pytest.ini_options] in pyproject.toml; with "fake" such dispatches are kept from the queue, '
            "and shown when the test fails"
        )
        raise self._refused


def _mode(value: object, source: str) -> Mode:
    modes = get_args(Mode)
    if value not in modes:
        raise pytest.UsageError(f"{source} must be one of {', '.join(modes)}; it is {value!r}")
    return cast("Mode", value)
