"""A FakeQueue on the loops that test frameworks make: each runs, or is refused in words. In processes of their own."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

TASKS = """
import asyncio
import time

from asynctasq import AsyncTask


class Work(AsyncTask[None]):
    max_attempts = 2
    retry_delay = 3600

    async def execute(self):
        LOOPS.append(asyncio.get_running_loop())
        await asyncio.to_thread(time.sleep, 0.01)
        await asyncio.sleep(60)
        if self.attempt == 1:
            raise ConnectionError


LOOPS = []


async def run(queue):
    LOOPS.clear()
    started = queue.clock.elapsed.total_seconds()
    task_id = await Work().dispatch()
    await queue.run_until_idle()
    queue.assert_retried_at([3660], task=task_id)
    queue.assert_completed(task_id)
    assert queue.clock.elapsed.total_seconds() == started + 3720
    assert set(LOOPS) == {asyncio.get_running_loop()}
"""

INI = """
[pytest]
addopts = -p no:looptime_plugin -p no:looptime_timeproxies -p no:cacheprovider
filterwarnings = error
"""


class Project:
    """A folder with tasks and tests, in which programs run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tasks.py").write_text(TASKS)
        (folder / "pytest.ini").write_text(INI)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(dedent(text))

    def run(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-W", "error", "-m", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pytest(self, *arguments: str, code: int = 0) -> str:
        return self.run("pytest", "-q", *arguments, code=code)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# -- pytest-asyncio --------------------------------------------------------------------------------

STRICT = ("-p", "no:anyio", "-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function")


@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_pytest_asyncio_with_a_loop_of_each_scope(project: Project, scope: str) -> None:
    project.write(
        "test_it.py",
        f"""
        import pytest
        from tasks import run
        from asynctasq.testing import FakeQueue

        @pytest.mark.asyncio(loop_scope="{scope}")
        class TestIt:
            @pytest.mark.parametrize("again", range(2))
            async def test_opened_in_the_test(self, again):
                async with FakeQueue(strict=True) as queue:
                    await run(queue)

            @pytest.mark.parametrize("again", range(2))
            async def test_the_fixture(self, fake_queue, again):
                await run(fake_queue)
        """,
    )

    assert "4 passed" in project.pytest(*STRICT)


def test_a_session_scoped_fixture_serves_all_tests_of_a_session_scoped_loop(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest, pytest_asyncio
        from tasks import Work, run
        from asynctasq.testing import FakeQueue

        pytestmark = pytest.mark.asyncio(loop_scope="session")

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def queue():
            async with FakeQueue() as queue:
                yield queue

        async def test_first(queue):
            await run(queue)

        async def test_second(queue):
            await run(queue)
            queue.assert_completed(Work, times=2)
        """,
    )

    assert "2 passed" in project.pytest(*STRICT)


def test_a_fixture_on_another_loop_than_the_test_is_refused_in_words(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest, pytest_asyncio
        from tasks import Work, run
        from asynctasq.testing import FakeQueue

        @pytest_asyncio.fixture(scope="session", loop_scope="session")
        async def queue():
            async with FakeQueue() as queue:
                await run(queue)
                yield queue

        @pytest.mark.asyncio(loop_scope="function")
        async def test_on_another_loop(queue):
            with pytest.raises(RuntimeError, match="another event loop.*loop_scope"):
                await queue.run_until_idle()
        """,
    )

    assert "1 passed" in project.pytest(*STRICT)


def test_two_loops_in_one_test_are_refused_for_one_queue_and_served_by_two(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import asyncio
        import pytest
        from tasks import run
        from asynctasq.testing import FakeQueue

        def test_one_queue():
            with FakeQueue() as queue, asyncio.Runner() as first, asyncio.Runner() as second:
                first.run(run(queue))
                with pytest.raises(RuntimeError, match="another event loop"):
                    second.run(run(queue))

        def test_two_queues():
            async def one():
                async with FakeQueue() as queue:
                    await run(queue)

            with asyncio.Runner() as first, asyncio.Runner() as second:
                first.run(one())
                second.run(one())
                first.run(one())
        """,
    )

    assert "2 passed" in project.pytest(*STRICT)


def test_a_loop_that_was_closed_makes_room_for_the_next(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import asyncio
        from tasks import run
        from asynctasq.testing import FakeQueue

        def test_one_queue_on_one_loop_after_another():
            with FakeQueue() as queue:
                asyncio.run(run(queue))
                asyncio.run(run(queue))
        """,
    )

    assert "1 passed" in project.pytest(*STRICT)


def test_pytest_xdist(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest
        from tasks import run
        from asynctasq.testing import FakeQueue

        @pytest.mark.asyncio
        @pytest.mark.parametrize("number", range(6))
        async def test_it(number):
            async with FakeQueue(strict=True) as queue:
                await run(queue)
        """,
    )

    assert "6 passed" in project.pytest(*STRICT, "-n", "2")


# -- anyio -----------------------------------------------------------------------------------------

ANYIO = """
import pytest
from tasks import run
from asynctasq.testing import FakeQueue

pytestmark = pytest.mark.anyio

@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}

@pytest.fixture
async def queue():
    async with FakeQueue(strict=True) as queue:
        yield queue

async def test_opened_in_the_test():
    async with FakeQueue(strict=True) as queue:
        await run(queue)

async def test_opened_in_a_fixture(queue):
    await run(queue)

async def test_the_fixture(fake_queue):
    await run(fake_queue)
"""


def test_anyios_plugin_on_asyncio(project: Project) -> None:
    project.write("test_it.py", ANYIO)

    assert "6 passed" in project.pytest("-p", "no:asyncio")


def test_on_trio_running_is_refused_in_words(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import pytest
        from tasks import Work
        from asynctasq.testing import FakeQueue

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "trio"

        async def test_opened_in_the_test():
            with pytest.raises(RuntimeError, match="FakeQueue.*asyncio.*trio"):
                async with FakeQueue() as queue:
                    await Work().dispatch()
                    await queue.run_until_idle()

        async def test_the_fixture(fake_queue):
            with pytest.raises(RuntimeError, match="FakeQueue.*asyncio.*trio"):
                await fake_queue.run_until_idle()
        """,
    )

    assert "2 passed" in project.pytest("-p", "no:asyncio")


# -- unittest --------------------------------------------------------------------------------------


def test_isolated_asyncio_test_case(project: Project) -> None:
    project.write(
        "test_it.py",
        """
        import unittest
        from tasks import run
        from asynctasq.testing import FakeQueue

        class InTest(unittest.IsolatedAsyncioTestCase):
            async def test_it(self):
                async with FakeQueue(strict=True) as queue:
                    await run(queue)

        class InSetUp(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.queue = await self.enterAsyncContext(FakeQueue(strict=True))

            async def test_first(self):
                await run(self.queue)

            async def test_second(self):
                await run(self.queue)
        """,
    )

    assert "Ran 3 tests" in project.run("unittest", "test_it")
    assert "3 passed" in project.pytest(*STRICT)
