"""What no driver has written: the good messages beside it run, the worker goes on, and what is damaged is told once."""

import asyncio
import json
import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynctasq.core.runtime import ProductionRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.base import Driver, Inspectable, KeepsResults
from asynctasq.drivers.damaged import is_message
from asynctasq.drivers.sqs_driver.wire import _read_envelope
from asynctasq.kernel.messages import Bury, DeadReason, State
from asynctasq.queue import Queue
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.application import Application
from asynctasq.testing.servers import Servers
from tests.effort import examples
from tests.patience import SOON_S, until
from tests.security.damaged_stores import STORES, Damage, DamagedRedis, DamagedStore

RAN: Counter[str] = Counter()
LEASE_S = 30.0


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        RAN[self._task_id or ""] += 1


async def work(driver: Driver) -> None:
    chosen = WorkerSettings(application=Application(), handle_signals=False, burst=True, broker_timeout_s=1.0)
    async with asyncio.timeout(SOON_S):
        await Worker(driver, concurrency=3, settings=chosen, runtime=ProductionRuntime()).start()


async def read_all(driver: Driver) -> None:
    """Do what an operator does; it must bear whatever is stored."""
    assert isinstance(driver, Inspectable)
    assert isinstance(driver, KeepsResults)
    await driver.depth("default")
    for name in await driver.queues():
        await driver.depth(name)
    for state in (None, *State):
        cursor = None
        while True:
            page = await driver.list_messages("default", state=state, limit=3, cursor=cursor)
            for message in page.messages:
                await driver.find(message.id)
                await driver.fetch_result(message.id)
            cursor = page.cursor
            if cursor is None:
                break


async def stored(driver: Driver) -> tuple[list[str], list[str]]:
    """Store messages in every state; return the ids of those to be left alone, and those to be damaged."""
    dispatched = await Queue(driver).dispatch(_fine(driver, 4))
    [dead] = await driver.reserve(["default"], limit=1, lease_s=LEASE_S)
    [expired] = await driver.reserve(["default"], limit=1, lease_s=LEASE_S)
    await driver.settle([(dead, Bury(reason=DeadReason.FAILED))])
    victims = [dead.message_id, expired.message_id]
    victims += [one for one in dispatched if one not in victims]
    return await Queue(driver).dispatch(_fine(driver, 5)), victims


def _fine(driver: Driver, count: int) -> list[Fine]:
    """Return tasks, every second one with a fair key, where the driver has such."""
    made = [Fine() for _ in range(count)]
    if driver.capabilities.fair:
        for one in made[1::2]:
            one.with_options(fair_key=lambda _: "acme")
    return made


Plan = list[tuple[int, Damage]]


async def check(store: DamagedStore, plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    RAN.clear()
    driver = store.harness.create()
    good, victims = await stored(driver)
    for index, damage in plan:
        await store.apply(victims[index], damage)
    store.harness.advance(2 * LEASE_S)
    await read_all(driver)

    await work(driver)

    assert {one: RAN[one] for one in good} == dict.fromkeys(good, 1)
    assert max(RAN.values()) == 1
    await read_all(driver)
    caplog.clear()
    await work(driver)
    assert not [record for record in caplog.records if "damaged" in record.getMessage()]
    await driver.redrive("default", limit=100)
    await work(driver)
    await read_all(driver)
    await driver.close()


async def emptied(store: DamagedStore) -> None:
    for driver in store.harness.drivers if hasattr(store.harness, "drivers") else []:
        await driver.close()
    await store.harness.clean_up()


@pytest.mark.parametrize("kind", STORES)
def test_the_good_run_beside_the_damaged(
    kind: str, conformance_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    damages = STORES[kind].damages

    @settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan=st.lists(st.tuples(st.integers(0, 3), damages), min_size=1, max_size=4))
    def holds(plan: Plan) -> None:
        async def run() -> None:
            store = STORES[kind](conformance_servers)
            await store.harness.prepare()
            try:
                await check(store, plan, caplog)
            finally:
                await emptied(store)

        asyncio.run(run())

    with caplog.at_level(logging.WARNING):
        holds()


@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("redis", [(0, Damage("type", b"fair")), (3, Damage("leased", b""))]),
        ("sqlite", [(3, Damage("enqueued_us", "many"))]),
    ],
)
async def test_plans_that_once_did_harm(
    kind: str, plan: Plan, conformance_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    store = STORES[kind](conformance_servers)
    await store.harness.prepare()

    with caplog.at_level(logging.WARNING):
        await check(store, plan, caplog)

    await emptied(store)


@pytest.mark.parametrize("kind", STORES)
async def test_a_damaged_row_is_a_dead_letter_that_can_be_read_removed_and_driven_again(
    kind: str, conformance_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    part = {"redis": Damage("states", b"short"), "mysql": Damage("attempts", 2**32 - 1)}
    part |= {"sqlite": Damage("attempts", "many"), "postgres": Damage("attempts", -1)}
    store = STORES[kind](conformance_servers)
    await store.harness.prepare()
    driver = store.harness.create()
    RAN.clear()
    one, other = await Queue(driver).dispatch([Fine(), Fine()])
    for message_id in (one, other):
        await store.apply(message_id, part[kind])

    with caplog.at_level(logging.ERROR):
        await work(driver)

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all("becomes a dead letter: what is stored of this message is damaged; it was: " in line for line in lines)
    dead = (await driver.list_messages("default", state=State.DEAD)).messages
    assert {message.id for message in dead} == {one, other}
    assert {message.reason for message in dead} == {DeadReason.UNDECODABLE}
    assert all(message.error and "damaged" in message.error.message for message in dead)
    assert await driver.discard([one]) == {one}
    assert await driver.redrive("default", limit=5) == 1
    await work(driver)
    assert {other: 1} == RAN
    await driver.close()
    await emptied(store)


@pytest.mark.parametrize("kind", STORES)
def test_a_worker_that_waits_goes_on_when_what_it_waits_for_is_damaged(kind: str, conformance_servers: Servers) -> None:
    @settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
    @given(damages=st.lists(STORES[kind].damages, min_size=3, max_size=3))
    def holds(damages: list[Damage]) -> None:
        asyncio.run(_damage_while_waiting(STORES[kind](conformance_servers), damages))

    holds()


async def _damage_while_waiting(store: DamagedStore, damages: list[Damage]) -> None:
    await store.harness.prepare()
    driver, other = store.harness.create(), store.harness.create()
    chosen = WorkerSettings(application=Application(), handle_signals=False, broker_timeout_s=1.0)
    worker = Worker(driver, settings=chosen, runtime=ProductionRuntime())
    RAN.clear()
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        working = group.create_task(worker.start())
        for damage in damages:
            [victim] = await Queue(other).dispatch([Fine().delay(1_000_000)])
            await store.apply(victim, damage)
            good = await Queue(other).dispatch([Fine(), Fine()])
            await until(lambda good=good: all(RAN[one] for one in good))
        assert not working.done()
        worker.stop()
    await other.close()
    await emptied(store)


@given(
    header=st.dictionaries(
        st.sampled_from(["id", "attempts", "crashes", "copy", "enqueued_us", "due_in_us", "dead"]),
        st.sampled_from([None, "", "many", -1, 10**30, 1e400, [], {}, "x" * 300, "a\nb", True, 5, 1.5]),
    )
)
def test_a_damaged_header_in_sqs_is_a_foreign_message(header: dict[str, Any]) -> None:
    text = json.dumps({"asynctasq": 1, "id": "ours", **header})

    envelope = _read_envelope({"MessageId": "theirs", "Body": text})

    assert is_message("m", envelope.body, envelope.attempts, envelope.crashes, envelope.enqueued_us or 0)
    assert envelope.id in ["theirs", "ours", str(header.get("id"))]


@pytest.mark.parametrize(
    "key",
    ["messages", "states", "errors", "queues", "due:default", "leased:default", "dead:default", "wake:default"],
)
async def test_a_key_of_another_type_is_set_aside_and_new_messages_run(
    key: str, conformance_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    store = DamagedRedis(conformance_servers)
    driver = store.harness.create()
    await stored(driver)
    await store.change_type(key)
    RAN.clear()

    with caplog.at_level(logging.ERROR):
        good = await Queue(driver).dispatch([Fine(), Fine()])
        await read_all(driver)
        store.harness.advance(2 * LEASE_S)
        await work(driver)
        await read_all(driver)

    assert {one: RAN[one] for one in good} == dict.fromkeys(good, 1)
    told = f"is set aside as damaged:*: {key} was a string" in caplog.text
    assert told or key == "wake:default"  # which the next wait deletes
    await driver.close()
    await emptied(store)


async def test_a_stray_entry_among_the_leases_of_a_line_by_rank_is_removed_once(
    conformance_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    store = DamagedRedis(conformance_servers)
    driver = store.harness.create()
    RAN.clear()
    good = await Queue(driver).dispatch([*_fine(driver, 4), *_fine(driver, 4)])
    for line in ("default!n:", "default"):
        await store.run("ZADD", f"leased:{line}", 0, b"")

    with caplog.at_level(logging.ERROR):
        await work(driver)

    assert {one: RAN[one] for one in good} == dict.fromkeys(good, 1)
    assert len(caplog.records) == 2
    assert not await store.run("EXISTS", "leased:default!n:")
    await driver.close()
    await emptied(store)


async def test_good_messages_behind_many_damaged_ones_run(conformance_servers: Servers) -> None:
    store = DamagedRedis(conformance_servers)
    driver = store.harness.create()
    RAN.clear()
    for number in range(2_500):  # one call makes a thousand dead letters
        await store.run("ZADD", "due:default", 0, f"{number:016}nothing")
    good = await Queue(driver).dispatch(_fine(driver, 2))

    await work(driver)

    assert {one: RAN[one] for one in good} == dict.fromkeys(good, 1)
    await driver.close()
    await emptied(store)
