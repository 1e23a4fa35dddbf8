"""What a SQL driver does about unique keys, run against a list of replies: savepoints, locks, and that it ends."""

from collections.abc import Callable
from typing import Any

import pytest

from asynctasq.drivers.sql.unique import Execute, Insert, KeepWindow, Lock, Look, Remove, Request, store_unique
from asynctasq.errors import DriverUnavailable, UniqueConflictError
from asynctasq.kernel.messages import Message, UniqueKey


def message(name: str, key: str | None = None, **of: Any) -> Message:
    return Message(id=name, queue="q", body=b"", unique=None if key is None else UniqueKey(key=key, **of))


def run(steps: Any, reply: Callable[[Request], Any]) -> tuple[list[Request], Any]:
    asked: list[Request] = []
    try:
        request = next(steps)
        while True:
            asked.append(request)
            request = steps.send(reply(request))
    except StopIteration as end:
        return asked, end.value


def stored(request: Request) -> Any:
    """Reply as a store that has nothing."""
    return {one.id for one in request.messages} if isinstance(request, Insert) else (False, None)


def test_one_message_with_a_free_key_is_one_insert() -> None:
    one = message("a", "k")

    asked, new = run(store_unique([one], may_raise=True), stored)

    assert (asked, new) == ([Insert([one])], ["a"])


def test_messages_with_keys_of_their_own_are_one_insert_once_their_keys_are_locked_in_order() -> None:
    batch = [message("a", "k2"), message("b"), message("c", "k1")]

    asked, _ = run(store_unique(batch, may_raise=True), stored)

    assert asked == [Lock(["\x02k1", "\x02k2"]), Insert(batch)]


def test_a_window_is_locked_looked_for_and_kept() -> None:
    one = message("a", "k", window_s=60.0)

    asked, new = run(store_unique([one], may_raise=True), stored)

    assert (asked, new) == ([Lock(["\x02k"]), Look(one), Insert([one]), KeepWindow(one)], ["a"])


def test_a_batch_that_raises_is_undone() -> None:
    batch = [message("a"), message("b", "k", on_conflict="raise")]
    asked: list[Request] = []

    def reply(request: Request) -> Any:
        asked.append(request)
        return {"a"} if isinstance(request, Insert) else (False, "holder")

    with pytest.raises(UniqueConflictError):
        run(store_unique(batch, may_raise=True), reply)

    savepoints = [request.sql for request in asked if isinstance(request, Execute)]
    assert savepoints == ["SAVEPOINT asynctasq_batch", "ROLLBACK TO SAVEPOINT asynctasq_batch"]


def test_a_follow_up_that_would_raise_is_left_out() -> None:
    batch = [message("a"), message("b", "k", on_conflict="raise")]

    asked, new = run(
        store_unique(batch, may_raise=False),
        lambda request: {"a"} if isinstance(request, Insert) else (False, "holder"),
    )

    assert (new, new.holders) == (["a"], {"b": "holder"})
    assert not [request for request in asked if isinstance(request, Execute)]


def test_a_key_that_was_freed_in_between_is_tried_again() -> None:
    replies = iter([set(), (False, None), {"a"}])

    _, new = run(store_unique([message("a", "k")], may_raise=True), lambda _: next(replies))

    assert new == ["a"]


def test_a_holder_that_was_taken_in_between_is_not_replaced() -> None:
    one = message("a", "k", on_conflict="replace")
    replies = iter([(False, "holder"), False])

    asked, new = run(store_unique([one], may_raise=True), lambda _: next(replies))

    assert asked == [Look(one), Remove("holder", one)]
    assert (new, new.holders) == ([], {"a": "holder"})


def test_a_key_that_is_never_free_for_long_enough_is_given_up() -> None:
    with pytest.raises(DriverUnavailable, match="taken and freed 100 times"):
        run(
            store_unique([message("a", "k")], may_raise=True),
            lambda one: set() if isinstance(one, Insert) else (False, None),
        )
