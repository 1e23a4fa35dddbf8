"""Every (state, event) pair, the forbidden ones too."""

import itertools
from pathlib import Path

import pytest

from asynctasq.errors import InvalidTransition
from asynctasq.kernel.lifecycle import FINAL, TRANSITIONS, Event, derive_state, diagram, next_state
from asynctasq.kernel.messages import State

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "lifecycle.md"


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(InvalidTransition, match=f"a {state.value} message can't {event.value}"):
            next_state(state, event)


def test_nothing_leaves_a_final_state() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in FINAL]


def test_every_state_but_completed_and_cancelled_can_be_left() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - FINAL


def test_only_a_reserved_message_is_settled() -> None:
    settling = {Event.COMPLETE, Event.RELEASE, Event.RELEASE_LATER, Event.BURY}

    assert {state for state, event in TRANSITIONS if event in settling} == {State.RESERVED}


@pytest.mark.parametrize(
    ("leased", "visible_at", "state"),
    [
        (False, 9.0, State.READY),
        (False, 10.0, State.READY),
        (False, 10.000001, State.SCHEDULED),
        (True, 10.000001, State.RESERVED),
        (True, 10.0, State.READY),
    ],
)
def test_the_single_timestamp_tells_the_state(leased: bool, visible_at: float, state: State) -> None:
    assert derive_state(leased=leased, visible_at=visible_at, now=10.0) is state


def test_the_docs_show_the_generated_diagram() -> None:
    assert diagram() in PAGE.read_text(encoding="utf-8")
