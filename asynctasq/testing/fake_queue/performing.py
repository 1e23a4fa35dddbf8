"""One task run as the worker would, without a queue: the real attempt, codec and hooks."""

from dataclasses import dataclass
from typing import Any

from asynctasq.core.attempt import AttemptCompletion, AttemptRunner, Completions, Held, Sequel
from asynctasq.core.building import Builder
from asynctasq.core.surroundings import SimulatedSurroundings, WorkerSettings
from asynctasq.errors import AsyncTasqError
from asynctasq.kernel.messages import Bury, Complete, Lease, Message, Settlement
from asynctasq.tasks.base import BaseTask
from asynctasq.testing.engine import Engine
from asynctasq.testing.engine.application import application_under_test, load_in_real_loop

__all__ = ["Performed", "perform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """How one attempt ended: what it returned or raised, and how it would have been settled."""

    value: object
    exception: BaseException | None
    settlement: Settlement

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return isinstance(self.settlement, Complete)

    @property
    def failed(self) -> bool:
        """Whether it would be a dead letter now."""
        return isinstance(self.settlement, Bury)

    @property
    def retry_in_s(self) -> float | None:
        """After how many seconds it would run again; None if it would not."""
        return None if isinstance(self.settlement, Complete | Bury) else self.settlement.delay_s


class _Completion(AttemptCompletion):
    """Lets complete_in end well and changes nothing: there is no message to settle."""

    def __init__(self, held: Held, task: BaseTask[Any]) -> None:
        self.task = task
        self._held = held
        self._open = False

    def begin(self) -> None:
        if self._open or self._held.settled_in:
            raise AsyncTasqError(f"{self._held.name} used complete_in twice in one attempt")
        self._open = True

    def end(self) -> None:
        self._open = False

    async def settle_in(self, connection: Any, result: object) -> None:
        self.settle_in_sync(connection, result)

    def settle_in_sync(self, connection: Any, result: object) -> None:
        del connection, result
        self._held.settled_in = True

    async def sequel(self) -> Sequel:
        return Sequel.COMMITTED


class _Completions(Completions):
    def completion(self, held: Held, task: BaseTask[Any], keep_result_s: float | None) -> AttemptCompletion:
        del keep_result_s
        return _Completion(held, task)


async def perform(engine: Engine, message: Message, *, attempt: int) -> Performed:
    """Run `message` as its attempt number `attempt`; nothing is stored or recorded."""
    world = SimulatedSurroundings(
        clock=engine.clock,
        rng=engine.tape.random("jitter"),
        name="perform",
        real_executors=engine.options.real_executors,
    )
    application = application_under_test(real_executors=engine.options.real_executors)
    builder = Builder(application, elsewhere=load_in_real_loop)
    lanes = world.lanes(WorkerSettings(application=application), builder, threads=1)
    lease = Lease(
        message_id=message.id,
        queue=message.queue,
        body=message.body,
        token="1",  # noqa: S106 - a lease token, no secret
        attempt=attempt,
        crashes=0,
        enqueued_at=engine.clock.now(),
        expires_at=float("inf"),
    )
    held = Held(lease, deadline=float("inf"))
    try:
        runner = AttemptRunner(builder, lanes, world=world, completions=_Completions(), fetch_values=True)
        settlement = await runner.run(held)
    finally:
        await lanes.stop_processes()
        lanes.close()
    assert settlement is not None, "a lease without end can't be stale"
    return Performed(value=held.value, exception=held.exception, settlement=settlement)
