"""The invariants: each accepts a good history and names what is wrong with a bad one."""

import pytest

from asynctasq.kernel.ledger import INVARIANTS, Entry, Kind, check, message_histories, timeline
from asynctasq.kernel.messages import Lease

M, W, V = "m1", "w1", "w2"


def dispatched(at: float = 0, *, due_at: float | None = None, max_attempts: int = 3) -> Entry:
    return Entry(at, Kind.DISPATCHED, M, detail="T", due_at=at if due_at is None else due_at, max_attempts=max_attempts)


def reserved(at: float, token: str, *, worker: str = W, attempt: int = 1, until: float | None = None) -> Entry:
    return Entry(at, Kind.RESERVED, M, worker, attempt, token, due_at=at + 30 if until is None else until)


def started(at: float, token: str, *, worker: str = W, attempt: int = 1) -> Entry:
    return Entry(at, Kind.STARTED, M, worker, attempt, token)


def settled(at: float, token: str, detail: str, *, worker: str = W, attempt: int = 1, due_at: float = 0) -> Entry:
    return Entry(at, Kind.SETTLED, M, worker, attempt, token, detail, due_at)


def hook(at: float, name: str = "failed", *, token: str = "1", worker: str = W, attempt: int = 1) -> Entry:
    return Entry(at, Kind.HOOK, M, worker, attempt, token, name)


def lost(at: float, token: str, *, attempt: int = 1) -> Entry:
    return Entry(at, Kind.LOST, M, W, attempt, token)


GOOD = [dispatched(), reserved(1, "1"), started(1, "1"), settled(2, "1", "complete")]

RETRIED = [
    dispatched(due_at=5),
    reserved(5, "1"),
    started(5, "1"),
    settled(6, "1", "retry", due_at=66),
    reserved(66, "2", attempt=2),
    started(66, "2", attempt=2),
    hook(67),
    settled(67, "2", "bury: failed", attempt=2),
]

TAKEN_OVER = [
    dispatched(),
    reserved(0, "1"),
    started(0, "1"),
    Entry(3, Kind.CRASHED, worker=W),
    reserved(30, "2", worker=V),
    started(30, "2", worker=V),
    settled(31, "2", "complete", worker=V),
]

HANDED_BACK = [
    dispatched(),
    reserved(0, "1"),
    started(0, "1"),
    settled(1, "1", "hand back"),
    reserved(1, "2", worker=V),
    started(1, "2", worker=V),
    settled(2, "2", "complete", worker=V),
]


@pytest.mark.parametrize(
    "history", [GOOD, RETRIED, TAKEN_OVER, HANDED_BACK], ids=["good", "retried", "taken over", "handed back"]
)
def test_good_histories_have_no_violation(history: list[Entry]) -> None:
    assert check(history) == []


BAD: dict[str, list[Entry]] = {
    "nothing lost": [dispatched(), reserved(1, "1"), started(1, "1")],
    "every extra run explained": [
        dispatched(),
        reserved(0, "1"),
        started(0, "1"),
        reserved(10, "2", worker=V),
        started(10, "2", worker=V),
        settled(11, "2", "complete", worker=V),
    ],
    "attempts monotone and within the limit": [dispatched(max_attempts=1), *RETRIED[1:]],
    "a stale token never wins": [*TAKEN_OVER[:-1], settled(31, "1", "complete")],
    "settled for good once": [*GOOD, started(3, "2")],
    "never early": [dispatched(due_at=5), *GOOD[1:]],
    "failed() exactly once": [entry for entry in RETRIED if entry.kind is not Kind.HOOK],
    "a cancelled message stays cancelled": [
        dispatched(),
        Entry(1, Kind.REMOVED, M, detail="cancelled"),
        started(2, "1"),
    ],
    "no lease is cut short": [dispatched(), reserved(0, "1"), reserved(29, "2"), settled(30, "2", "complete")],
}

TAKEN_OVER_FOR_NOTHING = [dispatched(), reserved(0, "1"), reserved(30, "2"), settled(31, "2", "complete")]


def test_there_is_a_bad_history_for_every_invariant() -> None:
    assert BAD.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("invariant", BAD)
def test_a_bad_history_is_found(invariant: str) -> None:
    found = check(BAD[invariant])

    assert invariant in {violation.invariant for violation in found}
    assert {violation.message_id for violation in found} == {M}
    assert all(violation.text for violation in found)


def test_what_the_store_still_holds_is_not_lost() -> None:
    assert check(BAD["nothing lost"], alive=[M]) == []


DRIVEN_AGAIN = [
    *RETRIED,
    Entry(90, Kind.REDRIVEN, M, due_at=90),
    reserved(91, "3"),
    started(91, "3"),
    settled(92, "3", "complete"),
]


def test_a_dead_letter_that_is_driven_again_begins_anew() -> None:
    assert check(DRIVEN_AGAIN) == []


@pytest.mark.parametrize(
    ("history", "invariant"),
    [
        ([*DRIVEN_AGAIN[:-3], reserved(91, "3", attempt=3), started(91, "3", attempt=3)], "attempts monotone"),
        (DRIVEN_AGAIN[:-1], "nothing lost"),
        ([*RETRIED, Entry(90, Kind.REDRIVEN, M, due_at=95), *DRIVEN_AGAIN[-3:]], "never early"),
    ],
)
def test_what_goes_wrong_after_a_redrive_is_found(history: list[Entry], invariant: str) -> None:
    assert any(violation.invariant.startswith(invariant) for violation in check(history))


def test_an_id_dispatched_again_after_its_completion_begins_a_new_message() -> None:
    again = [dispatched(10), reserved(11, "2"), started(11, "2"), settled(12, "2", "complete")]
    while_it_ran = [*GOOD[:3], dispatched(1.5), GOOD[3], *again[1:]]

    assert check([*GOOD, *again]) == []
    assert "settled for good once" in {violation.invariant for violation in check(while_it_ran)}


def test_what_was_removed_by_hand_is_not_lost() -> None:
    assert check([dispatched(), Entry(1, Kind.REMOVED, M)]) == []


def test_an_undispatched_message_can_not_be_lost() -> None:
    assert check([reserved(1, "1")]) == []


def test_skipping_an_attempt_is_found() -> None:
    history = [
        dispatched(),
        reserved(0, "1", attempt=2),
        started(0, "1", attempt=2),
        settled(1, "1", "complete", attempt=2),
    ]

    assert [v.invariant for v in check(history)] == ["attempts monotone and within the limit"]


def test_without_its_dispatch_an_attempt_has_no_limit() -> None:
    assert check(GOOD[1:]) == []


def test_an_extended_lease_explains_no_earlier_run() -> None:
    extended = Entry(9, Kind.EXTENDED, M, W, 1, "1", due_at=39)
    history = [*TAKEN_OVER[:3], extended, *TAKEN_OVER[4:]]

    assert "every extra run explained" in {v.invariant for v in check(history)}


def test_a_crashed_child_explains_an_extra_run() -> None:
    history = [
        dispatched(),
        reserved(0, "1"),
        started(0, "1"),
        settled(1, "1", "crash"),
        reserved(1, "2"),
        started(1, "2"),
        hook(2),
        hook(2),
        settled(2, "2", "bury: failed"),
    ]

    assert check(history) == []


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([*RETRIED[:-1], hook(67), RETRIED[-1]], "ran 2 times though nothing crashed"),
        ([*GOOD[:3], hook(2), GOOD[3]], "ran though the message completed"),
    ],
)
def test_a_hook_too_many_is_found(history: list[Entry], text: str) -> None:
    assert any(text in violation.text for violation in check(history))


def test_a_lost_lease_may_repeat_a_hook() -> None:
    history = [*RETRIED[:-2], hook(66, token="2", attempt=2), lost(67, "2", attempt=2)]
    again = [
        reserved(96, "3", attempt=2, worker=V),
        started(96, "3", attempt=2, worker=V),
        hook(97, token="3", attempt=2, worker=V),
        settled(97, "3", "bury: failed", attempt=2, worker=V),
    ]

    assert check([*history, *again]) == []


def test_who_has_lost_the_lease_calls_no_failed_hook() -> None:
    history = [*RETRIED[:-2], lost(67, "2", attempt=2), hook(68, token="2", attempt=2)]
    alive = {M}

    assert [each.text for each in check(history, alive=alive)] == [
        "failed() ran at 68.000000 though w1 had lost token 2"
    ]
    assert not check([*history[:-1], hook(68, token="1", attempt=2), hook(68, "should_retry", token="2")], alive=alive)


def test_a_doubled_lease_may_be_lost_by_who_still_holds_it() -> None:
    doubled = Entry(66, Kind.FAULT, M, detail="delivered twice")
    history = [*RETRIED[:-2], doubled, lost(67, "2", attempt=2), hook(68, token="2", attempt=2)]

    assert check(history, alive={M}) == []


def test_a_message_that_was_delivered_twice_may_run_twice_at_once() -> None:
    twice = Entry(1, Kind.FAULT, M, W, 1, "1", "delivered twice")
    other = [reserved(2, "2", worker=V), started(2, "2", worker=V), settled(3, "2", "complete", worker=V)]
    history = [dispatched(), reserved(0, "1"), started(0, "1"), twice, *other]

    assert check(history) == []
    assert {v.invariant for v in check([entry for entry in history if entry is not twice])} >= {
        "every extra run explained",
        "no lease is cut short",
    }


def test_a_lease_that_was_doubled_on_its_way_may_begin_after_its_doubles_have_run_twice() -> None:
    """Its holder has it at 0 and hears of it at 9; another worker runs the double, whose child dies, and again."""
    twice = Entry(1, Kind.FAULT, M, V, 1, "2", "delivered twice")
    history = [
        *(dispatched(), reserved(0, "1")),
        *(reserved(2, "2", worker=V), started(2, "2", worker=V), settled(3, "2", "crash", worker=V)),
        *(reserved(3, "3", worker=V), started(3, "3", worker=V)),
        started(9, "1"),
        settled(10, "3", "complete", worker=V),
    ]

    assert check([*history[:2], twice, *history[2:]]) == []
    assert "every extra run explained" in {violation.invariant for violation in check(history)}


def test_a_lease_may_be_doubled_before_its_run_begins() -> None:
    twice = Entry(1, Kind.FAULT, M, W, 1, "1", "delivered twice")
    other = [reserved(3, "2", worker=V), started(3, "2", worker=V), settled(4, "2", "complete", worker=V)]
    history = [dispatched(), reserved(0, "1"), started(2, "1"), *other]

    assert check([*history[:2], twice, *history[2:]]) == []
    assert "every extra run explained" in {violation.invariant for violation in check(history)}


def test_only_the_holder_of_that_moment_is_delivered_twice() -> None:
    twice = Entry(1, Kind.FAULT, M, W, 1, "1", "delivered twice")
    history = [dispatched(), reserved(0, "1"), twice, reserved(2, "2"), reserved(3, "3"), settled(4, "3", "complete")]

    assert [v.invariant for v in check(history)] == ["no lease is cut short"]


def test_a_renewed_lease_must_be_respected_until_its_new_end() -> None:
    renewed = Entry(10, Kind.EXTENDED, M, W, 1, "1", due_at=40)
    crashed = Entry(11, Kind.CRASHED, worker=W)
    history = [dispatched(), reserved(0, "1"), renewed, crashed, reserved(39, "2"), settled(40, "2", "complete")]

    assert [v.invariant for v in check(history)] == ["no lease is cut short"]
    assert check([*history[:4], reserved(40, "2"), settled(41, "2", "complete")]) == []


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([*GOOD[:2], reserved(31, "1"), *GOOD[2:]], "given out, ran or was settled twice"),
        ([*GOOD, settled(2, "1", "complete")], "given out, ran or was settled twice"),
        ([*GOOD[:3], started(1, "1"), GOOD[3]], "given out, ran or was settled twice"),
        ([*GOOD, Entry(2, Kind.LOST, M, W, 1, "1")], "was lost"),
        (TAKEN_OVER_FOR_NOTHING, "token 1 was taken over"),
    ],
)
def test_what_nothing_disturbed_is_exact(history: list[Entry], text: str) -> None:
    found = [violation for violation in check(history, exact=True) if violation.invariant == "exact when undisturbed"]

    assert any(text in violation.text for violation in found)
    assert not [violation for violation in check(history) if violation.invariant == "exact when undisturbed"]


@pytest.mark.parametrize("history", [GOOD, RETRIED, TAKEN_OVER, HANDED_BACK])
def test_good_histories_are_exact(history: list[Entry]) -> None:
    assert check(history, exact=True) == []


@pytest.mark.parametrize(
    "disturbance",
    [
        Entry(1, Kind.FAULT, worker=W, detail="lost_reply at turn:after"),
        Entry(-100, Kind.FAULT, worker=W, detail="extend:before takes 200 s"),
        Entry(1, Kind.CRASHED, worker=W),
        Entry(1, Kind.FAULT, M, V, 1, "1", "delivered twice"),
    ],
)
def test_a_disturbance_of_the_holder_or_the_message_excuses_its_lease(disturbance: Entry) -> None:
    assert check([*TAKEN_OVER_FOR_NOTHING, disturbance], exact=True) == []


def test_two_failed_calls_in_a_row_may_cost_a_lease() -> None:
    failed = Entry(1, Kind.FAULT, worker=W, detail="fail_before at extend:before")

    assert check([*TAKEN_OVER_FOR_NOTHING, failed, failed], exact=True) == []


@pytest.mark.parametrize(
    "elsewhere",
    [
        Entry(1, Kind.FAULT, worker="w9", detail="lost_reply at turn:after"),
        Entry(31, Kind.FAULT, worker=W, detail="lost_reply at turn:after"),
        Entry(-200, Kind.CRASHED, worker=W),
        Entry(1, Kind.NOTE, worker=W, detail="clock is wrong by 5 s"),
        Entry(1, Kind.FAULT, worker=W, detail="fail_before at settle:before"),
        Entry(1, Kind.FAULT, worker=W, detail="is asked to stop at once"),
    ],
)
def test_what_happened_elsewhere_or_at_another_time_excuses_nothing(elsewhere: Entry) -> None:
    found = check([*TAKEN_OVER_FOR_NOTHING, elsewhere], exact=True)

    assert [v.invariant for v in found] == ["exact when undisturbed"]


def test_the_tolerance_allows_for_another_clock() -> None:
    history = [dispatched(due_at=1.5), *GOOD[1:]]

    assert check(history)
    assert check(history, tolerance_s=0.5) == []


def test_histories_split_by_message_and_share_crashes() -> None:
    other = Entry(0, Kind.RESERVED, "m2", V, 1, "1")
    histories = message_histories([*TAKEN_OVER, other, Entry(40, Kind.STOPPED, worker=V)])

    assert list(histories) == ["m1", "m2"]
    assert histories["m1"].crashed
    assert not histories["m2"].crashed


def test_the_entry_of_a_lease_names_its_message_attempt_and_token() -> None:
    lease = Lease(message_id=M, queue="q", body=b"", token="7", attempt=2, crashes=0, enqueued_at=1, expires_at=30)
    error = ValueError("no")

    entry = Entry.of(lease, Kind.SETTLED, at=3, worker=W, detail="retry", due_at=9, error=error)

    assert entry == Entry(3, Kind.SETTLED, M, W, 2, "7", "retry", 9, error=error, queue="q", enqueued_at=1)


def test_a_timeline_starts_at_its_first_entry_or_where_told() -> None:
    lines = timeline(RETRIED).splitlines()

    assert lines[0].split() == ["0.000000", "m1", "dispatched", "T"]
    assert lines[3].split() == ["6.000000", "w1", "m1", "attempt", "1", "settled", "retry"]
    assert timeline(RETRIED[:1], start=-1).split()[0] == "1.000000"
    assert timeline([]) == ""
    assert timeline([Entry(0, Kind.CRASHED, worker=W)]).split() == ["0.000000", "w1", "crashed"]


def ended(outcome: str, *then: Entry) -> list[Entry]:
    return [dispatched(), reserved(1, "1"), started(1, "1"), Entry(2, Kind.ENDED, M, W, 1, "1", outcome), *then]


FAILED = "failed: ValueError: no"


@pytest.mark.parametrize(
    "history",
    [
        ended(FAILED, settled(3, "1", "complete")),
        ended("rejected: Reject: no", settled(3, "1", "retry")),
        ended("snoozed", settled(3, "1", "retry")),
        ended("interrupted", settled(3, "1", "complete")),
        ended("interrupted", hook(3), settled(3, "1", "bury: failed")),
        ended("crashed: ChildCrashed: no", settled(3, "1", "retry")),
        ended("retryrequested: Retry: no", hook(3), settled(3, "1", "bury: failed")),
        ended(FAILED, hook(3, "should_retry raised KeyError"), hook(3), settled(3, "1", "bury: failed")),
    ],
)
def test_a_settlement_that_does_not_fit_the_outcome_is_found(history: list[Entry]) -> None:
    assert [v.invariant for v in check(history, alive=[M], exact=True)] == ["settled as it ended"]


@pytest.mark.parametrize(
    "history",
    [
        ended("succeeded", settled(3, "1", "complete")),
        ended("snoozed", settled(3, "1", "snooze")),
        ended("rejected: Reject: no", hook(3), settled(3, "1", "bury: rejected")),
        ended(FAILED, hook(3, "should_retry"), settled(3, "1", "retry")),
        ended(FAILED, hook(3, "should_retry"), hook(3), settled(3, "1", "bury: failed")),
        ended(FAILED, settled(3, "1", "hand back")),
        ended("unrunnable: BadArguments: no", settled(3, "1", "bury: bad_arguments")),
    ],
)
def test_a_settlement_that_fits_the_outcome_is_fine(history: list[Entry]) -> None:
    assert check(history, alive=[M], exact=True) == []


def test_should_retry_is_not_asked_at_the_last_attempt() -> None:
    history = [dispatched(max_attempts=1), *ended(FAILED, hook(3, "should_retry"), settled(3, "1", "retry"))[1:]]

    assert "settled as it ended" in {v.invariant for v in check(history, alive=[M], exact=True)}
