"""Workers that are killed, frozen or told to stop while they run real tasks from a SQLite file."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynctasq.kernel.messages import State
from tests.faults.worker_process import Place, is_gone, place_in
from tests.patience import SOON_S, patient_s, wait_until

LEASE_S = 4.0
MIX = ("Quick:790", "InThread:150", "Retried:50", "InProcess:10")
TASKS = 1001
RECOVERY_S_MAX = patient_s(20)
"""Below a second on a free machine; what is asserted leaves room for one that runs other tests meanwhile."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as made:
        yield made


def runs(place: Place) -> Counter[tuple[str, int]]:
    return Counter((line["id"], line["attempt"]) for line in place.lines("start"))


async def test_every_task_of_a_killed_worker_completes(place: Place) -> None:
    place.dispatch("UntilTold:1")  # runs when the kill comes, whatever else does
    place.dispatch(*MIX)
    dead = place.worker("--lease", str(LEASE_S), "--quiet")
    wait_until(lambda: len(place.lines("end")) > TASKS * 0.3, "the first worker is in the middle")
    assert "UntilTold" in {line["task"] for line in place.lines("start")}

    dead.kill()
    dead.wait()
    (place.folder / "go").touch()
    held = {message.id: message.visible_at for message in await place.messages(State.RESERVED)}
    before = {line["id"] for line in place.lines("start")}
    place.worker("--lease", str(LEASE_S), "--quiet")
    wait_until(
        lambda: len({line["id"] for line in place.lines("end")}) == TASKS, "every task ends", within_s=2 * SOON_S
    )
    place.workers[1].send_signal(signal.SIGTERM)
    assert place.workers[1].wait() == 0

    assert held, "the kill came at a moment when nothing ran"
    assert await place.messages() == []
    extra = {task_id for (task_id, _), count in runs(place).items() if count > 1}
    assert extra <= set(held), "a task ran again whose lease the dead worker did not hold"
    assert max(runs(place).values()) <= 2
    late = {
        line["id"]: line["at"] - held[line["id"]]
        for line in place.lines("start")
        if line["id"] in held and line["pid"] != dead.pid and line["task"] != "InProcess" and line["id"] in before
    }
    assert late, "nothing was recovered"
    assert min(late.values()) >= 0, "a task was taken while its lease was held"
    print(f"recovered at most {max(late.values()):.2f} s after the end of their leases")
    assert max(late.values()) <= RECOVERY_S_MAX


async def test_a_worker_that_slept_through_its_lease_settles_nothing(place: Place) -> None:
    place.dispatch("UntilTold:1")
    frozen = place.worker("--lease", "2")
    wait_until(lambda: len(place.lines("start")) == 1, "the task starts")

    frozen.send_signal(signal.SIGSTOP)
    other = place.worker("--lease", "2")
    wait_until(lambda: len(place.lines("start")) == 2, "another worker takes the task over")
    (place.folder / "go").touch()
    wait_until(lambda: "completed" in place.said(1), "the other worker completes it")
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: "lost" in place.said(0), "the late one is told")

    for process in (frozen, other):
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert await place.messages() == []
    assert "completed" not in place.said(0)
    assert place.said(1).count("completed") == 1


async def test_a_stopped_worker_duplicates_nothing(place: Place) -> None:
    place.dispatch("Quick:600", "InThread:150", "InProcess:2")
    first = place.worker("--quiet")
    wait_until(lambda: len(place.lines("end")) > 60, "the first worker is in the middle")

    first.send_signal(signal.SIGTERM)

    assert first.wait() == 0
    assert await place.messages(State.RESERVED) == []
    left = len(await place.messages())
    assert 0 < left < 752
    assert place.worker("--quiet", "--burst").wait() == 0
    assert await place.messages() == []
    assert set(runs(place).values()) == {1}
    assert len(runs(place)) == 752


async def test_a_second_signal_ends_at_once_and_hands_back(place: Place) -> None:
    place.dispatch("Forever:1", "ForeverInThread:1", "ForeverInProcess:1")
    worker = place.worker("--shutdown-timeout", "3600")
    wait_until(lambda: len(place.lines("start")) == 3, "all three run")
    [child] = [line["pid"] for line in place.lines("start") if line["task"] == "ForeverInProcess"]

    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGINT)

    assert worker.wait(timeout=SOON_S) == 0
    assert is_gone(child)
    messages = await place.messages()
    assert sorted(message.state.value for message in messages) == ["ready", "ready", "scheduled"]
    assert {(message.attempts, message.crashes) for message in messages} == {(0, 0)}


def test_a_child_does_not_outlive_its_killed_worker(place: Place) -> None:
    place.dispatch("ForeverInProcess:1")
    worker = place.worker()
    wait_until(lambda: len(place.lines("start")) == 1, "the child runs")
    child = place.lines("start")[0]["pid"]

    worker.kill()
    worker.wait()

    assert child != worker.pid
    wait_until(lambda: is_gone(child), "the child is gone")
