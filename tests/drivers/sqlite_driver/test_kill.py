"""Processes killed with SIGKILL while they write leave a consistent SQLite queue: nothing lost, nothing twice."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.messages import Complete
from tests.patience import wait_until

ROUNDS = 12
LEASE_S = 3600

PROGRAM = """
import asyncio, os, random, sys
from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Message, Release

path, ledger_path, name, durability = sys.argv[1:]
rng = random.Random(name)
ledger = os.open(ledger_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def record(event, ids):
    if ids:
        os.write(ledger, "".join(f"{event} {each}\\n" for each in ids).encode())

def end(message_id):
    # The follow-up's id is made from the message's, so that it may be stored once only.
    if rng.random() < 0.2 and not message_id.endswith("+"):
        return Complete(follow_ups=(Message(id=message_id + "+", queue="mail", body=b""),))
    return Complete() if rng.random() < 0.9 else Release(counted=True)

async def produce(driver):
    number = 0
    while True:
        batch = [Message(id=f"{name}-{number + n}", queue="mail", body=rng.randbytes(rng.choice([10, 9000])))
                 for n in range(rng.choice([1, 7, 60]))]
        number += len(batch)
        record("asked", [",".join(message.id for message in batch)])
        record("stored", await driver.enqueue(batch))

async def consume(driver):
    settlements = []
    while True:
        record("settling", [lease.message_id for lease, each in settlements if isinstance(each, Complete)])
        lost, leases = await driver.turn(settlements, ["mail"], limit=rng.choice([1, 10, 50]), lease_s=3600)
        record("lost", sorted(lost))
        record("done", [lease.message_id for lease, each in settlements if isinstance(each, Complete)])
        record("follow", [f.id for _, each in settlements if isinstance(each, Complete) for f in each.follow_ups])
        record("taken", [lease.message_id for lease in leases])
        settlements = [(lease, end(lease.message_id)) for lease in leases]

async def main():
    driver = SQLiteDriver(path, durability=durability)
    async with asyncio.TaskGroup() as group:
        group.create_task(produce(driver))
        group.create_task(consume(driver))
        group.create_task(consume(driver))

asyncio.run(main())
"""


def kill_in_the_middle(path: Path, ledger: Path, name: str, durability: str, lines: int) -> None:
    """Run two processes until the ledger has so many lines more, then kill both with no warning."""
    until = ledger.stat().st_size + lines * 20
    children = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(path), str(ledger), f"{name}{n}", durability])
        for n in range(2)
    ]
    try:
        wait_until(lambda: ledger.stat().st_size >= until or has_ended(children), "the ledger grows")
        assert not has_ended(children), "a child ended by itself"
    finally:
        for child in children:
            child.send_signal(signal.SIGKILL)
        for child in children:
            child.wait()


def has_ended(children: "list[subprocess.Popen[bytes]]") -> bool:
    return any(child.poll() is not None for child in children)


def read(ledger: Path) -> dict[str, Counter[str]]:
    events: dict[str, Counter[str]] = {}
    for line in ledger.read_text().splitlines():
        event, message_id = line.split()
        events.setdefault(event, Counter())[message_id] += 1
    return events


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_killed_processes_lose_nothing_and_double_nothing(tmp_path: Path, durability: str) -> None:
    path, ledger = tmp_path / "queue.db", tmp_path / "ledger"
    ledger.touch()
    rng = random.Random(durability)

    for number in range(ROUNDS):
        kill_in_the_middle(path, ledger, f"r{number}p", durability, rng.randrange(1, 1500))
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    events = read(ledger)
    driver = SQLiteDriver(path, clock_offset=LEASE_S + 1)  # every lease of the dead has run out
    left: Counter[str] = Counter()
    while leases := await driver.reserve(["mail"], limit=1000, lease_s=LEASE_S):
        left.update(lease.message_id for lease in leases)
        assert await driver.settle([(lease, Complete()) for lease in leases]) == set()
    await driver.close()
    done, settling = events["done"], events["settling"]
    batches = [set(batch.split(",")) for batch in events["asked"]]
    asked = set().union(*batches)
    stored = events["stored"] | events["follow"]
    assert len(done) > 100, "too little happened to mean anything"
    assert set(stored) <= set(left) | set(settling), "lost: stored, but neither left nor ever settled"
    assert not set(done) & set(left), "doubled: settled for good, and still there"
    assert max(done.values()) == 1, "doubled: completed twice"
    assert not events.get("lost"), "a lease was lost though none ran out"
    assert set(left) <= asked | {f"{each}+" for each in settling}, "a message that nobody stored"
    assert max(left.values()) == 1
    there = set(left) | set(settling)
    assert all(batch <= there or not batch & there for batch in batches), "a batch was stored in part"
