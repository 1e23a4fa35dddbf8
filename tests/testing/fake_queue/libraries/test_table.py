"""The page that says what runs where is what is so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers


@pytest.mark.timeout(400)
def test_the_page_is_up_to_date(conformance_servers: Servers) -> None:
    """Else: python -m tests.testing.fake_queue.libraries.table"""
    urls = {
        f"ASYNCTASQ_{kind.upper()}_URL": conformance_servers.get(kind).url for kind in ("redis", "postgres", "mysql")
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.testing.fake_queue.libraries.table", "--check"],
        cwd=Path(__file__).parents[4],
        env={**os.environ, **urls},
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )

    assert done.returncode == 0, done.stdout + done.stderr
