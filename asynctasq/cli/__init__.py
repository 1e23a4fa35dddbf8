"""Floor 4: the command line. Importing this is cheap; each command imports what it needs when it runs."""

from asynctasq.cli.exit_codes import ExitCode

__all__ = ["ExitCode", "main"]


def main() -> None:
    """Run the `asynctasq` command."""
    from asynctasq.cli.app import app

    app(prog_name="asynctasq")
