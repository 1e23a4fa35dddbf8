"""Arguments fit a task exactly when Python would take them for its constructor, and travel by the same names."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from asynctasq.kernel.envelope import VAR_POSITIONAL
from asynctasq.tasks.signatures import signature_of

NAMES = ("a", "b", "c", "d", "named", "others")


@st.composite
def functions(draw: st.DrawFn) -> Callable[..., Any]:
    """Return functions with parameters of every kind, with and without defaults."""
    kinds = sorted(draw(st.lists(st.sampled_from(list(inspect._ParameterKind)), max_size=4)))
    kinds = [
        kind for number, kind in enumerate(kinds) if kind not in kinds[:number] or kind.name.startswith(("P", "K"))
    ]
    parameters: list[inspect.Parameter] = []
    optional = False
    for name, kind in zip(NAMES, kinds, strict=False):
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            parameters.append(inspect.Parameter(name, kind))
            continue
        optional = draw(st.booleans()) or (optional and kind is not inspect.Parameter.KEYWORD_ONLY)
        parameters.append(inspect.Parameter(name, kind, default=0 if optional else inspect.Parameter.empty))

    def function(*_: object, **__: object) -> None: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def expected(function: Callable[..., Any], args: Sequence[int], kwargs: Mapping[str, int]) -> dict[str, object] | None:
    """Return the arguments by the names under which they travel; None if Python would not take them."""
    inspected = inspect.signature(function)
    try:
        bound = inspected.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    by_place_only = {each.name for each in inspected.parameters.values() if each.kind is each.POSITIONAL_ONLY}
    arguments: dict[str, object] = {}
    for name, value in bound.items():
        match inspected.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                arguments[VAR_POSITIONAL] = list(value)
            case inspect.Parameter.VAR_KEYWORD if value.keys() & by_place_only:
                return None  # could not be told apart from the argument of that name
            case inspect.Parameter.VAR_KEYWORD:
                arguments |= value
            case _:
                arguments[name] = value
    return arguments


@given(functions(), st.lists(st.integers(1, 9), max_size=4), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9)))
def test_arguments_are_bound_as_python_binds_them(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        bound = dict(signature_of(function, bound=False).bind(tuple(args), kwargs))
    except TypeError:
        bound = None

    assert bound == expected(function, args, kwargs)
