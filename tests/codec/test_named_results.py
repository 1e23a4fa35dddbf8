"""Results that name their task, beside those that do not."""

import enum
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.codec.arguments import NAMED_PREFIX, pack_result, task_of_result, unpack_result
from asynctasq.codec.values import pack
from asynctasq.errors import UndecodableBody


@dataclass(frozen=True)
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


@given(st.text(min_size=1, max_size=500), st.integers(-(2**63), 2**63))
def test_a_result_that_is_rebuilt_names_its_task(name: str, x: int) -> None:
    data = pack_result(name, [Point(x)], list[Point])

    assert task_of_result(data) == name
    assert unpack_result(data, list[Point]) == [Point(x)]


@pytest.mark.parametrize("value", [None, 1, "text", [1, {"a": 2}], b"\xc1\x01\x00"])
def test_a_plain_result_costs_no_byte_more(value: object) -> None:
    data = pack_result("m:f", value, object)

    assert data == pack(value, path="result")
    assert task_of_result(data) is None


def test_a_result_without_a_name_is_rebuilt_as_before() -> None:
    named = pack_result("m:f", Colour.RED, Colour)
    unnamed = named[len(NAMED_PREFIX) + 2 + len("m:f") :]

    assert unpack_result(unnamed, Colour) == unpack_result(named, Colour) is Colour.RED


@pytest.mark.parametrize(
    "data", [NAMED_PREFIX, NAMED_PREFIX + b"\0", NAMED_PREFIX + b"\0\3m:f", NAMED_PREFIX + b"\0\1\xff\xc0"]
)
def test_a_damaged_name_is_an_undecodable_body(data: bytes) -> None:
    with pytest.raises(UndecodableBody):
        unpack_result(data, None)
