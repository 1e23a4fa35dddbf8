"""The pytest side of the report: what every conformance test found, the matrix in the terminal, the JSON file."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from asynctasq.testing.conformance.report import Entry, Report, render_terminal
from asynctasq.testing.conformance.selection import NotRun, chosen_drivers

__all__ = ["Recorder"]

PREFIX = "conformance_"


class Recorder:
    """Listens to a test run. With pytest-xdist the workers run the tests and the controller reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._report = Report()
        self._asked = chosen_drivers(config, None) if config.getoption("asynctasq_driver") else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell failed, error and not run apart, and say which driver and subject the test was about."""
        report = yield
        if (
            isinstance(item, pytest.Function)
            and (report.failed or report.when == "call")
            and (driver := _driver_of(item))
        ):
            facts = dict(item.user_properties)
            if report.failed:
                facts |= {f"{PREFIX}status": _failure(call), f"{PREFIX}reason": _first_line(call)}
            function = cast("Any", item).function  # pytest leaves it unannotated
            facts |= {
                f"{PREFIX}driver": driver,
                f"{PREFIX}subject": function.__module__.rpartition(".")[2].removeprefix("test_"),
                f"{PREFIX}test": function.__name__,
                f"{PREFIX}clause": function.conformance_clause,
            }
            item.user_properties[:] = facts.items()  # the JUnit file takes them from here, in the end
            report.user_properties = list(facts.items())
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect; this runs on the controller too."""
        found = {str(name).removeprefix(PREFIX): value for name, value in report.user_properties}
        if "driver" not in found or not (report.failed or report.when == "call"):
            return
        if "claims" in found:
            self._report.claims[str(found["driver"])] = json.loads(str(found["claims"]))
        names = ("driver", "subject", "test", "clause", "status", "reason")
        self._report.add(Entry(**{name: str(found.get(name) or "") for name in names}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run of the suite in which a driver that was asked for passed nothing: silence is not success."""
        if self._is_worker() or session.config.option.collectonly:
            return
        if path := self._config.getoption("--conformance-report"):
            Path(path).write_text(self._report.to_json() + "\n")
        silent = any(not self._report.counts(name)["passed"] for name in self._asked)
        if exitstatus == pytest.ExitCode.OK and silent and self._report.entries:  # else it ran other tests
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the matrix."""
        if self._report.entries and not self._is_worker():
            terminalreporter.section("driver conformance")
            for line in render_terminal(self._report):
                terminalreporter.line(line)

    def _is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")


def _driver_of(item: pytest.Function) -> str | None:
    """Return the driver a conformance test runs on, None for any other test."""
    if item.get_closest_marker("conformance") is None or not hasattr(item, "callspec"):
        return None
    name = item.callspec.params.get("conformance_harness")
    return name if isinstance(name, str) else None


def _failure(call: pytest.CallInfo[None]) -> str:
    if call.excinfo is None:
        return "error"
    if call.excinfo.errisinstance(NotRun):
        return "not run"
    return "failed" if call.excinfo.errisinstance((AssertionError, pytest.fail.Exception)) else "error"


def _first_line(call: pytest.CallInfo[None]) -> str:
    text = str(call.excinfo.value) if call.excinfo else ""
    kind = call.excinfo.typename if call.excinfo else ""
    return f"{kind}: {text.splitlines()[0]}" if text else kind
