"""The driver contract as tests that any driver author runs.

    pytest --pyargs asynctasq.testing.conformance --driver=mypkg:make_harness

or, to have them in a test run of your own, a file `test_conformance.py` that holds

    from asynctasq.testing.conformance.suite import *

    CONFORMANCE_DRIVERS = ("mypkg:make_harness",)
"""

__all__ = ["SUITE_VERSION"]

SUITE_VERSION = "1.0"
"""Version of the suite. A new test that a correct driver could fail raises the number before the dot."""
