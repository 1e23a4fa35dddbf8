"""Our options on the command line of pytest, beside plugins that have an option of the same name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROWSER = """
import pytest

def pytest_addoption(parser):
    parser.getgroup("browser", "browser").addoption("--driver", metavar="BROWSER", help="the browser")

@pytest.fixture
def browser(request):
    return request.config.getoption("--driver")
"""
TESTS = """
def test_browser(browser):
    assert browser == "Firefox"
"""
CONFORMANCE = """
from asynctasq.testing.conformance.test_order import test_first_in_first_out
"""


def run_pytest(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        **environment,
    }
    done = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    (tmp_path / "browser_plugin.py").write_text(BROWSER)
    (tmp_path / "test_browser.py").write_text(TESTS)
    (tmp_path / "test_driver.py").write_text(CONFORMANCE)
    return tmp_path


def test_a_plugin_loaded_before_ours_keeps_its_option(project: Path) -> None:
    assert "1 passed" in run_pytest(project, "-p", "browser_plugin", "--driver", "Firefox", "test_browser.py")


def test_a_plugin_loaded_after_ours_keeps_its_option(project: Path) -> None:
    output = run_pytest(project, "--driver", "Firefox", "test_browser.py", PYTEST_PLUGINS="browser_plugin")

    assert "1 passed" in output


def test_a_conftest_keeps_its_option(project: Path) -> None:
    (project / "browser_plugin.py").rename(project / "conftest.py")

    assert "1 passed" in run_pytest(project, "--driver=Firefox", "test_browser.py")


@pytest.mark.parametrize("order", ["before", "after"])
def test_our_long_name_works_beside_such_a_plugin(project: Path, order: str) -> None:
    before = ("-p", "browser_plugin") if order == "before" else ()
    after = {"PYTEST_PLUGINS": "browser_plugin"} if order == "after" else {}
    options = ("--driver=Firefox", "--asynctasq-driver=sqlite")

    output = run_pytest(project, *before, *options, "-v", **after)

    assert "test_first_in_first_out[sqlite] PASSED" in output
    assert "2 passed" in output


@pytest.mark.parametrize(
    "option",
    [("--driver=sqlite",), ("--driver", "sqlite"), ("--asynctasq-driver=sqlite",), ("--asynctasq-driver", "sqlite")],
    ids=" ".join,
)
def test_both_names_choose_where_the_short_one_is_free(project: Path, option: tuple[str, ...]) -> None:
    output = run_pytest(project, *option, "-v", "-m", "conformance", "test_driver.py")

    assert "test_first_in_first_out[sqlite] PASSED" in output
    assert "1 passed" in output


def test_both_names_add_up(project: Path) -> None:
    output = run_pytest(project, "--driver=sqlite", "--asynctasq-driver=memory", "-v", "test_driver.py")

    assert "2 passed" in output


def test_the_value_of_the_short_name_is_no_path_to_look_for_a_conftest_in(project: Path) -> None:
    (project / "tests").mkdir()
    (project / "tests" / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--extra')")
    (project / "test_driver.py").rename(project / "tests" / "test_driver.py")
    (project / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")

    assert "1 passed" in run_pytest(project, "--driver", "sqlite", "--extra=1")


def test_the_short_name_reaches_the_processes_of_xdist(project: Path) -> None:
    output = run_pytest(project, "--driver", "sqlite", "-n", "1", "-v", "test_driver.py")

    assert "test_first_in_first_out[sqlite]" in output
    assert "1 passed" in output


@pytest.mark.parametrize("option", ["--driver", "--asynctasq-driver"])
def test_the_help_shows_the_names(project: Path, option: str) -> None:
    assert f"  {option}=NAME|MODULE:FACTORY" in run_pytest(project, "--help")


def test_pytest_selenium_keeps_its_option(project: Path) -> None:
    """With the real plugin, where it is installed."""
    pytest.importorskip("pytest_selenium")
    (project / "test_browser.py").write_text(
        "def test_browser(request):\n    assert request.config.getoption('--driver') == 'Firefox'\n"
    )

    output = run_pytest(project, "--driver", "Firefox", "--asynctasq-driver", "sqlite", "-v")

    assert "test_first_in_first_out[sqlite] PASSED" in output
    assert "2 passed" in output
