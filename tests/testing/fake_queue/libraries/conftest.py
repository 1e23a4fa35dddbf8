"""The notebook of each module's library, open on the test's loop."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.testing.fake_queue.libraries.claims import Notebook


@pytest.fixture
async def notebook(
    request: pytest.FixtureRequest, conformance_servers: Servers, tmp_path: Path
) -> AsyncIterator[Notebook]:
    async with request.module.open_notebook(conformance_servers, tmp_path) as notebook:
        yield notebook
