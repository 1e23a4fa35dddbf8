"""Settings of the example; a real project has more, but nothing more for asynctasq."""

import os
from pathlib import Path
from urllib.parse import urlsplit

BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

INSTALLED_APPS = [
    "asynctasq.integrations.django",  # brings manage.py asynctasq_worker
    "shop",
]
ROOT_URLCONF = "project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True


def database(url: str) -> dict[str, object]:
    """Return the settings for a postgresql:// address, or for a SQLite file where there is none."""
    if not url:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3", "OPTIONS": {"timeout": 20}}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.removeprefix("/"),
        "HOST": parts.hostname,
        "PORT": parts.port or 5432,
        "USER": parts.username,
        "PASSWORD": parts.password,
    }


DATABASES = {"default": database(os.environ.get("DATABASE_URL", ""))}
