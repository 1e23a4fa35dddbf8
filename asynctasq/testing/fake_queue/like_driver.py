"""What the configured driver would refuse, without connecting it; `like=` names another one."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.config import ENV_PREFIX, load_settings
from asynctasq.core.setup import Setup, installed_setup
from asynctasq.drivers.base import Driver
from asynctasq.drivers.checks import check_messages
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import MissingExtra
from asynctasq.kernel.messages import Message
from asynctasq.queue import Queue, check_keeps_results, check_transactional
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.project import project_root

__all__ = ["LikeDriver"]


class LikeDriver:
    """The rules of the driver that tasks would go to: of the configured one, or of `like`, a name, a URL or a driver.

    A driver whose client library is not installed has no rules here; a real dispatch would say what to install.
    """

    def __init__(self, like: str | Driver | None = None) -> None:
        """Raises: ConfigError for a name that no driver has, MissingExtra without its library."""
        self._like = create_driver(like) if isinstance(like, str) else like
        self._from_environment: list[Queue | None] = []

    @property
    def driver(self) -> Driver | None:
        """The driver of tasks that name no other."""
        if self._like is not None:
            return self._like
        queue = self._queue
        return None if queue is None else queue.driver

    @property
    def limits(self) -> Limits:
        """How large the encoded body of a task may be."""
        queue = self._queue
        if queue is None:
            return DEFAULT_LIMITS
        most = queue.factory.limits.body_bytes_max
        return DEFAULT_LIMITS if most >= DEFAULT_LIMITS.body_bytes_max else replace(DEFAULT_LIMITS, body_bytes_max=most)

    def drivers_of(self, tasks: Sequence[BaseTask[Any]]) -> list[Driver | None]:
        """Return where each of these tasks would go; None where nothing is known of the driver."""
        queue = self._queue
        if queue is None:
            return [self._like for _ in tasks]
        return [self._driver_of(task, queue) for task in tasks]

    def check(self, tasks: Sequence[BaseTask[Any]], drivers: Sequence[Driver | None], *, in_transaction: bool) -> None:
        """Refuse what the driver of each of these tasks lacks.

        Raises: UnsupportedFeature.
        """
        for task, driver in zip(tasks, drivers, strict=True):
            if driver is not None:
                check_keeps_results(task, driver)
                if in_transaction:
                    check_transactional(driver)

    def check_messages(self, drivers: Sequence[Driver | None], messages: Sequence[Message]) -> None:
        """Refuse what the driver of each of these messages would not store.

        Raises: InvalidQueueName, BodyTooLarge, DispatchError.
        """
        for driver, message in zip(drivers, messages, strict=True):
            check_messages([message], body_bytes_max=None if driver is None else driver.capabilities.body_bytes_max)

    @property
    def _queue(self) -> Queue | None:
        """The configured queue; the environment is read once."""
        installed = installed_setup()
        if installed is not None:
            return installed.queue
        if not self._from_environment:
            self._from_environment.append(_queue_of_environment())
        return self._from_environment[0]

    def _driver_of(self, task: BaseTask[Any], queue: Queue) -> Driver | None:
        try:
            driver = queue.driver_of(task)
        except MissingExtra:
            return None
        return self._like if self._like is not None and driver is queue.driver else driver


_read: tuple[object, Queue | None] = (None, None)
"""What was read from the environment, and the environment it was read from."""


def _queue_of_environment() -> Queue | None:
    """Return the queue that dispatches would go to; None if the library of its driver is missing. Opens nothing."""
    global _read  # noqa: PLW0603 - reading the files again costs more than a whole test may
    sources = _sources()
    if _read[0] != sources:
        try:
            _read = (sources, Setup(load_settings()).queue)
        except MissingExtra:
            _read = (sources, None)
    return _read[1]


def _sources() -> object:
    """Return what tells one configuration from another."""
    root = project_root()
    environment = [(name, value) for name, value in os.environ.items() if name.upper().startswith(ENV_PREFIX)]
    return (root, environment, *(_changed_at(root / name) for name in (".env", "pyproject.toml")))


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
