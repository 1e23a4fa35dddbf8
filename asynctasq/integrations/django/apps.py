"""The entry of INSTALLED_APPS, for the sake of the management command; it has no models and does nothing at start."""

from django.apps import AppConfig  # type: ignore[import-untyped]  # no stubs

__all__ = ["AsyncTasqConfig"]


class AsyncTasqConfig(AppConfig):  # type: ignore[misc]  # no stubs
    """Labelled by the library's name: the last part of the module's, `django`, is too common."""

    name = "asynctasq.integrations.django"
    label = "asynctasq"
    verbose_name = "asynctasq"
