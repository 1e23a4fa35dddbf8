"""The names, ids and times of limits."""

import pytest

from asynctasq.kernel.limits import (
    COUNT_MAX,
    LIMITS_QUEUE,
    TEXT_CHARS_MAX,
    LimitRule,
    begins_wait,
    is_queue_of_limits,
    is_wait_id,
    look_delay_s,
    look_id,
    note_id,
    runs_no_task,
    token_id,
    token_index,
    token_lease_s,
    token_queue,
    wait_id,
    wait_s,
    waiting_queue,
)
from asynctasq.kernel.messages import Complete, Message, Release, check_queue_name
from asynctasq.kernel.schedule import tick_id, ticker_id

AT_ONCE = LimitRule("stripe", 5)
IN_TIME = LimitRule("stripe", 5, 60.0)
NOTE = Message(id=wait_id("m", "7"), queue="q", body=b"")


def test_limits_of_two_kinds_share_nothing() -> None:
    for name in (token_queue, note_id):
        assert name(AT_ONCE) != name(IN_TIME)
    assert token_id(AT_ONCE, 0) != token_id(IN_TIME, 0)
    assert look_id(AT_ONCE, "q") != look_id(IN_TIME, "q")


def test_a_limit_is_the_same_whatever_its_numbers() -> None:
    assert token_queue(IN_TIME) == token_queue(LimitRule("stripe", 7, 1.0))
    assert waiting_queue(AT_ONCE, "q") == waiting_queue(LimitRule("stripe", 7), "q")


def test_those_who_wait_are_apart_by_queue() -> None:
    assert waiting_queue(AT_ONCE, "a") != waiting_queue(AT_ONCE, "b")
    assert look_id(AT_ONCE, "a") != look_id(AT_ONCE, "b")


def test_any_text_makes_names_that_drivers_take() -> None:
    rule = LimitRule("\ud800 'x' \0" * 20, COUNT_MAX)

    for name in (token_queue(rule), waiting_queue(rule, "q" * 80), LIMITS_QUEUE):
        assert is_queue_of_limits(check_queue_name(name))
    for message_id in (token_id(rule, COUNT_MAX - 1), look_id(rule, "q"), note_id(rule), wait_id("m" * 128, "t" * 99)):
        assert message_id.isprintable()
        assert len(message_id) < 100
    assert not is_queue_of_limits("default")


def test_a_token_says_which_it_is() -> None:
    assert token_index(AT_ONCE, token_id(AT_ONCE, 0)) == 0
    assert token_index(AT_ONCE, token_id(AT_ONCE, 4)) == 4


@pytest.mark.parametrize(
    "message_id",
    [
        token_id(AT_ONCE, 5),
        token_id(IN_TIME, 0),
        token_id(AT_ONCE, 0).replace(":0", ":00"),
        token_id(AT_ONCE, 0).replace(":0", ":"),
        token_id(AT_ONCE, 0).replace(":0", ":" + "9" * 5000),
        "stripe",
        note_id(AT_ONCE),
    ],
)
def test_what_is_no_token_of_a_limit_is_none(message_id: str) -> None:
    assert token_index(AT_ONCE, message_id) is None


def test_only_own_messages_run_no_task() -> None:
    own = (token_id(AT_ONCE, 0), look_id(AT_ONCE, "q"), note_id(AT_ONCE), wait_id("m", "1"), ticker_id("report"))
    assert all(map(runs_no_task, own))
    assert not runs_no_task(tick_id("report", 0.0))
    assert not runs_no_task("")


def test_a_wait_begins_with_its_note() -> None:
    assert begins_wait(Release(counted=False, follow_ups=(NOTE,)))
    assert not begins_wait(Release(counted=False))
    assert not begins_wait(Release(counted=True, follow_ups=(Message(id="other", queue="q", body=b""),)))
    assert not begins_wait(Complete(follow_ups=(NOTE,)))


def test_a_token_that_is_lost_comes_back_no_earlier_than_one_that_is_not() -> None:
    assert token_lease_s(IN_TIME, 30.0) == 90.0
    assert token_lease_s(AT_ONCE, 30.0) == 30.0


def test_who_waits_is_looked_at_again_when_it_expires() -> None:
    assert wait_s(age_s=5.0, expires_s=None) == 3600.0
    assert wait_s(age_s=5.0, expires_s=20.0) == 15.0
    assert wait_s(age_s=25.0, expires_s=20.0) == 0.0
    assert wait_s(age_s=5.0, expires_s=1e6) == 3600.0


def test_others_learn_who_waits_less_and_less_often() -> None:
    assert [look_delay_s(looks) for looks in (0, 1, 2, 6, 1_000_000)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_a_limit_is_shown_with_its_numbers() -> None:
    assert str(AT_ONCE) == "'stripe' (5)"
    assert str(IN_TIME) == "'stripe' (5 in 60 s)"
    assert TEXT_CHARS_MAX == 200


def test_a_note_about_who_waits_is_told_from_other_messages() -> None:
    assert is_wait_id(wait_id("m", "1.1"))
    assert not is_wait_id(look_id(LimitRule("x", 1), "mail"))
    assert not is_wait_id("m")
