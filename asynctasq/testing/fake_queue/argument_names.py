"""Which names an assertion may ask for: the arguments that a task can be dispatched with."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from asynctasq.tasks.base import RESERVED, BaseTask
from asynctasq.tasks.definition import definition_of

__all__ = ["check_argument_names"]


def check_argument_names(task: type[BaseTask[Any]], names: Iterable[str]) -> None:
    """Refuse a name that no dispatch of this task can have: an assertion over it would mean nothing.

    A constructor that keeps its `**named` takes any name. So does a task without a constructor, except for those
    that every task has.

    Raises: TypeError that names the task, the name, and what the task takes.
    """
    known = definition_of(task).signature.inspected.parameters
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    taken, takes_attributes = _accepted_names(task)
    for name in unknown:
        hint = "; for the queue say on_queue=" if name == "queue" else ""
        if takes_attributes and _is_reserved(name):
            raise TypeError(f"{task.__qualname__} has no argument {name!r}: every task has that attribute{hint}")
        if taken is not None and name not in taken:
            raise TypeError(
                f"{task.__qualname__} has no argument {name!r}; it takes {', '.join(taken) or 'no arguments'}{hint}"
            )


def _is_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith("_")


def _accepted_names(task: type[BaseTask[Any]]) -> tuple[list[str] | None, bool]:
    """Return the names that the constructors take, None for any; and whether they become attributes."""
    signature = definition_of(task).signature
    names = [name for name, parameter in signature.inspected.parameters.items() if parameter.kind != _VAR_KEYWORD]
    if not signature.open:
        return names, False
    has_constructor = False
    for cls in task.__mro__:
        constructor = vars(cls).get("__init__")
        if constructor is None:
            continue
        if cls is BaseTask:  # takes them only where no class has a constructor
            return (names, False) if has_constructor else (None, True)
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind != _VAR_KEYWORD and p.name not in names]
        if all(parameter.kind != _VAR_KEYWORD for parameter in parameters):
            return names, False
        if not _forwards_keywords(constructor):
            return None, False
        has_constructor = has_constructor or issubclass(cls, BaseTask)
    return names, False


_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def _forwards_keywords(constructor: Callable[..., Any]) -> bool:
    """Say whether a constructor only forwards its `**named` to the next constructor.

    Its source is read; without a source they may be kept, so False.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(constructor)))
    except (OSError, TypeError, SyntaxError):
        return False
    [definition, *_] = tree.body
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg is None:
        return False
    named = definition.args.kwarg.arg
    nodes = list(ast.walk(definition))
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == named]
    forwarded = [
        keyword.value
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"
        for keyword in node.keywords
        if keyword.arg is None
    ]
    return bool(uses) and all(any(use is value for value in forwarded) for use in uses)
