"""Lines: where the levels of a queue are stored, and in which order a driver takes them."""

import pytest

from asynctasq.drivers.damaged import queue_names
from asynctasq.drivers.levels import (
    LINE_NAME_BYTES_MAX,
    LevelTurns,
    line_of,
    lines_of,
    other_lines_between,
    priority_in,
    queue_in,
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


def test_the_line_of_normal_messages_has_the_name_of_the_queue() -> None:
    assert lines_of("mail")[1] == "mail"


def test_no_queue_can_have_the_name_of_another_line() -> None:
    assert [line for line in lines_of("mail") if QUEUE_NAME.match(line)] == ["mail"]


def test_the_other_lines_lie_between_two_texts_and_nothing_else_does() -> None:
    first, last = other_lines_between("mail")
    names = [*lines_of("mail"), *lines_of("mail2"), *lines_of("mail-x"), *lines_of("mai"), "mail.x", "mail:x"]

    assert [name for name in names if first < name < last] == ["mail!h", "mail!l"]


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
