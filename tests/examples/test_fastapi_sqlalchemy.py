"""examples/fastapi_sqlalchemy: its own tests, and a request that takes effect through a worker."""

from pathlib import Path

import httpx
import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import KINDS, database
from tests.examples.running import copied, free_port

NAME = "fastapi_sqlalchemy"


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    """On PostgreSQL by `TEST_DATABASE_URL`, as its README offers, through the engine's default pool."""
    with (
        database(kind, conformance_servers, tmp_path) as own,
        copied(NAME, tmp_path, TEST_DATABASE_URL=own.sqlalchemy_async) as example,
    ):
        assert "4 passed" in example.run("pytest")


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_takes_effect_through_the_worker(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    with (
        database(kind, conformance_servers, tmp_path) as own,
        copied(NAME, tmp_path, DATABASE_URL=own.sqlalchemy_async) as example,
        httpx.Client(base_url=f"http://127.0.0.1:{(port := free_port())}") as client,
    ):
        web = example.start("uvicorn app.main:app", "--port", str(port))
        worker = example.start("asynctasq worker")

        answer = example.until(lambda: client.post("/users", json={"email": "ada@example.org"}))
        wanted = {"email": "ada@example.org", "welcomed": True, "score": 15}
        example.until(lambda: client.get(f"/users/{answer.json()['id']}").json() == wanted)

        assert example.end(worker) == 0, example.output
        example.end(web)
        assert "SendWelcome" in example.output
        assert "failed, will be retried" in example.output
