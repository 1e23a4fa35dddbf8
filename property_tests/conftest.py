"""What every test needs."""

import asyncio

import pytest

import tests.effort  # noqa: F401 - registers the profile of the quick run


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_event_loop():
    """Keep asyncio from making a loop that nobody closes when pytest-asyncio asks for the current one."""
    asyncio.set_event_loop(None)
