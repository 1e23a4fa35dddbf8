"""State machines that count what they reached: a rule or a named branch that no example came to is a failure.

Runs have fixed seeds, so that what is reached is the same today and tomorrow, whatever is edited in a machine's source.
`PROPERTY_SEED=7 pytest property_tests` explores other examples, for as many seeds as one likes.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, Phase, Verbosity, event, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests import effort

__all__ = ["MeasuredMachine", "explore", "goes_red", "step"]

STEADY: Final = settings(
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
"""A busy machine is no finding."""
ROUNDS_MAX: Final = 3
"""So many times the examples are drawn, each time from another seed, as long as something was not reached."""


def step(**arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Declare a rule, as Hypothesis's `rule` does, that counts as reached when it has run to its end.

    A `precondition` belongs below it.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def counted(self: "MeasuredMachine", **chosen: Any) -> Any:
            result = function(self, **chosen)
            self.seen[function.__name__] += 1
            return result

        declared = rule(**arguments)(counted)
        declared.is_step = True
        return declared

    return decorate


class MeasuredMachine(RuleBasedStateMachine):
    """A state machine whose class counts, over all examples, which rules and branches were reached.

    `branches` are the situations worth testing: a rule says `reach(name)` when it comes to one.
    """

    branches: ClassVar[frozenset[str]] = frozenset()
    seen: ClassVar[Counter[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.seen = Counter()

    @classmethod
    def steps(cls) -> frozenset[str]:
        """Return the names of all rules."""
        return frozenset(name for name in dir(cls) if getattr(getattr(cls, name, None), "is_step", False))

    def reach(self, branch: str, condition: bool = True) -> None:
        """Count a situation as seen."""
        assert branch in self.branches, f"{branch!r} is not among the branches of {type(self).__name__}"
        if condition:
            self.seen[branch] += 1
            event(branch)


def explore(machine: type[MeasuredMachine], *, examples: int, steps: int) -> Counter[str]:
    """Run the machine, and again with other examples while something was not reached; return how often what was.

    The quick run asks for few examples and for no reach.

    Raises: what an example raises; AssertionError that names the rules and branches no example reached.
    """
    machine.seen.clear()
    count = effort.examples(examples)
    chosen = settings(STEADY, max_examples=count, stateful_step_count=steps, phases=[Phase.generate, Phase.shrink])
    never: list[str] = []
    for number in range(ROUNDS_MAX):
        seed(_first_seed() + number)(machine)
        run_state_machine_as_test(machine, settings=chosen)
        if count < examples:
            return machine.seen
        never = sorted((machine.steps() | machine.branches) - machine.seen.keys())
        if not never:
            return machine.seen
    raise AssertionError(
        f"{machine.__name__}: in {ROUNDS_MAX * examples} examples these were never reached, so nothing is known of "
        f"them: {', '.join(never)}; take more examples, or steps that lead there"
    )


def goes_red(machine: type[MeasuredMachine], *, examples: int, steps: int) -> BaseException | None:
    """Return what the machine finds, not shrunk; None if it finds nothing."""
    chosen = settings(
        STEADY, max_examples=examples, stateful_step_count=steps, phases=[Phase.generate], verbosity=Verbosity.quiet
    )
    seed(_first_seed())(machine)
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:
        return error
    return None


def _first_seed() -> int:
    return int(os.environ.get("PROPERTY_SEED", "0"))
