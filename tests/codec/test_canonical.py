"""Equal arguments have equal canonical bytes, whatever the order of their dicts and sets; others have others."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.codec.canonical import canonical
from asynctasq.codec.values import pack
from tests.effort import examples

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.binary(max_size=5))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=4),
        st.sets(st.one_of(st.text(max_size=3), st.integers()), max_size=4),
    ),
    max_leaves=12,
)


def key(value: object) -> bytes:
    return canonical(pack(value, path="value"))


def reordered(value: Any) -> Any:
    """Return an equal value whose dicts, and sets as far as that can be, are in the opposite order."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    if isinstance(value, list | tuple):
        return type(value)(reordered(item) for item in value)
    if not isinstance(value, set):
        return value
    other: set[object] = set()
    for item in sorted(value, key=repr, reverse=True):  # where hashes collide, the order of what is added shows
        other.add(item)
    return other


@given(VALUES)
@settings(max_examples=examples(200), deadline=None)
def test_an_equal_value_in_another_order_has_the_same_bytes(value: object) -> None:
    assert key(reordered(value)) == key(value)


@given(VALUES, VALUES)
@settings(max_examples=examples(200), deadline=None)
def test_other_values_have_other_bytes(one: object, other: object) -> None:
    assert (key(one) == key(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: Any) -> str:
    """Return a text that tells values and their types apart, in one order."""
    if isinstance(value, dict):
        return f"dict{sorted((repr_of(name), repr_of(item)) for name, item in value.items())}"
    if isinstance(value, set):
        return f"set{sorted(map(repr_of, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}{[repr_of(item) for item in value]}"
    return f"{type(value).__name__} {value!r}"


@pytest.mark.parametrize(
    ("one", "other"), [({"a", "b"}, frozenset({"a", "b"})), ([1], (1,)), ({"a": 1}, [["a", 1]]), (1, True), (1, 1.0)]
)
def test_values_of_other_types_differ(one: object, other: object) -> None:
    assert key(one) != key(other)


def test_what_is_nested_in_extensions_is_put_in_order_too() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)

    assert key(({"a": 1, "b": {"x", "y"}}, moment)) == key(({"b": {"y", "x"}, "a": 1}, moment))
    assert key({(1, "a"): Decimal(1), (2, "b"): 2}) == key({(2, "b"): 2, (1, "a"): Decimal(1)})
