"""The choice tape of a simulation; outside use: the names below, and `file` and `owner` by the other test tools."""

from asynctasq.testing.tape.tape import Entry, Tape

__all__ = ["Entry", "Tape"]
