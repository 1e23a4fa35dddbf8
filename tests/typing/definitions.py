"""What type checkers must accept; both check this file in strict mode, nothing runs it."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from asynctasq import (
    AsyncProcessTask,
    AsyncTask,
    Resource,
    Retry,
    Snooze,
    SyncProcessTask,
    SyncTask,
    dispatch_many,
    init,
    resource,
    task,
)
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.tasks import AttemptContext, BaseTask, DispatchContext, Middleware, TaskFunction, TaskHandle
from asynctasq.testing import FakeQueue, History, Performed, resources


class Email(AsyncTask[bool]):
    queue = "emails"
    max_attempts = 5
    retry_delay = timedelta(seconds=30)
    retry_strategy = "exponential"
    timeout = 10
    expires = timedelta(hours=1)
    retry_on = (OSError, ValueError)
    give_up_on = (ConnectionRefusedError,)
    keep_result = True

    def __init__(self, to: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to

    async def execute(self) -> bool:
        if not self.to:
            raise Retry("nobody", after=timedelta(minutes=5))
        if self.attempt == 2:
            raise Snooze(timedelta(hours=1))
        return bool(self.to)

    async def failed(self, exception: Exception) -> None: ...

    async def should_retry(self, exception: Exception) -> bool:
        return isinstance(exception, OSError)


class Blocking(SyncTask[int]):
    retry_delay = [1, 5.0, timedelta(minutes=1)]
    _driver_override = MemoryDriver()

    def execute(self) -> int:
        return self.attempt

    def failed(self, exception: Exception) -> None: ...

    def should_retry(self, exception: Exception) -> bool:
        return False


class Report(SyncProcessTask[str]):
    _driver_override = "redis"

    def execute(self) -> str:
        return ""


class Crawl(AsyncProcessTask[None]):
    async def execute(self) -> None: ...


class Invite(AsyncTask[None]):
    queue = "mail"

    to: str
    copies: int = 1

    async def execute(self) -> None: ...


class InviteLater(Invite):
    days: float = 1


class Client:
    """What a lifespan yields."""


async def client() -> AsyncGenerator[Client]:
    yield Client()


class Fetch(AsyncTask[Client]):
    url: str
    client = Resource(Client)

    async def execute(self) -> Client:
        assert_type(self.client, Client)
        assert_type(resource(Client), Client)
        return self.client


class Tenancy(Middleware):
    @contextmanager
    def dispatching(self, context: DispatchContext) -> Generator[None]:
        context.headers["tenant"] = "acme"
        yield

    @asynccontextmanager
    async def attempting(self, context: AttemptContext) -> AsyncGenerator[None]:
        assert_type(context.headers["tenant"], str)
        yield


@task
async def add(a: int, b: int = 2) -> int:
    return a + b


@task(queue="reports", max_attempts=0, retry_delay=[1, 2], retry_strategy="fixed", process=True, timeout=None)
def render(name: str) -> str:
    return name


@task(expires=60, retry_on=(OSError,), give_up_on=None)
def send(name: str) -> str:
    return name


async def use() -> None:
    assert_type(Email(to="a").on_queue("b").delay(5).retry_after(timedelta(seconds=1)).with_options(timeout=1), Email)
    assert_type(await Email("a").dispatch(), TaskHandle[bool])
    assert_type(await (await Email("a").dispatch()).result(timeout=1), bool)
    assert_type(Blocking().dispatch_sync(), TaskHandle[int])
    assert_type(await Email("a").execute(), bool)
    assert_type(Email("a").task_id, str)
    assert_type(Email("a").dispatched_at, datetime)
    assert_type(Email("a").at(datetime.now(UTC)).with_options(expires=5), Email)
    assert_type(Fetch(url="a"), Fetch)
    assert_type(Fetch.client, Resource[Client])
    init({"middleware": [Tenancy()], "lifespan": [client]})
    assert_type(Invite(to="a", copies=2).on_queue("b"), Invite)
    assert_type(await InviteLater(to="a", days=0.5).dispatch(), TaskHandle[None])
    assert_type(add(1, b=2), BaseTask[int])
    assert_type(render("a"), BaseTask[str])
    assert_type(await add.dispatch(1), TaskHandle[int])
    assert_type(await dispatch_many([Email("a"), Email("b")]), list[TaskHandle[bool]])
    mixed: Sequence[str] = await dispatch_many([Email("a"), Report(), Crawl(), add(1), render("a")])
    del mixed
    function: TaskFunction[[str], str] = render
    del function


async def use_in_tests(queue: FakeQueue, any_history: History, any_performed: Performed) -> None:
    with resources(Client()), FakeQueue(middleware=[Tenancy()], resources=Client()):
        assert_type(await Fetch(url="a").execute(), Client)
    assert_type(await queue.perform(Email("a")), Performed[bool])
    assert_type((await queue.perform(add(1))).value, int | None)
    assert_type(queue.perform_sync(render("a")).value, str | None)
    assert_type(queue.history(Report), History[str])
    assert_type(queue.history(add).value, int | None)
    assert_type(queue.history("id").value, Any | None)
    assert_type(any_history, History[Any])
    assert_type(any_performed, Performed[Any])
    assert_type(queue.history(add).attempts[0].outcome, str)
    queue.assert_completed(add)
    queue.assert_completed("id")
