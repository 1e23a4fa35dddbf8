"""What the ledger's invariants say of messages that were cancelled."""

import pytest

from asynctasq.kernel.ledger import Entry, Kind, check
from tests.kernel.test_ledger import M, V, W, dispatched, hook, lost, reserved, settled, started

NAME = "a cancelled message stays cancelled"


def removed(at: float, token: str = "", detail: str = "cancelled") -> Entry:
    return Entry(at, Kind.REMOVED, M, token=token, detail=detail)


def known(at: float, token: str) -> Entry:
    return Entry(at, Kind.CANCELLED, M, W, 1, token)


BEGUN = [dispatched(), reserved(1, "1"), started(1, "1")]
CANCELLED = [*BEGUN, removed(2, "1"), known(3, "1"), hook(3, "cancelled", token="1")]


@pytest.mark.parametrize(
    "history",
    [
        CANCELLED,
        [dispatched(), removed(2)],
        [dispatched(), reserved(1, "1"), removed(2, "1"), started(2, "1"), known(3, "1")],
        [*BEGUN, removed(2, "1"), lost(3, "1"), known(3, "1"), hook(3, "cancelled", token="1")],
        [*BEGUN, settled(2, "1", "complete")],
        # The id is used again before the holder of the first message learns of its end.
        [*BEGUN, removed(2, "1"), dispatched(2), known(3, "1"), reserved(4, "2"), settled(5, "2", "complete")],
    ],
)
def test_good_ends_of_cancelled_messages(history: list[Entry]) -> None:
    assert check(history, exact=True) == []


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([dispatched(), removed(2), started(3, "1")], "token 1: started at 3.000000, cancelled at 2.000000"),
        ([*BEGUN, removed(2, "1"), started(3, "2", worker=V)], "token 2: started"),
        ([*BEGUN, removed(2, "1"), settled(3, "1", "complete")], "token 1: settled"),
        ([*BEGUN, known(2, "1"), settled(3, "1", "complete")], "and it was not"),
        ([*CANCELLED, hook(4, "cancelled", token="1")], "cancelled() ran 2 times under token 1"),
        ([*BEGUN, hook(2, "cancelled", token="1"), lost(3, "1")], "and it was not"),
    ],
)
def test_what_a_cancelled_message_may_not_do(history: list[Entry], text: str) -> None:
    found = [violation.text for violation in check(history) if violation.invariant == NAME]

    assert [text in each for each in found] == [True]


def test_what_an_operator_removed_says_nothing_of_attempts() -> None:
    assert not [v for v in check([dispatched(), removed(1, detail=""), started(2, "1")]) if v.invariant == NAME]
