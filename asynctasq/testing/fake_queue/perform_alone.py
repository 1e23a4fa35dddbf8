"""One task run on the loop of the test, without a FakeQueue."""

from typing import TypeVar

from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.dispatching import scoped_dispatcher
from asynctasq.tasks.options import whole_number
from asynctasq.testing.fake_queue.dispatcher import FakeDispatcher
from asynctasq.testing.fake_queue.fake_queue import FakeQueue
from asynctasq.testing.fake_queue.performed import Performed
from asynctasq.testing.fake_queue.performing import perform_task, task_with_arguments

__all__ = ["perform"]

R = TypeVar("R")


async def perform(task: BaseTask[R], *, attempt: int = 1) -> Performed[R]:
    """Run one task on the loop of the test as a worker would in its attempt number `attempt`, hooks included.

    There is no queue: nothing is stored, and what the task dispatches goes to the FakeQueue that is open, or nowhere.
    """
    dispatcher = scoped_dispatcher.get()
    number = whole_number(attempt, "attempt", least=1)
    if isinstance(dispatcher, FakeDispatcher):
        engine = dispatcher.engine
        return await engine.run(perform_task(engine, task_with_arguments(task), attempt=number))
    async with FakeQueue() as queue:
        return await queue.perform(task, attempt=attempt)
