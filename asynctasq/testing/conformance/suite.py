"""All conformance tests in one import, for a test run of one's own:

from asynctasq.testing.conformance.suite import *

CONFORMANCE_DRIVERS = ("mypkg:make_harness",)
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from asynctasq.testing import conformance

__all__: list[str] = []


def _tests() -> Iterator[tuple[str, Any]]:
    for module in sorted(info.name for info in pkgutil.iter_modules(conformance.__path__)):
        if module.startswith("test_"):
            for name, value in vars(importlib.import_module(f"{conformance.__name__}.{module}")).items():
                if name.startswith("test_"):
                    yield name, value


for _name, _test in _tests():
    if _name in globals():
        raise ImportError(f"two conformance tests are called {_name}")
    globals()[_name] = _test
    __all__ += [_name]  # noqa: PLE0604 - names of tests
