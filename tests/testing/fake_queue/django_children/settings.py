"""The settings: DATABASES is the developer's own; Django's test runner makes others."""

import json
import os

DATABASES = {"default": json.loads(os.environ["APP_DATABASE"])}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
