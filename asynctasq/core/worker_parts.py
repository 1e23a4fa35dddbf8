"""Makes what a worker runs attempts with, from its driver, settings and runtime; runs nothing."""

from collections.abc import Callable

from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.completion import LeaseCompletionFactory
from asynctasq.core.in_flight import InFlightAttempt
from asynctasq.core.lanes.lanes import Lanes
from asynctasq.core.leases import LeaseRenewer
from asynctasq.core.limit_lines import WaitingLines
from asynctasq.core.limit_tokens import HeldToken, TokenStore
from asynctasq.core.limits import LimitedAttempts
from asynctasq.core.runtime import Runtime, WorkerSettings
from asynctasq.core.schedule_messages import ScheduleMessages
from asynctasq.core.task_factory import TaskFactory
from asynctasq.core.tickers import Tickers
from asynctasq.drivers.base import Driver
from asynctasq.kernel.messages import Lease, Progress, Settlement

__all__ = ["attempt_runner_of", "limited_attempts_of", "task_factory_of", "tickers_of"]


def task_factory_of(settings: WorkerSettings, runtime: Runtime) -> TaskFactory:
    """Return what turns messages into tasks."""
    return TaskFactory(
        settings.application,
        keys=_keys(settings),
        limits=Limits(body_bytes_max=settings.body_bytes_max),
        clock=runtime.clock,
        load_in_another_loop=runtime.load_in_another_loop,
        decode_in_threads=runtime.decode_in_threads,
    )


def tickers_of(driver: Driver, settings: WorkerSettings, *, worker: str) -> Tickers:
    """Return what keeps schedules going."""
    messages = ScheduleMessages(_keys(settings), Limits(body_bytes_max=settings.body_bytes_max))
    return Tickers(driver, messages, settings, worker=worker)


def attempt_runner_of(  # noqa: PLR0913 - the parts of a worker
    driver: Driver,
    settings: WorkerSettings,
    runtime: Runtime,
    *,
    task_factory: TaskFactory,
    lanes: Lanes,
    renewer: LeaseRenewer,
    tickers: Tickers,
    limits: LimitedAttempts,
    on_progress: Callable[[InFlightAttempt, Progress], None] | None,
) -> AttemptRunner:
    """Return what runs attempts."""
    completion_factory = LeaseCompletionFactory(
        driver, renewer, task_factory, clock=runtime.clock, lease_s=settings.lease_s, on_progress=on_progress
    )
    return AttemptRunner(
        task_factory,
        lanes,
        environment=runtime,
        settings=settings,
        completion_factory=completion_factory,
        tickers=tickers,
        limits=limits,
        driver=driver,
    )


def limited_attempts_of(
    driver: Driver,
    settings: WorkerSettings,
    runtime: Runtime,
    *,
    renewer: LeaseRenewer,
    settle_later: Callable[[Lease, Settlement], None],
    on_lost: Callable[[HeldToken], None],
    on_line: Callable[[], None],
) -> LimitedAttempts:
    """Return what runs the attempts of tasks with limits; `on_line` is called when a line of a limit becomes known."""
    tokens = TokenStore(
        driver, renewer, lease_s=settings.lease_s, clock=runtime.clock, settle_later=settle_later, on_lost=on_lost
    )
    limits = Limits(body_bytes_max=settings.body_bytes_max)
    lines = WaitingLines(tokens, rng=runtime.rng, keys=_keys(settings), body_limits=limits, on_line=on_line)
    return LimitedAttempts(tokens, lines)


def _keys(settings: WorkerSettings) -> SigningKeys | None:
    return None if settings.signing_keys is None else SigningKeys(settings.signing_keys)
