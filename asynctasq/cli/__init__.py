"""Floor 4: the command line; `main` runs it. Importing this is cheap, each command imports what it needs."""

from asynctasq.cli.exit_codes import ExitCode

__all__ = ["ExitCode", "main"]


def main() -> None:
    """Run the `asynctasq` command."""
    from asynctasq.cli.app import app
    from asynctasq.core.standard_streams import tolerate_output_errors

    tolerate_output_errors()

    app(prog_name="asynctasq")
