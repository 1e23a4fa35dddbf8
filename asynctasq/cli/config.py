"""`asynctasq config show`: every setting, and where its value comes from."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretStr

from asynctasq.cli.operating import say_json, say_table
from asynctasq.config import GIVEN, Settings, load_settings, setting_sources

__all__ = ["show_config"]

COLUMNS = ("setting", "value", "from")
TITLES = {GIVEN: "the command line"}


def show_config(given: Mapping[str, Any], *, as_json: bool) -> None:
    """Write a line for each setting, or one JSON array; what is secret is not shown. Connects to nothing.

    Raises: ConfigError.
    """
    settings = load_settings(given)
    sources = setting_sources(given)
    values = dict(settings.__repr_args__())  # addresses without their passwords
    shown = [
        (name, _shown(values[name]), TITLES.get(source := sources.get(name, "default"), source))
        for name in Settings.model_fields
    ]
    if as_json:
        say_json([{"setting": name, "value": value, "source": source} for name, value, source in shown])
    else:
        say_table(COLUMNS, [(name, _text(value), source) for name, value, source in shown])


def _shown(value: object) -> object:
    """Return what JSON can hold of a value, without secrets."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case SecretStr():
            return str(value)  # asterisks
        case BaseModel():
            return _shown(value.model_dump(exclude_defaults=True))
        case Mapping():
            return {str(name): _shown(each) for name, each in cast("Mapping[object, object]", value).items()}
        case tuple():
            return [_shown(each) for each in cast("tuple[object, ...]", value)]
        case _:
            return repr(value)


def _text(value: object) -> str:
    if value in (None, [], {}):
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
