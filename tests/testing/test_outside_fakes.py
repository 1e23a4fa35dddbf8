"""A test in which no FakeQueue is open reaches no real queue, unless that is allowed."""

import pytest

pytest_plugins = ["pytester"]

TASKS = """
import asyncio, logging, threading
import pytest
import asynctasq
from asynctasq import AsyncTask, dispatch_many_sync
from asynctasq.testing import FakeQueue

class Note(AsyncTask[None]):
    text: str
    async def execute(self) -> None: ...
"""


def run(
    pytester: pytest.Pytester, tests: str, *arguments: str, mode: str | None = None, own_process: bool = False
) -> pytest.RunResult:
    ini = "" if mode is None else f'asynctasq_real_queue = "{mode}"\n'
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{ini}")
    pytester.makepyfile(tasks=TASKS)
    pytester.makepyfile("from tasks import *\n" + tests)
    how = pytester.runpytest_subprocess if own_process else pytester.runpytest_inprocess
    return how("-p", "no:asyncio", "-p", "no:looptime_plugin", "-p", "no:looptime_timeproxies", *arguments)


DISPATCHES = """
def test_it():
    Note(text="a").dispatch_sync()
"""
SWALLOWS = """
def test_it():
    try:
        dispatch_many_sync([Note(text="a")])
    except Exception:
        logging.exception("not sent")
"""


def test_it_is_forbidden_and_says_how_to_allow_it(pytester: pytest.Pytester) -> None:
    result = run(pytester, DISPATCHES)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '*DispatchError: a test dispatched*open*sqlite file *@pytest.mark.asynctasq_real_queue("allow")*',
            '*asynctasq_real_queue = "allow"*',
        ]
    )
    assert not (pytester.path / ".asynctasq").exists()


@pytest.mark.parametrize("place", ["test", "fixture"])
def test_a_refusal_that_is_swallowed_fails_the_test(pytester: pytest.Pytester, place: str) -> None:
    as_fixture = SWALLOWS.replace("def test_it", "@pytest.fixture\ndef swallows")
    result = run(pytester, SWALLOWS if place == "test" else f"{as_fixture}\ndef test_it(swallows): pass")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*DispatchError: a test dispatched a task with no FakeQueue open*"])


def test_another_thread_is_refused_too(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        "def test_it():\n"
        "    thread = threading.Thread(target=Note(text='a').dispatch_sync)\n    thread.start(); thread.join()\n",
        "-p",
        "no:threadexception",
        own_process=True,
    )

    result.assert_outcomes(failed=1)


def test_an_open_fake_queue_takes_it(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        "def test_fixture(fake_queue):\n    Note(text='a').dispatch_sync(); fake_queue.assert_dispatched(Note)\n"
        "def test_block():\n    with FakeQueue() as queue:\n        Note(text='a').dispatch_sync()\n",
    )

    result.assert_outcomes(passed=2)


ALLOWED = '@pytest.mark.asynctasq_real_queue("allow")' + DISPATCHES


def test_the_marker_allows_it_for_one_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, ALLOWED + DISPATCHES.replace("test_it", "test_other"), "--strict-markers", own_process=True)

    result.assert_outcomes(passed=1, failed=1)
    assert (pytester.path / ".asynctasq" / "queue.db").exists()


def test_the_ini_option_allows_it_for_all_and_the_marker_forbids_one(pytester: pytest.Pytester) -> None:
    forbidden = '@pytest.mark.asynctasq_real_queue("forbid")' + DISPATCHES.replace("test_it", "test_other")

    result = run(pytester, DISPATCHES + forbidden, mode="allow", own_process=True)

    result.assert_outcomes(passed=1, failed=1)


FAKED = """
def test_passes():
    Note(text="kept from the queue").dispatch_sync()

def test_fails():
    Note(text="shown").dispatch_sync()
    assert False

def test_is_not_the_queue_of_the_one_before(fake_queue):
    fake_queue.assert_nothing_dispatched()
"""


def test_it_can_be_faked_and_is_shown_when_the_test_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAKED, mode="fake")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*asynctasq: dispatched without a FakeQueue*", "*Note(text='shown') on queue*"])
    result.stdout.no_fnmatch_line("*kept from the queue*")
    assert not (pytester.path / ".asynctasq").exists()


def test_a_queue_in_memory_is_nobody_elses(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it():\n    asynctasq.init(driver='memory'); Note(text='a').dispatch_sync()\n")

    result.assert_outcomes(passed=1)


def test_a_driver_that_the_test_itself_configures_is_refused_like_any(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it():\n    asynctasq.init(driver='sqlite'); Note(text='a').dispatch_sync()\n")

    result.assert_outcomes(failed=1)


@pytest.mark.parametrize("mode", ["never", ""])
def test_an_unknown_mode_is_refused(pytester: pytest.Pytester, mode: str) -> None:
    result = run(pytester, DISPATCHES, mode=mode)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*asynctasq_real_queue in the ini file must be one of forbid, fake, allow*{mode!r}*"])


def test_an_unknown_mode_of_a_marker_fails_that_test(pytester: pytest.Pytester) -> None:
    result = run(pytester, '@pytest.mark.asynctasq_real_queue("x")' + DISPATCHES + "\ndef test_other(): pass")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the marker asynctasq_real_queue must be one of forbid, fake, allow; it is 'x'*"])


def test_a_run_inside_a_run_has_its_own_rule(pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nasynctasq_real_queue = "fake"\n')
    pytester.makepyfile(
        "from asynctasq.tasks.dispatching import current_dispatcher\n"
        "def test_it():\n    assert type(current_dispatcher()).__name__ == 'FakeDispatcher'\n"
    )

    pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:looptime_plugin").assert_outcomes(passed=1)
    from asynctasq.queue import Queue
    from asynctasq.tasks.dispatching import current_dispatcher

    assert isinstance(current_dispatcher(), Queue)
