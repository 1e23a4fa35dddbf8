"""The pytest plugin; inert unless one of its fixtures or options is used."""
