"""What every test needs."""

import asyncio

import pytest

import tests.effort  # noqa: F401 - registers the profile of the quick run
from asynctasq.core import setup
from tests.leftovers import left_behind, mark_processes
from tests.needs import needs_of
from tests.patience import patient_s


def pytest_configure(config: pytest.Config) -> None:
    if not _is_xdist_worker(config):
        mark_processes()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what each test needs, and scale its time limit like every other deadline."""
    for item in items:
        for need in needs_of(item) if isinstance(item, pytest.Function) else ():
            item.add_marker(need)
        if patient_s(1) != 1 and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(patient_s(300)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that leaves processes behind: servers, workers and their children end with the test they belong to."""
    if _is_xdist_worker(session.config) or not (left := left_behind()):
        return
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.section("processes left behind", red=True)
        for line in left:
            reporter.write_line(line)


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_event_loop() -> None:
    """Keep asyncio from making a loop that nobody closes when pytest-asyncio asks for the current one."""
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test the configuration of its environment, whatever another one has configured."""
    monkeypatch.setattr(setup, "_current", None)
    monkeypatch.setattr(setup, "_pinned", False)
    monkeypatch.setattr(setup, "_replaced", [])
