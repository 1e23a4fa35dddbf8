"""Process tasks in real children under Django's test runner: they use the test's database, not the developer's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.codec.orm.databases import KINDS, database

PROJECT = Path(__file__).with_name("django_children")
FILL = """
import django
django.setup()
from django.db import connection
from shop.models import Post
with connection.schema_editor() as editor:
    editor.create_model(Post)
Post.objects.create(id=1, title="PRODUCTION")
"""
SHOW = """
import django
django.setup()
from shop.models import Post
print(list(Post.objects.values_list("id", "title", "views")))
"""


def run(folder: Path, settings: dict[str, Any], *arguments: str) -> str:
    environment = {**os.environ, "APP_DATABASE": json.dumps(settings), "DJANGO_SETTINGS_MODULE": "settings"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROJECT, tmp_path / "project"))


@pytest.mark.parametrize("kind", KINDS)
def test_children_write_to_the_tests_database_and_not_to_the_configured_one(
    kind: str, conformance_servers: Any, folder: Path
) -> None:
    with database(kind, conformance_servers, folder) as made:
        settings = {**made.django, "TEST": {"NAME": f"test_{made.name}" if made.name else str(folder / "test.sqlite3")}}
        run(folder, settings, "-c", FILL)

        said = run(folder, settings, "manage.py", "test", "shop.tests.InChildren", "--noinput")

        assert "Ran 3 tests" in said
        assert run(folder, settings, "-c", SHOW).strip() == "[(1, 'PRODUCTION', 0)]"


def test_a_database_in_memory_is_refused_to_children(folder: Path) -> None:
    settings: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "real.sqlite3")}
    run(folder, settings, "-c", FILL)

    said = run(folder, settings, "manage.py", "test", "shop.tests.InMemory", "--noinput")

    assert "Ran 3 tests" in said
    assert run(folder, settings, "-c", SHOW).strip() == "[(1, 'PRODUCTION', 0)]"
