"""What is dispatched in a transaction is recorded when that commits, whichever library it is; on private servers."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from asynctasq import AsyncTask
from asynctasq.testing import FakeQueue
from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.transaction_libraries import LIBRARIES, SERVERLESS, Library, Undo


class Note(AsyncTask[None]):
    text: str

    async def execute(self) -> None:
        pass


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


@pytest.fixture
def servers(request: pytest.FixtureRequest, library: Library) -> Servers | None:
    serverless = any(library is one for one in SERVERLESS.values())
    return None if serverless else request.getfixturevalue("conformance_servers")


async def dispatch(text: str, connection: Any) -> None:
    await Note(text=text).dispatch(connection=connection)


def recorded(queue: FakeQueue) -> list[object]:
    return [one.arguments["text"] for one in queue.dispatched(Note)]


async def test_it_is_recorded_at_the_commit_in_order(library: Library, servers: Servers | None, tmp_path: Path) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like) as queue:
        async with library.transaction(connection):
            await dispatch("first", connection)
            if library.is_sync:
                Note(text="second").dispatch_sync(connection=connection)
            else:
                await dispatch("second", connection)
            assert recorded(queue) == []
            assert (await queue.run_until_idle()).succeeded == 0

        assert recorded(queue) == ["first", "second"]
        assert (await queue.run_until_idle()).succeeded == 2


async def test_it_is_never_recorded_after_a_rollback(library: Library, servers: Servers | None, tmp_path: Path) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like, strict=True) as queue:
        with suppress(Undo):
            async with library.transaction(connection):
                await dispatch("never", connection)
                raise Undo
        async with library.transaction(connection):
            await dispatch("later", connection)

        assert recorded(queue) == ["later"]
        await queue.run_until_idle()


async def test_a_savepoint_takes_its_own_with_it_and_no_other(
    library: Library, servers: Servers | None, tmp_path: Path
) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like) as queue:
        async with library.transaction(connection):
            await dispatch("before", connection)
            with suppress(Undo):
                async with library.nested(connection):
                    await dispatch("never", connection)
                    raise Undo
            async with library.nested(connection):
                await dispatch("released", connection)
            await dispatch("after", connection)

        assert recorded(queue) == ["before", "released", "after"]


async def test_a_savepoint_that_is_older_than_the_first_dispatch_takes_it_too(
    library: Library, servers: Servers | None, tmp_path: Path
) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like) as queue:
        async with library.transaction(connection):
            with suppress(Undo):
                async with library.nested(connection):
                    async with library.nested(connection):
                        await dispatch("never", connection)
                    raise Undo
            async with library.nested(connection):
                await dispatch("released", connection)

        assert recorded(queue) == ["released"]


async def test_a_rollback_takes_what_a_released_savepoint_dispatched(
    library: Library, servers: Servers | None, tmp_path: Path
) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like) as queue:
        with suppress(Undo):
            async with library.transaction(connection):
                async with library.nested(connection):
                    await dispatch("never", connection)
                raise Undo

        assert recorded(queue) == []
        with pytest.raises(AssertionError, match=r"was rolled back:\n  Note\(text='never'\)"):
            queue.assert_dispatched(Note)


OPENED: list[Any] = []
LIBRARY: list[Library] = []


class Completes(AsyncTask[None]):
    max_attempts = 2
    fails: bool

    async def execute(self) -> None:
        [connection], [library] = OPENED, LIBRARY
        async with library.transaction(connection):
            async with self.complete_in(connection):
                await dispatch("follow-up", connection)
            if self.fails and self.attempt == 1:
                raise Undo


@pytest.mark.parametrize("fails", [False, True])
async def test_a_completion_counts_when_its_transaction_commits(
    library: Library, servers: Servers | None, tmp_path: Path, *, fails: bool
) -> None:
    async with library.opened(servers, tmp_path) as connection, FakeQueue(like=library.like, strict=True) as queue:
        OPENED[:], LIBRARY[:] = [connection], [library]
        task_id = await Completes(fails=fails).dispatch()

        await queue.run_until_idle()

        history = queue.history(task_id)
        assert (history.completed, len(history.attempts)) == (True, 2 if fails else 1)
        assert recorded(queue) == ["follow-up"]


async def test_the_connection_is_left_as_it_was(library: Library, servers: Servers | None, tmp_path: Path) -> None:
    async with library.opened(servers, tmp_path) as connection:
        async with FakeQueue(like=library.like) as first, library.transaction(connection):
            await dispatch("in the first", connection)

        async with FakeQueue(like=library.like) as second:
            async with library.transaction(connection):
                await dispatch("in the second", connection)

            assert (recorded(first), recorded(second)) == (["in the first"], ["in the second"])
