"""Floor 4: the command line; `main` runs it. Importing this is cheap, each command imports what it needs."""

import sys

from asynctasq.cli.early_signals import end_at_stop_signals

__all__ = ["main"]


def main() -> None:
    """Run the `asynctasq` command."""
    if sys.argv[1:2] == ["worker"]:  # the rest of the start takes up to a second, imports of the application more
        end_at_stop_signals()
    from asynctasq.cli.app import app
    from asynctasq.core.standard_streams import tolerate_output_errors

    tolerate_output_errors()

    app(prog_name="asynctasq")
