"""What a test needs besides its own process, found by following the names that its code uses.

`server`: a Redis, PostgreSQL, MySQL or SQS server. `program`: another program, most often a Python of its own.
The quick run leaves both out; nobody has to mark such a test by hand.
"""

import types
from collections.abc import Iterator

import pytest

from asynctasq.testing.servers.commands import KINDS

__all__ = ["needs_of"]

SIGNS = {
    "server": {"conformance_servers", "RedisServer", "Servers", "start_server"},
    "program": {"subprocess", "create_subprocess_exec", "pytester"},
}
OURS = ("tests.", "property_tests.")
WITHOUT_SERVER = {"memory", "sqlite"}

_names_of_code: dict[types.CodeType, frozenset[str]] = {}


def needs_of(item: pytest.Function) -> set[str]:
    """Return the needs that the test, its fixtures or what they use show."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    names = {*item.fixturenames, *_names(item.function)}
    for fixture in (one for several in fixtures for one in several):
        names |= _names(fixture.func)
    if _is_without_server(item):
        names.discard("conformance_servers")
    return {need for need, signs in SIGNS.items() if signs & names}


def _is_without_server(item: pytest.Function) -> bool:
    """Say whether a test for several backends runs on one that has no server: its parameters name it."""
    if not hasattr(item, "callspec"):
        return False
    harness = item.callspec.params.get("conformance_harness")
    return harness not in KINDS if harness else not WITHOUT_SERVER.isdisjoint(item.callspec.id.split("-"))


def _names(function: object) -> set[str]:
    """Return every name that a function of ours uses, directly or through other functions and classes of ours."""
    names: set[str] = set()
    todo, seen = [function], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen or not str(getattr(one, "__module__", "")).startswith(OURS):
            continue
        seen.add(id(one))
        if isinstance(one, type):
            todo += [getattr(value, "fget", value) for value in vars(one).values()]
            continue
        one = getattr(one, "__wrapped__", one)
        if isinstance(one, types.FunctionType):
            used = _used(one.__code__)
            names |= used
            todo += [one.__globals__[name] for name in used if name in one.__globals__]
    return names


def _used(code: types.CodeType) -> frozenset[str]:
    if code not in _names_of_code:
        _names_of_code[code] = frozenset(name for one in _nested(code) for name in one.co_names)
    return _names_of_code[code]


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
