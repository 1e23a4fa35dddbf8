"""examples/tortoise_app: its own tests, and a post that a worker announces and indexes."""

from pathlib import Path

import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import KINDS, database
from tests.examples.running import copied

NAME = "tortoise_app"


def test_its_own_tests_pass(tmp_path: Path) -> None:
    with copied(NAME, tmp_path) as example:
        assert "3 passed" in example.run("pytest")


@pytest.mark.parametrize("kind", KINDS)
def test_a_post_is_announced_and_indexed_by_the_worker(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    with (
        database(kind, conformance_servers, tmp_path) as own,
        copied(NAME, tmp_path, DATABASE_URL=own.tortoise) as example,
    ):
        example.run("python -m blog publish", "Notes", "ada@example.org")
        worker = example.start("asynctasq worker")

        example.until(lambda: example.output.count(" completed ") == 2)

        assert example.run("python -m blog show") == "1 Notes (ada@example.org): announced, indexed\n"
        assert example.end(worker) == 0, example.output
        assert "failed, will be retried" in example.output
