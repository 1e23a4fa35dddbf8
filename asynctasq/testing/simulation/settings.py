"""The command line options of simulations: the pytest plugin sets them, `simulate` reads them."""

from dataclasses import dataclass

__all__ = ["Settings", "current", "set_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """seed: run this one only. runs: how many, instead of what the test says. replay: the tape of one run."""

    seed: int | None = None
    runs: int | None = None
    replay: str | None = None


_settings = Settings()


def set_settings(settings: Settings) -> None:
    """Let these hold from now on."""
    global _settings  # noqa: PLW0603 - the command line is one
    _settings = settings


def current() -> Settings:
    """Return what holds."""
    return _settings
