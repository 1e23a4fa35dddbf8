"""The pytest plugin; inert unless one of its fixtures or options is used."""

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from asynctasq.testing.clock import VirtualClock
    from asynctasq.testing.conformance.harness import DriverHarness
    from asynctasq.testing.fake_queue import FakeQueue
    from asynctasq.testing.servers import Servers

pytest.register_assert_rewrite("asynctasq.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("asynctasq", "asynctasq: conformance suite for drivers")
    group.addoption(
        "--driver",
        action="append",
        default=[],
        metavar="NAME|MODULE:FACTORY",
        help="driver to run the conformance suite on: memory, sqlite, redis, postgres, mysql, sqs, all, or the import "
        "path of a callable that returns a DriverHarness; may be repeated",
    )
    group.addoption("--conformance-report", metavar="PATH", help="write the conformance report there, as JSON")
    simulations = parser.getgroup("asynctasq-simulation", "asynctasq: simulations")
    simulations.addoption("--simulation-seed", type=int, metavar="N", help="run simulations with this seed only")
    simulations.addoption("--simulation-runs", type=int, metavar="N", help="run simulations with so many seeds")
    simulations.addoption("--simulation-replay", metavar="FILE", help="run the one simulation that this tape recorded")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance: a test of the driver contract, run once per driver")
    config.addinivalue_line("markers", "simulation: a test that runs under many seeds, by @simulate or `sim`")
    if config.getoption("--driver") or config.getoption("--conformance-report"):
        _watch(config)
    _tell_simulations(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each conformance test once per driver."""
    if "conformance_harness" in metafunc.fixturenames:
        from asynctasq.testing.conformance.selection import chosen_drivers

        _watch(metafunc.config)
        module = cast("Any", metafunc).module  # pytest leaves it unannotated
        drivers = chosen_drivers(metafunc.config, module)
        metafunc.parametrize("conformance_harness", drivers, indirect=True, scope="function")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark simulations, so that `-m` chooses them or leaves them out."""
    decorated = getattr(getattr(item, "function", None), "asynctasq_simulation", False)
    if decorated or _uses_our_sim(item):
        item.add_marker("simulation")


def _uses_our_sim(item: pytest.Item) -> bool:
    """Say whether the test's `sim` is ours; a fixture of the user's own of that name may be built on ours."""
    known: Any = getattr(item, "_fixtureinfo", None)  # pytest has no public way to ask before a test runs
    for definition in reversed(known.name2fixturedefs.get("sim", ()) if known else ()):
        if definition.func.__module__ == __name__:
            return True
        if "sim" not in definition.argnames:
            return False
    return False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--driver`, leave out modules that run the suite on a driver of their own (`CONFORMANCE_PINNED`)."""
    if not config.getoption("--driver"):
        return
    pinned = [item for item in items if getattr(getattr(item, "module", None), "CONFORMANCE_PINNED", False)]
    if pinned:
        config.hook.pytest_deselected(items=pinned)
        items[:] = [item for item in items if item not in set(pinned)]


def _tell_simulations(config: pytest.Config) -> None:
    seed, runs, replay = (config.getoption(f"--simulation-{name}") for name in ("seed", "runs", "replay"))
    if (seed, runs, replay) != (None, None, None):
        from asynctasq.testing._simulate_settings import Settings, set_settings

        set_settings(Settings(seed=seed, runs=runs, replay=replay))


def _watch(config: pytest.Config) -> None:
    """Record what conformance tests find, once; nothing of it is imported for anybody else's tests."""
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
def virtual_clock(request: pytest.FixtureRequest) -> "VirtualClock":
    """The clock of the test's `fake_queue` if it has one, else a clock of its own; it moves only when told to."""
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
    from asynctasq.testing.simulation import simulate_now

    return simulate_now
