"""The lifecycle of a message as a table of transitions; nothing else in asynctasq decides which are legal.

Changes by time are derived from `visible_at` when a message is read: no background loop stores `COME_DUE` or `EXPIRE`.
The diagram in docs/explanation/lifecycle.md is generated from `TRANSITIONS`.
"""

import enum

from asynctasq.errors import InvalidTransition
from asynctasq.kernel.messages import State

__all__ = ["FINAL", "TRANSITIONS", "Event", "derive_state", "diagram", "next_state"]


class Event(enum.Enum):
    """The events in the life of a stored message."""

    COME_DUE = "come due"
    RESERVE = "reserve"
    EXTEND = "extend"
    EXPIRE = "lease expires"
    COMPLETE = "complete"
    RELEASE = "release"
    RELEASE_LATER = "release with delay"
    BURY = "bury"
    REDRIVE = "redrive"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.SCHEDULED, Event.COME_DUE): State.READY,
    (State.SCHEDULED, Event.CANCEL): State.CANCELLED,
    (State.READY, Event.RESERVE): State.RESERVED,
    (State.READY, Event.CANCEL): State.CANCELLED,
    (State.RESERVED, Event.EXTEND): State.RESERVED,
    (State.RESERVED, Event.EXPIRE): State.READY,
    (State.RESERVED, Event.COMPLETE): State.COMPLETED,
    (State.RESERVED, Event.RELEASE): State.READY,
    (State.RESERVED, Event.RELEASE_LATER): State.SCHEDULED,
    (State.RESERVED, Event.BURY): State.DEAD,
    (State.RESERVED, Event.CANCEL): State.CANCELLED,
    (State.DEAD, Event.REDRIVE): State.READY,
    (State.DEAD, Event.CANCEL): State.CANCELLED,
}
FINAL = frozenset({State.COMPLETED, State.CANCELLED})


def next_state(state: State, event: Event) -> State:
    """Return the state after `event`; raise `InvalidTransition` if the table has no such step."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition(f"a {state.value} message can't {event.value}") from None


def derive_state(*, leased: bool, visible_at: float, now: float) -> State:
    """Return the state of a living message from its single timestamp.

    A message is visible when `visible_at <= now`; while it is leased, `visible_at` is the lease's end.
    """
    if visible_at <= now:
        return State.READY
    return State.RESERVED if leased else State.SCHEDULED


def diagram() -> str:
    """Return the transitions as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> ready: dispatch", "    [*] --> scheduled: dispatch with delay"]
    lines += [
        f"    {source.value} --> {target.value}: {event.value}" for (source, event), target in TRANSITIONS.items()
    ]
    lines += [f"    {state.value} --> [*]" for state in sorted(FINAL, key=lambda state: state.value)]
    return "\n".join(lines) + "\n"
