"""The conformance suite as part of our own test run: memory and SQLite, or whatever `--asynctasq-driver` names."""

from asynctasq.testing.conformance.suite import *  # noqa: F403 - the tests

CONFORMANCE_DRIVERS = ("memory", "sqlite")
