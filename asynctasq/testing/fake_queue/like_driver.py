"""What the configured driver would refuse, without connecting it; `like=` names another one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.config import Settings
from asynctasq.core.setup import Setup, application_settings, installed_setup
from asynctasq.drivers.base import Driver
from asynctasq.drivers.checks import check_messages
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import MissingExtra
from asynctasq.kernel.messages import Message
from asynctasq.queue import Queue, check_supported, check_transactional
from asynctasq.results import check_cancels_running
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of

__all__ = ["LikeDriver"]


class LikeDriver:
    """The rules of the driver that tasks would go to: of the configured one, or of `like`, a name, a URL or a driver.

    A driver whose client library is not installed has no rules here; a real dispatch would say what to install.
    """

    def __init__(
        self, like: str | Driver | None = None, settings: Callable[[], Settings] = application_settings
    ) -> None:
        """Raises: ConfigError for a name that no driver has, MissingExtra without its library."""
        self._like = create_driver(like) if isinstance(like, str) else like
        self._settings = settings
        self._from_environment: list[Queue | None] = []

    @property
    def driver(self) -> Driver | None:
        """The driver of tasks that name no other."""
        if self._like is not None:
            return self._like
        queue = self.queue
        return None if queue is None else queue.driver

    def limits(self, queue: Queue | None) -> Limits:
        """Return how large the encoded body of a task may be."""
        if queue is None:
            return DEFAULT_LIMITS
        most = queue.factory.limits.body_bytes_max
        return DEFAULT_LIMITS if most >= DEFAULT_LIMITS.body_bytes_max else replace(DEFAULT_LIMITS, body_bytes_max=most)

    def drivers_of(self, tasks: Sequence[BaseTask[Any]], queue: Queue | None) -> list[Driver | None]:
        """Return where each of these tasks would go; None where nothing is known of the driver."""
        if queue is None:
            return [self._like for _ in tasks]
        return [self._driver_of(type(task), queue) for task in tasks]

    def check(self, tasks: Sequence[BaseTask[Any]], drivers: Sequence[Driver | None], *, in_transaction: bool) -> None:
        """Refuse what the driver of each of these tasks lacks.

        Raises: UnsupportedFeature.
        """
        for task, driver in zip(tasks, drivers, strict=True):
            if driver is not None:
                check_supported(task, definition_of(type(task)), driver)
                if in_transaction:
                    check_transactional(driver)

    def check_cancels(self, task: type[BaseTask[Any]] | None) -> None:
        """Refuse what the driver of this task, or the default one, can't cancel.

        Raises: UnsupportedFeature.
        """
        queue, driver = self.queue, self.driver
        if task is not None and queue is not None:
            driver = self._driver_of(task, queue)
        if driver is not None:
            check_cancels_running(driver)

    def check_messages(self, drivers: Sequence[Driver | None], messages: Sequence[Message]) -> None:
        """Refuse what the driver of each of these messages would not store.

        Raises: InvalidQueueName, BodyTooLarge, DispatchError.
        """
        for driver, message in zip(drivers, messages, strict=True):
            check_messages(
                [message],
                body_bytes_max=None if driver is None else driver.capabilities.body_bytes_max,
                fair=driver is None or bool(driver.capabilities.fair),
            )

    @property
    def queue(self) -> Queue | None:
        """The configured queue; the environment is read once. None where the library of its driver is missing."""
        installed = installed_setup()
        if installed is not None:
            return installed.queue
        if not self._from_environment:
            self._from_environment.append(_queue_of(self._settings()))
        return self._from_environment[0]

    def _driver_of(self, task: type[BaseTask[Any]], queue: Queue) -> Driver | None:
        try:
            driver = queue.driver_for(task)
        except MissingExtra:
            return None
        return self._like if self._like is not None and driver is queue.driver else driver


_made: tuple[Settings | None, Queue | None] = (None, None)
"""Settings, and the queue that was made from them."""


def _queue_of(settings: Settings) -> Queue | None:
    """Return the queue that dispatches would go to; None if the library of its driver is missing. Opens nothing."""
    global _made  # noqa: PLW0603 - making a driver costs more than a whole test may
    if _made[0] is not settings:
        try:
            _made = (settings, Setup(settings).queue)
        except MissingExtra:
            _made = (settings, None)
    return _made[1]
