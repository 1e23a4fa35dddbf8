"""What is around the dispatches, attempts and workers of a test: what the test gives, else what is configured."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from asynctasq.config import Settings
from asynctasq.core.setup import application_settings, installed_setup
from asynctasq.tasks.configured import Lifespan, given_resources, lifespans_of, middleware_of
from asynctasq.tasks.middleware import Middleware
from asynctasq.tasks.resources import current_resources

__all__ = ["Surroundings", "resources"]


class Surroundings:
    """Middleware and lifespans of a test. `given` is the middleware that takes the place of the configured one.

    `resources`, one object or a tuple, take the place of what the configured lifespans yield; None gives none. Neither
    is entered in a test that has set resources around all of it.

    Raises: ConfigError for middleware that is none.
    """

    def __init__(self, middleware: Sequence[object] | None = None, resources: object = None) -> None:
        self.given = None if middleware is None else middleware_of(middleware)
        self._lifespans = None if resources is None else given_resources(resources)
        self._environment: Settings | None = None

    def middleware(self) -> tuple[Middleware, ...]:
        """Return what attempts run in."""
        return middleware_of(self.settings().middleware) if self.given is None else self.given

    def lifespans(self) -> tuple[Lifespan, ...]:
        """Return what workers enter."""
        if self._lifespans is None and current_resources.get() is not None:
            return ()
        return lifespans_of(self.settings().lifespan) if self._lifespans is None else self._lifespans

    def settings(self) -> Settings:
        """Return the settings that hold; the environment is read once."""
        installed = installed_setup()
        if installed is not None:
            return installed.settings
        if self._environment is None:
            self._environment = application_settings()
        return self._environment


@contextmanager
def resources(*values: object) -> Generator[None]:
    """Let `resource` and `Resource` find these objects in the block, as if lifespans had yielded them.

    In tasks that the test calls itself, and in those it runs: no lifespan is entered meanwhile.
    """
    before = current_resources.get()
    current_resources.set(values)
    try:
        yield
    finally:
        current_resources.set(before)  # not reset with a token: a fixture may be torn down in another context
