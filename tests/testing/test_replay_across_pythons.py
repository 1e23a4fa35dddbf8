"""A failure that Python 3.11 found and shrank is the same failure, event by event, on every Python that runs this."""

import json

from tests.testing.replayed_program import STORY, TAPE, replayed, story


def test_a_kept_tape_gives_the_same_failure_and_the_same_story() -> None:
    failed = replayed(TAPE)

    assert isinstance(failed.result.failure, AssertionError)
    assert story(failed) + "\n" == STORY.read_text(encoding="utf-8")


def test_the_kept_tape_decides_something() -> None:
    entries = json.loads(TAPE.read_text(encoding="utf-8"))["entries"]

    assert any(value for *_, value in entries)
