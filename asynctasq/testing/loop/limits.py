"""When a simulated run ends as a failure; a value that the loop and its reports share."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a run ends as a failure. Steps are callbacks and task steps together, counted from 0 in every run.

    `stalled_steps_max` counts steps at one virtual instant. `grace_s` is real time in which no
    thread calls back: so long a thread that the program started stops virtual time, and so long a run that
    only another thread could continue waits before it is called a deadlock. `real_s_max` is real time in which a
    task waits for a socket or a child process and nothing happens.
    """

    virtual_s_max: float = 100 * 365 * 86_400.0
    steps_max: int = 50_000_000
    stalled_steps_max: int = 100_000
    grace_s: float = 1.0
    real_s_max: float = 60.0
