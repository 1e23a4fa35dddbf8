"""Splitting what a caller gives in one batch."""

import pytest

from asynctasq.drivers.batches import batches_by_size, chunks, unique_messages
from asynctasq.kernel.messages import Message


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([99], [[99]]),
        ([4, 6, 1], [[4, 6], [1]]),
        ([11, 1, 11], [[11], [1], [11]]),
        ([1, 1, 1, 1], [[1, 1, 1], [1]]),
    ],
)
def test_a_batch_holds_neither_too_much_nor_too_many(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(batches_by_size(sizes, size_of=int, size_max=10, count_max=3)) == expected


def test_chunks_are_of_one_length_but_for_the_last() -> None:
    assert list(chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_of_equal_ids_the_first_message_counts() -> None:
    first, other, second = (
        Message(id=id_, queue="q", body=body) for id_, body in [("a", b"1"), ("b", b""), ("a", b"2")]
    )

    assert unique_messages([first, other, second, first]) == [first, other]
