"""The conformance suite is itself tested: wrong drivers fail in the named test, and every status is told as it is."""

import asyncio
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.testing.conformance import SUITE_VERSION, cancelling, suite, test_cancel_running, test_waiting
from asynctasq.testing.conformance.report import Entry, Report, render_markdown, render_terminal
from asynctasq.testing.conformance.running import run_conformance_test
from tests.mutants.wrong_cancelling import WRONG_CANCELLING
from tests.mutants.wrong_drivers import WRONG, UnderClaimsInspection, UnderClaimsOrder, Wrong, WrongHarness
from tests.mutants.wrong_fair import WRONG_FAIR
from tests.patience import patient_s

PACKAGE = "asynctasq.testing.conformance"
ALL_WRONG = (*WRONG, *WRONG_CANCELLING, *WRONG_FAIR)
PROGRAMS = "test_model.test_random_programs_do_the_same_as_the_memory_driver"


def _test(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)


def _result_of(name: str, make: Callable[[], MemoryDriver]) -> str:
    test = _test(name)
    return run_conformance_test(test.conformance_body, WrongHarness(make), needs=test.conformance_needs).status


def _wrong(wrong: Wrong) -> str:
    return getattr(wrong.driver, "__name__", "")


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is not woken lasts to its end; here that is soon."""
    monkeypatch.setattr(test_waiting, "WAIT_S", patient_s(3.0))
    monkeypatch.setattr(test_waiting, "PROMPT_S", patient_s(1.2))
    monkeypatch.setattr(test_cancel_running, "WAIT_S", patient_s(3.0))
    monkeypatch.setattr(cancelling, "HANGS_S", patient_s(3.0))


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("wrong", ALL_WRONG, ids=_wrong)
def test_a_wrong_driver_fails_in_the_named_test(wrong: Wrong) -> None:
    assert _result_of(wrong.fails, MemoryDriver) == "passed", "the test passes on the right driver"

    with pytest.raises((AssertionError, TimeoutError)) as caught:
        _result_of(wrong.fails, wrong.driver)

    assert str(caught.value) or caught.type is TimeoutError, "a failure says what was expected"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [wrong for wrong in ALL_WRONG if wrong.in_programs], ids=_wrong)
def test_random_programs_find_a_wrong_driver_and_show_the_program(wrong: Wrong) -> None:
    with pytest.raises(AssertionError) as caught:
        _result_of(PROGRAMS, wrong.driver)

    assert "program:\n" in str(caught.value)


def test_a_program_that_shows_a_difference_is_small() -> None:
    with pytest.raises(AssertionError) as caught:
        _result_of(PROGRAMS, next(wrong.driver for wrong in WRONG if _wrong(wrong) == "OverwritesIds"))

    program = str(caught.value).split("program:\n")[1].split("\n]")[0]
    assert program.count("(") <= 3, program


def test_what_works_and_is_not_claimed_is_under_claimed() -> None:
    assert _result_of("test_order.test_first_in_first_out", UnderClaimsOrder) == "under-claimed"
    assert (
        _result_of("test_capabilities.test_inspection_is_claimed_or_refused", UnderClaimsInspection) == "under-claimed"
    )
    assert _result_of("test_inspection.test_find_shows_every_state", UnderClaimsInspection) == "unsupported"


def test_every_test_says_which_sentence_of_the_contract_it_checks() -> None:
    tests = [getattr(suite, name) for name in suite.__all__]

    assert len(tests) > 180
    assert all(len(test.conformance_clause) > 8 for test in tests)


async def test_a_call_is_cancelled_at_each_of_its_suspensions() -> None:
    reached: list[int] = []

    async def call() -> None:
        for number in range(3):
            reached.append(number)
            await asyncio.sleep(0.001)
        reached.append(3)

    async def make() -> Any:
        return call()

    async def check() -> None:
        reached.append(-1)

    assert await cancelling.cancel_at_each_suspension(make, check) == 6
    early = [*(0, -1), *(0, 1, -1), *(0, 1, 2, -1), *(0, 1, 2, 3, -1)]
    assert reached == early + early


# -- the suite as a stranger runs it -----------------------------------------------------------------


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", PACKAGE, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient_s(120),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), **environment},
    )


def test_a_run_writes_its_report(tmp_path: Path) -> None:
    path, junit = tmp_path / "report.json", tmp_path / "junit.xml"

    done = _run(
        tmp_path, "--driver=memory", "-k", "capabilities", f"--conformance-report={path}", f"--junitxml={junit}"
    )

    assert done.returncode == 0, done.stdout
    found = json.loads(path.read_text())
    assert (found["suite"], found["version"]) == ("asynctasq-conformance", SUITE_VERSION)
    memory = found["drivers"]["memory"]
    assert memory["counts"]["passed"] == 12
    assert memory["counts"]["unsupported"] == 1
    assert memory["claims"]["ordered"] == "yes"
    assert memory["tests"][0]["clause"]
    assert 'name="conformance_status" value="unsupported"' in junit.read_text()
    assert "driver conformance" in done.stdout
    assert "memory" in done.stdout


def test_a_server_that_can_not_be_reached_is_not_run_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    done = _run(
        *(tmp_path, "--driver=redis", "-k", "first_in_first_out", f"--conformance-report={path}"),
        ASYNCTASQ_REDIS_URL="redis://user:secret@127.0.0.1:1",
    )

    assert done.returncode != 0
    assert json.loads(path.read_text())["drivers"]["redis"]["counts"]["not run"] == 1
    assert "can't be reached" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_a_run_in_which_a_driver_passed_nothing_fails(tmp_path: Path) -> None:
    done = _run(tmp_path, "--driver=memory", "-k", "test_transactions and not capabilities")

    assert done.returncode == 1, done.stdout


def test_a_name_that_is_no_driver_is_refused_in_words(tmp_path: Path) -> None:
    done = _run(tmp_path, "--driver=reddis")

    assert done.returncode != 0
    assert "no such driver" in done.stdout + done.stderr


def test_a_factory_that_does_not_exist_is_not_run(tmp_path: Path) -> None:
    done = _run(tmp_path, "--driver=no_such_package:make_harness", "-k", "first_in_first_out")

    assert done.returncode != 0
    assert "no harness for driver" in done.stdout


def test_the_driver_of_the_guide_passes_outside_of_this_repository(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "docs" / "writing-a-driver.md"
    driver, harness = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)[:2]
    assert driver.count("\n") < 155
    (tmp_path / "dict_driver.py").write_text(driver)
    (tmp_path / "mypkg.py").write_text(harness)

    done = _run(tmp_path, "--driver=mypkg:make_harness", f"--conformance-report={tmp_path}/report.json")

    assert done.returncode == 0, done.stdout
    counts = json.loads((tmp_path / "report.json").read_text())["drivers"]["mypkg:make_harness"]["counts"]
    assert counts["passed"] > 150
    assert not any(counts[status] for status in ("failed", "error", "under-claimed", "not run"))


# -- the report ---------------------------------------------------------------------------------------


def _entry(driver: str, status: str, *, test: str = "test_a", reason: str = "") -> Entry:
    return Entry(driver=driver, subject="order", test=test, clause="c", status=status, reason=reason)


def test_the_memory_driver_is_the_first_row() -> None:
    report = Report(entries=[_entry("redis", "passed"), _entry("memory", "passed")])

    assert report.drivers() == ["memory", "redis"]


def test_a_failure_is_not_replaced_by_what_came_after_it() -> None:
    report = Report()
    report.add(_entry("redis", "failed", reason="first"))
    report.add(_entry("redis", "error", reason="clean-up"))

    assert [(entry.status, entry.reason) for entry in report.entries] == [("failed", "first")]


def test_a_report_survives_json() -> None:
    report = Report(entries=[_entry("redis", "unsupported", reason="why")], claims={"redis": {"ordered": "yes"}})

    again = Report.from_json(report.to_json())

    assert (again.entries, again.claims) == (report.entries, report.claims)


def test_the_pages_show_claims_counts_and_reasons() -> None:
    report = Report(
        entries=[_entry("sqs", "passed"), _entry("sqs", "unsupported", test="test_b", reason="no order")],
        claims={"sqs": {"ordered": "partial (per group)"}},
    )

    page = render_markdown(report)
    assert "| order | 1, 1 unsupported |" in page
    assert "* sqs, `ordered`: partial (per group)" in page
    assert "* sqs, unsupported: test_b: no order" in page
    assert any("sqs: unsupported: test_b: no order" in line for line in render_terminal(report))
