"""Shrinking: from many decisions to the few that matter, never losing the failure."""

import asyncio
from collections.abc import Sequence

from asynctasq.testing.loop import SimulationLoop
from asynctasq.testing.simulation.shrink import shrink
from asynctasq.testing.tape import Entry, Tape


def program(tape: Tape) -> list[int]:
    return [tape.draw("a" if index % 2 else "b", 10) for index in range(40)]


def failing_when(condition):
    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        tape = Tape.replay(entries, strict=False)
        return tape.entries if condition(program(tape)) else None

    return still_fails


def recorded(seed: int) -> Sequence[Entry]:
    tape = Tape(seed)
    program(tape)
    return tape.entries


def test_only_the_decisions_that_matter_stay_and_are_small():
    entries = recorded(3)
    assert [entry[2] for entry in entries][17] >= 2
    assert [entry[2] for entry in entries][30] >= 3

    shrunk = shrink(entries, failing_when(lambda values: values[17] >= 2 and values[30] >= 3))

    assert [entry[2] for entry in shrunk.decisions] == [2, 3]
    assert shrunk.complete
    assert len(shrunk.entries) == 31


def test_a_failure_of_the_dull_run_has_no_decisions():
    shrunk = shrink(recorded(3), failing_when(lambda values: True))

    assert shrunk.decisions == []
    assert shrunk.runs == 1


def test_decisions_of_one_label_that_only_count_together_go_together():
    def condition(values: list[int]) -> bool:
        a, b = values[1::2], values[::2]
        return 5 in b and (sum(a) == 20 or not any(a))

    entries = [("a", 10, 9), ("b", 10, 2), ("b", 10, 5), ("a", 10, 6), ("a", 10, 5)]

    assert shrink(entries, failing_when(condition)).decisions == [("b", 10, 5)]


def test_numbers_between_0_and_1_are_dropped_and_not_halved_again_and_again() -> None:
    def drawn(tape: Tape) -> list[float]:
        rng = tape.random("program")
        return [rng.random() for _ in range(8)]

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        tape = Tape.replay(entries, strict=False)
        return tape.entries if drawn(tape)[5] > 0 else None

    tape = Tape(3)
    drawn(tape)
    shrunk = shrink(tape.entries, still_fails)

    assert [entry[2] for entry in shrunk.decisions] == [tape.entries[5][2]]
    assert shrunk.runs < 40


def test_a_fault_found_under_a_schedule_is_shown_without_it_at_another_moment() -> None:
    """The schedule decides who takes the message: w1, or first come w2, who must be hit at its fifth turn then."""

    def condition(tape: Tape) -> bool:
        taker, at = ("w1", 1) if tape.draw("schedule", 3) == 2 else ("w2", 5)
        faults = {name: [tape.draw(f"{name} turn:before", 2) for _ in range(6)] for name in ("w1", "w2")}
        return sum(map(sum, faults.values())) == 1 and faults[taker][at] == 1

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        tape = Tape.replay(entries, strict=False)
        return tape.entries if condition(tape) else None

    entries = [("schedule", 3, 2), ("w1 turn:before", 2, 0), ("w1 turn:before", 2, 1), ("w2 turn:before", 2, 0)]

    assert shrink(entries, still_fails).decisions == [("w2 turn:before", 2, 1)]


def test_deleting_moves_later_choices_up():
    # The third 7 of label "b" is what fails, wherever it stands.
    def condition(values: list[int]) -> bool:
        return 7 in values

    entries = [("b", 10, 1), ("a", 10, 4), ("b", 10, 7)]
    shrunk = shrink(entries, failing_when(condition))

    assert shrunk.decisions == [("b", 10, 7)]


def test_the_result_has_been_seen_failing():
    still_fails = failing_when(lambda values: sum(values) > 50)

    shrunk = shrink(recorded(3), still_fails)

    assert still_fails(shrunk.entries) is not None
    assert sum(entry[2] for entry in shrunk.decisions) == 51


def test_the_budget_of_runs_is_kept():
    runs = 0

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        nonlocal runs
        runs += 1
        return failing_when(lambda values: sum(values) > 50)(entries)

    shrunk = shrink(recorded(3), still_fails, runs_max=10)

    assert runs == shrunk.runs == 10
    assert not shrunk.complete


def test_a_failure_that_never_comes_again_is_left_as_it_was():
    entries = recorded(3)

    shrunk = shrink(entries, lambda _: None)

    assert [e for e in shrunk.entries if e[2]] == [e for e in entries if e[2]]
    assert shrunk.complete


async def lost_update() -> int:
    count = 0

    async def add(pauses: int) -> None:
        nonlocal count
        for _ in range(pauses):
            await asyncio.sleep(0)
        seen = count
        await asyncio.sleep(0)
        count = seen + 1

    async with asyncio.TaskGroup() as group:
        for index in range(6):
            group.create_task(add(4 * index))
    return count


def test_a_race_shrinks_to_a_few_scheduling_decisions():
    def fails(tape: Tape, search) -> bool:
        return SimulationLoop(tape, search=search).run(lost_update()) != 6

    def still_fails(entries: Sequence[Entry]) -> Sequence[Entry] | None:
        tape = Tape.replay(entries, strict=False)
        return tape.entries if fails(tape, "pct") else None

    assert not fails(Tape(0), "pct")
    tape = next(tape for seed in range(1, 100) if fails(tape := Tape(seed), "pct"))

    shrunk = shrink(tape.entries, still_fails)

    assert 1 <= len(shrunk.decisions) <= 3
