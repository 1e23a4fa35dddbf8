"""Lines: where the levels of a queue are stored, and in which order a driver takes them."""

from dataclasses import replace

import pytest

from asynctasq.drivers.damaged import queue_names
from asynctasq.drivers.levels import (
    LINE_NAME_BYTES_MAX,
    LevelTurns,
    all_lines_of,
    is_by_rank,
    line_by_time,
    line_of,
    lines_of,
    other_lines_between,
    priority_in,
    queue_in,
    ranked_lines_of,
)
from asynctasq.kernel.messages import QUEUE_NAME, Lease, Message
from asynctasq.kernel.priority import PRIORITIES, Priority

LONGEST = "q" * 80


def lease(queue: str) -> Lease:
    return Lease(message_id="m", queue=queue, body=b"", token="1", attempt=1, crashes=0, enqueued_at=0, expires_at=0)


@pytest.mark.parametrize("level", PRIORITIES)
def test_a_line_tells_queue_and_level(level: Priority) -> None:
    line = line_of(Message(id="m", queue="mail", body=b"", priority=level))

    assert (queue_in(line), priority_in(line)) == ("mail", level)
    assert line == lines_of("mail")[PRIORITIES.index(level)]


@pytest.mark.parametrize("level", PRIORITIES)
def test_a_line_by_rank_tells_queue_and_level_and_where_its_messages_move(level: Priority) -> None:
    message = Message(id="m", queue="mail", body=b"", priority=level, fair_key="k")
    line = line_of(message)

    assert (queue_in(line), priority_in(line), is_by_rank(line)) == ("mail", level, True)
    assert line == ranked_lines_of("mail")[PRIORITIES.index(level)]
    assert line_by_time(line) == line_of(replace(message, delay_s=1.0)) == lines_of("mail")[PRIORITIES.index(level)]


@pytest.mark.parametrize("line", [*lines_of("mail"), "mail:", "mail!x"])
def test_other_lines_are_by_time(line: str) -> None:
    assert not is_by_rank(line)
    assert line_by_time(line) == line


def test_claims_begin_by_time_and_by_rank_in_turn() -> None:
    turns = LevelTurns()

    first = turns.all_lines(["mail", "mail"])
    turns.note([lease("mail")])
    second = turns.all_lines(["mail"])

    assert first == ["mail!h", "mail!h:", "mail", "mail!n:", "mail!l", "mail!l:"]
    assert second == ["mail!h:", "mail!h", "mail!n:", "mail", "mail!l:", "mail!l"]


def test_the_line_of_normal_messages_has_the_name_of_the_queue() -> None:
    assert lines_of("mail")[1] == "mail"


def test_no_queue_can_have_the_name_of_another_line() -> None:
    assert [line for line in all_lines_of("mail") if QUEUE_NAME.match(line)] == ["mail"]


def test_the_other_lines_lie_between_two_texts_and_nothing_else_does() -> None:
    first, last = other_lines_between("mail")
    queues = ("mail", "mail2", "mail-x", "mai", "mail.x", "mail:x")
    names = [line for queue in queues for line in all_lines_of(queue)]

    assert [name for name in names if first < name < last] == [
        *("mail!h", "mail!l"),
        *ranked_lines_of("mail"),
    ]


def test_the_longest_queue_has_lines_of_the_longest_name() -> None:
    assert max(map(len, lines_of(LONGEST))) == LINE_NAME_BYTES_MAX


def test_a_line_that_no_driver_has_written_is_normal() -> None:
    assert (queue_in("mail!x"), priority_in("mail!x")) == ("mail", "normal")


def test_the_names_of_lines_show_a_queue_once() -> None:
    assert queue_names(["mail!l", b"mail", "mail!h", "print!l", "no name"]) == ["mail", "print"]


def test_claims_are_counted_queue_by_queue() -> None:
    turns = LevelTurns()
    for _ in range(9):
        turns.note([lease("mail"), lease("mail")])
    turns.note([])

    assert turns.lines(["mail"]) == ["mail", "mail!h", "mail!l"]
    assert turns.lines(["print", "mail", "print"]) == ["print!h", "print", "print!l", "mail", "mail!h", "mail!l"]
