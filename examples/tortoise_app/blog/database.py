"""Tortoise's configuration; pyproject.toml names it for the worker."""

import os

TORTOISE_ORM = {
    "connections": {"default": os.environ.get("DATABASE_URL", "sqlite://blog.db")},
    "apps": {"models": {"models": ["blog.models"], "default_connection": "default"}},
}
