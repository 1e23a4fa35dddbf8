"""The choice tape of a simulation; use from outside the names below; test tools also `file` and `recorded_test`."""

from asynctasq.testing.tape.tape import Entry, Tape

__all__ = ["Entry", "Tape"]
