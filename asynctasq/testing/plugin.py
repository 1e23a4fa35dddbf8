"""The pytest plugin: fixtures, options, and no dispatch to a real queue unless that is allowed."""

import argparse
import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest

from asynctasq.testing.outside_fakes import REAL_QUEUE, RealQueueRule

if TYPE_CHECKING:
    from asynctasq.testing.clock import VirtualClock
    from asynctasq.testing.conformance.harness import DriverHarness
    from asynctasq.testing.fake_queue import FakeQueue
    from asynctasq.testing.real_queue import RealQueue
    from asynctasq.testing.servers import Servers
    from asynctasq.testing.simulation.settings import Settings

pytest.register_assert_rewrite("asynctasq.testing.conformance")

SHORT_NAME = "--driver"
"""Of the option `--asynctasq-driver`; pytest-selenium and others have one of this name, too."""
SETTINGS = "asynctasq.testing.simulation.settings"
OUTER_SETTINGS: "pytest.StashKey[Settings]" = pytest.StashKey()
"""The settings of the pytest session around this one."""
RULE: "pytest.StashKey[RealQueueRule]" = pytest.StashKey()
RECORDED_TEST: "pytest.StashKey[str | None]" = pytest.StashKey()
"""Which test recorded the tape that is to be replayed."""
OPEN_QUEUE: "pytest.StashKey[RealQueue]" = pytest.StashKey()
"""The `real_queue` of a test, however it is used."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("asynctasq", "asynctasq: conformance suite for drivers")
    group.addoption(
        "--asynctasq-driver",
        action="append",
        default=[],
        metavar="NAME|MODULE:FACTORY",
        help="driver to run the conformance suite and `real_queue` on: memory, sqlite, redis, postgres, mysql, sqs, "
        "all, or the import path of a callable that returns a DriverHarness; may be repeated",
    )
    group.addoption("--conformance-report", metavar="PATH", help="write the conformance report there, as JSON")
    parser.addini(REAL_QUEUE, help="dispatches without a FakeQueue: forbid, fake or allow", default="forbid")
    simulations = parser.getgroup("asynctasq-simulation", "asynctasq: simulations")
    simulations.addoption("--simulation-seed", type=int, metavar="N", help="run simulations with this seed only")
    simulations.addoption("--simulation-runs", type=int, metavar="N", help="run simulations with so many seeds")
    simulations.addoption(
        "--simulation-replay",
        metavar="FILE",
        help="run the one test that recorded this tape, and no other; a tape that does not name its test is replayed "
        "by every simulation, beside the other tests",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None]:
    """Add the short name `--driver` once all plugins and conftest files have added theirs, if it is free."""
    if not _is_taken(parser, SHORT_NAME):
        _forget_values(early_config, args)
    yield
    if not _is_taken(parser, SHORT_NAME):
        with suppress(ValueError, argparse.ArgumentError):
            parser.getgroup("asynctasq").addoption(
                SHORT_NAME,
                action="append",
                dest="asynctasq_driver",
                default=[],
                metavar="NAME|MODULE:FACTORY",
                help="short for --asynctasq-driver, where no other plugin has an option of this name",
            )


def _is_taken(parser: pytest.Parser, name: str) -> bool:
    """Say whether a plugin has an option of this name; pytest itself finds out too late, or refuses to start."""
    known: Any = parser
    groups = (known._anonymous, *known._groups)  # noqa: SLF001 - pytest has no public way to ask
    return any(name in option.names() for group in groups for option in group.options)


def _forget_values(early_config: pytest.Config, args: list[str]) -> None:
    """Take the values of `--driver NAME` for no paths: where conftest files are looked for, the option is not known."""
    paths: list[str] = cast("Any", early_config).known_args_namespace.file_or_dir
    for option, value in pairwise(args):
        if option == SHORT_NAME and value in paths:
            paths.remove(value)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance: a test of the driver contract, run once per driver")
    config.addinivalue_line("markers", "simulation: a test that runs under many seeds, by @simulate or `sim`")
    config.addinivalue_line(
        "markers", f"{REAL_QUEUE}(mode): dispatches of this test without a FakeQueue: forbid, fake or allow"
    )
    config.stash[RULE] = rule = RealQueueRule(config.getini(REAL_QUEUE), f"{REAL_QUEUE} in the ini file")
    rule.install()
    if config.getoption("asynctasq_driver") or config.getoption("--conformance-report"):
        _register_recorder(config)
    _configure_simulations(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Restore the settings of the pytest session around this one, if there is one."""
    if (rule := config.stash.get(RULE, None)) is not None:
        rule.uninstall()
    before = config.stash.get(OUTER_SETTINGS, None)
    if before is not None:
        from asynctasq.testing.simulation.settings import set_settings

        set_settings(before)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the mode of this test decide about its dispatches without a FakeQueue."""
    marker = item.get_closest_marker(REAL_QUEUE)
    with item.config.stash[RULE].for_test(None if marker is None else (*marker.args, *marker.kwargs.values())):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose fixtures made a dispatch that was refused, also where the refusal was swallowed."""
    result = yield
    item.config.stash[RULE].raise_refused()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Close a test's `real_queue` in the test's loop, while that is there; fail a test whose dispatch was refused."""
    try:
        result = yield
    finally:
        queue = item.stash.get(OPEN_QUEUE, None)
        if queue is not None:
            queue.close_connections()
    item.config.stash[RULE].raise_refused()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show in the report of a test what it dispatched without a FakeQueue, where that is faked."""
    report = yield
    dispatched = item.config.stash[RULE].faked_text()
    if dispatched:
        report.sections.append(("asynctasq: dispatched without a FakeQueue", dispatched))
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each conformance test once per driver."""
    if "conformance_harness" in metafunc.fixturenames:
        from asynctasq.testing.conformance.selection import chosen_drivers

        _register_recorder(metafunc.config)
        module = cast("Any", metafunc).module  # pytest leaves it unannotated
        drivers = chosen_drivers(metafunc.config, module)
        metafunc.parametrize("conformance_harness", drivers, indirect=True, scope="function")
    chosen = any("real_queue" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if _uses_ours(metafunc.definition, "real_queue") and not chosen:
        drivers = _drivers_of_real_queue(metafunc.config)
        if len(drivers) > 1:  # with one the tests keep their ids
            metafunc.parametrize("real_queue", drivers, indirect=True, scope="function")


def _drivers_of_real_queue(config: pytest.Config) -> list[str]:
    from asynctasq.testing.conformance.selection import chosen_drivers

    return chosen_drivers(config, None) if config.getoption("asynctasq_driver") else ["sqlite"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark simulations, so that `-m` chooses them or leaves them out."""
    if _is_simulation(item):
        item.add_marker("simulation")


def _is_simulation(item: pytest.Item) -> bool:
    return getattr(getattr(item, "function", None), "asynctasq_simulation", False) or _uses_ours(item, "sim")


def _uses_ours(item: pytest.Item, name: str) -> bool:
    """Say whether the test's fixture of this name is ours; one of the user's own may be built on it."""
    known: Any = getattr(item, "_fixtureinfo", None)  # pytest has no public way to ask before a test runs
    for definition in reversed(known.name2fixturedefs.get(name, ()) if known else ()):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:
            return False
    return False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that the options exclude, after all other plugins have chosen."""
    if config.getoption("asynctasq_driver"):
        # These run the suite on a driver of their own.
        _keep(config, items, lambda item: not getattr(getattr(item, "module", None), "CONFORMANCE_PINNED", False))
    recorded = config.stash.get(RECORDED_TEST, None)
    if recorded is not None:
        recorded_test = _find_recorded_test(session, recorded, [item.nodeid for item in items])
        _keep(config, items, lambda item: item.nodeid == recorded_test)


def _keep(config: pytest.Config, items: list[pytest.Item], wanted: "Callable[[pytest.Item], bool]") -> None:
    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


def _find_recorded_test(session: pytest.Session, recorded: str, node_ids: list[str]) -> str | None:
    """Return which of the tests recorded the tape.

    Raises: UsageError if none did; None instead in a process of pytest-xdist, and where a file can't be collected.
    """
    from asynctasq.testing.tape.recorded_test import RecordedTestNotFound, find_recorded_test

    tape = session.config.getoption("--simulation-replay")
    try:
        return find_recorded_test(recorded, node_ids)
    except RecordedTestNotFound as error:
        if session.testsfailed:
            return None
        text = f"--simulation-replay {tape} was recorded by {recorded}, {error}"
        if not hasattr(session.config, "workerinput"):
            raise pytest.UsageError(text) from error
        session.shouldfail = text  # a UsageError would reach the main process as an internal error
        return None


def _configure_simulations(config: pytest.Config) -> None:
    seed, runs, replay = (config.getoption(f"--simulation-{name}") for name in ("seed", "runs", "replay"))
    if (seed, runs, replay) == (None, None, None) and SETTINGS not in sys.modules:
        return  # nothing is set, in an outer session neither
    from asynctasq.testing.simulation.settings import Settings, current, set_settings

    if runs is not None and runs < 1:
        raise pytest.UsageError(f"--simulation-runs must be 1 or more, not {runs}")
    if replay is not None:
        replay = _read_tape(config, replay)
    config.stash[OUTER_SETTINGS] = current()
    set_settings(Settings(seed=seed, runs=runs, replay=replay))


def _read_tape(config: pytest.Config, name: str) -> str:
    """Return the absolute path of the tape, and stash which test recorded it."""
    from asynctasq.testing.errors import TapeMismatch
    from asynctasq.testing.tape.file import read_tape_file

    path = config.invocation_params.dir / name
    try:
        config.stash[RECORDED_TEST] = read_tape_file(path).test
    except TapeMismatch as error:
        raise pytest.UsageError(f"--simulation-replay: {error}") from error
    except OSError as error:
        raise pytest.UsageError(f"--simulation-replay: {path} can't be read: {error.strerror}") from error
    return str(path)


def _register_recorder(config: pytest.Config) -> None:
    """Register the recorder of conformance results once; for other tests nothing of it is imported."""
    from asynctasq.testing.conformance.recording import Recorder

    if not config.pluginmanager.has_plugin("asynctasq-conformance"):
        config.pluginmanager.register(Recorder(config), "asynctasq-conformance")


@pytest.fixture(scope="session")
def conformance_servers() -> "Iterator[Servers]":
    """Private servers for tests, each started when first asked for, removed at the end of the run."""
    from asynctasq.testing.servers import Servers

    with Servers() as servers:
        yield servers


@pytest.fixture
def conformance_harness(request: pytest.FixtureRequest, conformance_servers: "Servers") -> "DriverHarness":
    """An empty store of the driver under test."""
    from asynctasq.testing.conformance.selection import make_harness

    return make_harness(request.param, conformance_servers)


@pytest.fixture
def fake_queue() -> "Iterator[FakeQueue]":
    """A FakeQueue that is open during the test: everything it dispatches lands there."""
    from asynctasq.testing.fake_queue import FakeQueue

    with FakeQueue() as queue:
        yield queue


@pytest.fixture
def real_queue(request: pytest.FixtureRequest, conformance_servers: "Servers") -> "Iterator[RealQueue]":
    """An empty, private queue on a real driver: SQLite, or what `--asynctasq-driver` names.

    Everything the test and its tasks dispatch lands there.
    """
    from asynctasq.testing.conformance.selection import make_harness
    from asynctasq.testing.real_queue import RealQueue

    driver: str = getattr(request, "param", None) or _drivers_of_real_queue(request.config)[0]
    with RealQueue(make_harness(driver, conformance_servers)) as queue:
        request.node.stash[OPEN_QUEUE] = queue
        yield queue


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> "VirtualClock":
    """The clock of the test's `fake_queue` if it has one, else a clock of its own; it moves only when it is called.

    Not for simulations: each run has its own clock, `sim.clock`.
    """
    if _is_simulation(request.node):
        pytest.fail("every run of a simulation has a clock of its own: use `sim.clock`", pytrace=False)
    if "fake_queue" in request.fixturenames:
        queue: FakeQueue = request.getfixturevalue("fake_queue")
        return queue.clock
    from asynctasq.testing.clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def sim(request: pytest.FixtureRequest) -> "Callable[..., None]":
    """For a test without decorator: `sim(program, runs=100, ...)` runs `async def program(sim)` as `@simulate` does."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        pytest.fail("an async test gets its `sim` from the decorator: put @simulate(...) above it", pytrace=False)
    from asynctasq.testing.simulation.simulation import simulate_now

    return simulate_now
