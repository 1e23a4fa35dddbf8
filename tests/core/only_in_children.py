"""An exception that only child processes import."""


class LostThere(ConnectionResetError):
    """A kind of OSError."""
