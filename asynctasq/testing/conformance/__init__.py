"""The driver contract as tests that any driver author runs; use from outside `suite`, `harness` and the name below."""

__all__ = ["SUITE_VERSION"]

SUITE_VERSION = "1.0"
"""Version of the suite. A new test that a correct driver could fail raises the number before the dot."""
