"""The settings of the test's Django project; DJANGO_SETTINGS_MODULE names them."""

import json
import os

DATABASES = {"default": json.loads(os.environ["APP_DATABASE"])}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
