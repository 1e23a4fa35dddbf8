"""Unique tasks in a FakeQueue: keys in virtual time, what was skipped, and ticks of schedules."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from asynctasq import AsyncTask, Every, Retry, dispatch_many
from asynctasq.errors import UniqueConflictError, UnsupportedFeature
from asynctasq.testing import FakeQueue
from asynctasq.unique import Unique

RAN: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


class Refresh(AsyncTask[None]):
    user: str
    fails: int = 0
    unique = Unique(lambda self: self.user)
    retry_delay = 60

    async def execute(self) -> None:
        RAN.append(self.user)
        if self.attempt <= self.fails:
            raise Retry


class Alarm(AsyncTask[None]):
    text: str
    unique = Unique("alarm", window=timedelta(minutes=5))

    async def execute(self) -> None:
        RAN.append(self.text)


class Index(AsyncTask[None]):
    version: int
    unique = Unique("index", on_conflict="replace")

    async def execute(self) -> None:
        RAN.append(self.version)


async def test_a_skipped_dispatch_is_not_dispatched_and_is_recorded_apart() -> None:
    async with FakeQueue() as queue:
        first = await Refresh(user="a").dispatch()
        assert await Refresh(user="a").dispatch() == first
        await Refresh(user="b").dispatch()

        queue.assert_dispatched(Refresh, times=2)
        [skipped] = queue.skipped.dispatched(Refresh)
        queue.skipped.assert_dispatched(Refresh, user="a", times=1)
        assert skipped.task_id not in {record.task_id for record in queue.dispatched()}
        await queue.drain()

        assert RAN == ["a", "b"]
        assert await Refresh(user="a").dispatch() != first


async def test_a_retry_holds_the_key_until_the_task_has_ended() -> None:
    async with FakeQueue() as queue:
        first = await Refresh(user="a", fails=2).dispatch()
        await queue.run_due()
        assert await Refresh(user="a").dispatch() == first
        await queue.run_until_idle()

        queue.assert_completed(first)
        assert await Refresh(user="a").dispatch() != first


async def test_a_dead_letter_holds_no_key_and_its_redrive_takes_none() -> None:
    async with FakeQueue() as queue:
        dead = await Refresh(user="a", fails=9).dispatch()
        await queue.run_until_idle()
        queue.assert_failed(dead)
        living = await Refresh(user="a").dispatch()
        assert living != dead

        assert await queue.driver.redrive("default", limit=1) == 1

        assert await Refresh(user="a").dispatch() == living


async def test_a_window_throttles_in_virtual_time() -> None:
    async with FakeQueue() as queue:
        for minute in range(12):
            await Alarm(text=f"{minute}").dispatch()
            await queue.advance(minutes=1)

    assert RAN == ["0", "5", "10"]


async def test_replacing_with_a_delay_debounces() -> None:
    async with FakeQueue() as queue:
        for version in range(3):
            await Index(version=version).delay(30).dispatch()
            await queue.advance(seconds=20)
        await queue.advance(seconds=30)

        assert RAN == [2]
        queue.assert_dispatched(Index, times=3)
        assert [queue.history(record.task_id).settlement for record in queue.dispatched()] == [
            "removed",
            "removed",
            "complete",
        ]


async def test_a_conflict_that_raises_leaves_nothing_behind() -> None:
    async with FakeQueue() as queue:
        strict = Unique("k", on_conflict="raise")
        first = await Refresh(user="a").with_options(unique=strict).dispatch()
        with pytest.raises(UniqueConflictError) as caught:
            await dispatch_many([Index(version=1), Refresh(user="b").with_options(unique=strict)])

        assert caught.value.task_id == first
        queue.assert_dispatched(Refresh, times=1)
        queue.assert_not_dispatched(Index)


async def test_what_a_running_task_dispatches_is_skipped_while_it_runs() -> None:
    class Again(AsyncTask[None]):
        unique = True

        async def execute(self) -> None:
            RAN.append(await Again().dispatch() == self.task_id)

    async with FakeQueue() as queue:
        await Again().dispatch()
        await queue.drain()

        assert RAN == [True]
        queue.skipped.assert_dispatched(Again, times=1)


async def test_the_driver_that_it_is_like_refuses_what_it_can_not_keep() -> None:
    async with FakeQueue(like="sqs") as queue:
        with pytest.raises(UnsupportedFeature, match="has unique set"):
            await Refresh(user="a").dispatch()
        queue.assert_nothing_dispatched()


def test_a_transaction_holds_the_key_when_it_commits(tmp_path: Path) -> None:
    with FakeQueue(like=f"sqlite:///{tmp_path}/app.db") as queue, closing(sqlite3.connect(tmp_path / "app.db")) as own:
        own.execute("BEGIN")
        Refresh(user="a").dispatch_sync(connection=own)
        own.rollback()
        first = Refresh(user="a").dispatch_sync()
        own.execute("BEGIN")
        assert Refresh(user="a").dispatch_sync(connection=own) == first
        second = Refresh(user="b").dispatch_sync(connection=own)
        own.commit()

        queue.assert_dispatched(Refresh, times=2)
        queue.skipped.assert_dispatched(Refresh, times=1)
        assert Refresh(user="b").dispatch_sync() == second


def test_a_tick_that_finds_the_former_one_running_is_skipped() -> None:
    class Slow(AsyncTask[None]):
        schedule = Every(minutes=1)
        unique = True

        async def execute(self) -> None:
            assert self.scheduled_for is not None
            RAN.append(self.scheduled_for.minute)
            await asyncio.sleep(150)

    with FakeQueue(schedules=[Slow]) as queue:
        queue.advance_sync(minutes=9, seconds=30)

        assert RAN == [1, 4, 7]
        assert len(queue.skipped.dispatched(Slow)) == 6
