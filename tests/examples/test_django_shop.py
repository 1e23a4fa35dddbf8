"""examples/django_shop: its own tests, and requests that take effect through manage.py asynctasq_worker."""

from pathlib import Path

import httpx
import pytest

from asynctasq.testing.servers import Servers
from tests.codec.orm.databases import KINDS, Database, database
from tests.examples.running import copied, free_port

NAME = "django_shop"


def url_of(own: Database) -> str:
    return "" if own.kind == "sqlite" else own.sqlalchemy_sync.replace("+psycopg", "")


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    with (
        database(kind, conformance_servers, tmp_path) as own,
        copied(NAME, tmp_path, DATABASE_URL=url_of(own)) as example,
    ):
        example.run("python manage.py test")


@pytest.mark.parametrize("kind", KINDS)
def test_requests_take_effect_through_the_worker(kind: str, tmp_path: Path, conformance_servers: Servers) -> None:
    with (
        database(kind, conformance_servers, tmp_path) as own,
        copied(NAME, tmp_path, DATABASE_URL=url_of(own)) as example,
        httpx.Client(base_url=f"http://127.0.0.1:{(port := free_port())}") as client,
    ):
        example.run("python manage.py migrate")
        web = example.start("python manage.py runserver", str(port), "--noreload")
        worker = example.start("python manage.py asynctasq_worker", "--process-pool-size", "1")

        answer = example.until(lambda: client.post("/customers/", data={"email": "ada@example.org"}))
        order = client.post("/orders/", data={"customer": answer.json()["customer"], "item": "tea"}).json()["order"]
        shown = example.until(lambda: (one := client.get(f"/orders/{order}/").json())["invoice"] and one)

        assert (shown["customer"], shown["welcomed"], shown["paid"]) == ("ada@example.org", True, True)
        assert example.end(worker) == 0, example.output
        example.end(web)
        assert "failed, will be retried" in example.output
