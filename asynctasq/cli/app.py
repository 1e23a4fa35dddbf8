"""The program `asynctasq`: which file has which command, and the options that several of them take."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

__all__ = ["App", "AsJson", "DriverName", "app", "given"]

FILES = {
    "worker": "worker",
    "demo": "backend",
    "migrate": "backend",
    "schedules": "schedules",
    "queues": "queues",
    "workers": "queues",
    "pause": "queues",
    "resume": "queues",
    "tasks": "queues",
    "dead": "queues",
    "config": "backend",
    "bench": "backend",
}
"""Each command -> the file in `cli/commands/` that declares it."""


class _Commands(Mapping[str, Any]):
    """The commands by name, each made when it is asked for: to declare all of them takes longer than `--version`."""

    def __getitem__(self, name: str) -> Any:
        file = import_module(f"asynctasq.cli.commands.{FILES[name]}")
        return get_group(file.app).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


class _Group(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()


app = typer.Typer(
    name="asynctasq",
    cls=_Group,
    help="A task queue that people can test.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

App = Annotated[
    list[str] | None,
    typer.Option("--app", "-A", metavar="MODULE", help="Module that defines tasks; repeat or separate by commas."),
]
DriverName = Annotated[
    str | None, typer.Option("--driver", metavar="NAME|URL", help="sqlite, redis, postgres, mysql, sqs, or a URL.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        from asynctasq import __version__

        typer.echo(f"asynctasq {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A task queue that people can test."""


def given(apps: list[str] | None, driver: str | None) -> dict[str, str]:
    """Return the settings that options give."""
    values = {"app": ",".join(apps) if apps else None, "driver": driver}
    return {name: value for name, value in values.items() if value is not None}
