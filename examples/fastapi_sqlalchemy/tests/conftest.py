"""The tests' own database, chosen before the application is imported."""

import os

os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL", "sqlite+aiosqlite:///test.db")
