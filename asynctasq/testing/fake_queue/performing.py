"""One task run as the worker would, without a queue: the real attempt, codec and hooks."""

from functools import partial
from typing import Any, TypeVar

from asynctasq.core.attempt import AttemptRunner
from asynctasq.core.completion import transactional
from asynctasq.core.in_flight import AttemptCompletion, CompletionFactory, InFlightAttempt, TransactionOutcome
from asynctasq.core.lifespans import LifespanRun
from asynctasq.core.runtime import SharedLoopRuntime, SimulatedRuntime, WorkerSettings
from asynctasq.core.task_factory import TaskFactory
from asynctasq.errors import DELAY_S_MAX, AsyncTasqError
from asynctasq.kernel.messages import Lease, Message, Progress
from asynctasq.queue import MessageFactory
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.testing.engine import Engine
from asynctasq.testing.engine.real_loop import load_in_real_loop
from asynctasq.testing.fake_queue.performed import Performed
from asynctasq.testing.loop import SharedLoop

__all__ = ["perform_task", "task_with_arguments"]

R = TypeVar("R")


class _Completion(AttemptCompletion):
    """Refuses what the driver would; else complete_in ends well and changes nothing: there is no message to settle."""

    def __init__(self, engine: Engine, attempt: InFlightAttempt, task: BaseTask[Any]) -> None:
        self.task = task
        self._transactions = engine.transactions
        self._stands_for = engine.stands_for()
        self._attempt = attempt
        self._open = False
        self.progress: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def begin(self) -> None:
        if self._stands_for is not None:
            transactional(self._stands_for)
        if self._open or self._attempt.settled_in_transaction:
            raise AsyncTasqError(f"{self._attempt.task_name} used complete_in twice in one attempt")
        self._open = True

    def end(self) -> None:
        self._open = False

    async def settle_in(self, connection: Any, result: object) -> None:
        del result
        await self._transactions.begin(connection, self._stands_for)
        self._attempt.settled_in_transaction = True

    def settle_in_sync(self, connection: Any, result: object) -> None:
        del result
        self._transactions.begin_sync(connection, self._stands_for)
        self._attempt.settled_in_transaction = True

    async def transaction_outcome(self) -> TransactionOutcome:
        return TransactionOutcome.COMMITTED


class _CompletionFactory(CompletionFactory):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.progress: list[Progress] = []

    def completion(
        self, attempt: InFlightAttempt, task: BaseTask[Any], keep_result_s: float | None
    ) -> AttemptCompletion:
        del keep_result_s
        made = _Completion(self._engine, attempt, task)
        self.progress = made.progress
        return made


async def perform_task(engine: Engine, task: BaseTask[R], *, attempt: int) -> Performed[R]:
    """Run `task` as its attempt number `attempt` on the engine's loop; nothing is stored or recorded."""
    factory = MessageFactory(clock=engine.clock, new_id=engine.new_id)
    with factory.within(engine.options.surroundings.middleware(), [task]) as [context]:
        message = factory.message(task, context)
    return await engine.perform(partial(_perform, engine, message, attempt=attempt))


async def _perform(engine: Engine, message: Message, *, attempt: int) -> Performed[Any]:
    """Run `message` as its attempt number `attempt`; nothing is stored or recorded."""
    shared = isinstance(engine.loop, SharedLoop)
    runtime = (SharedLoopRuntime if shared else SimulatedRuntime)(
        clock=engine.clock,
        rng=engine.tape.random("jitter"),
        name="perform",
        real_executors=engine.options.real_executors,
    )
    application = Application()
    task_factory = TaskFactory(application, load_in_another_loop=None if shared else load_in_real_loop)
    surroundings = engine.options.surroundings
    entered = surroundings.lifespans()
    lifespans = LifespanRun(entered)
    settings = WorkerSettings(
        application=application,
        lease_s=DELAY_S_MAX,
        fetch_values=True,
        middleware=surroundings.middleware(),
        lifespans=entered,
    )
    lanes = runtime.lanes(settings, task_factory, threads=1)
    lease = Lease(
        message_id=message.id,
        queue=message.queue,
        body=message.body,
        token="1",  # noqa: S106 - a lease token, no secret
        attempt=attempt,
        crashes=0,
        enqueued_at=engine.clock.now(),
        expires_at=engine.clock.now() + DELAY_S_MAX,
    )
    in_flight = InFlightAttempt(lease, deadline=float("inf"))
    completions = _CompletionFactory(engine)
    runner = AttemptRunner(
        task_factory,
        lanes,
        environment=runtime,
        settings=settings,
        completion_factory=completions,
    )
    try:
        await lifespans.enter()
        settlement = await runner.run(in_flight)
    finally:
        await lifespans.leave()
        await lanes.stop_processes()
        lanes.close()
    assert settlement is not None, "a lease without end can't be stale"
    return Performed(
        value=in_flight.value, exception=in_flight.exception, settlement=settlement, progress=completions.progress
    )


def task_with_arguments(task: BaseTask[R]) -> BaseTask[R]:
    """Return the task; raise TypeError for a class or a function."""
    if not isinstance(task, BaseTask):  # pyright: ignore[reportUnnecessaryIsInstance] - users' input
        raise TypeError(f"perform runs a task with its arguments, such as SendEmail('a@b.c'), not {task!r}")
    return task
