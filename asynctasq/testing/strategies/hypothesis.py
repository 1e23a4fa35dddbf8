"""What is used of Hypothesis, which is optional: imported here, so that one place reports that it is missing."""

from asynctasq.errors import MissingExtra

try:
    from hypothesis import strategies as st
    from hypothesis.errors import HypothesisException
    from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
    from hypothesis.strategies import SearchStrategy
except ImportError as error:
    raise MissingExtra(
        "asynctasq.testing.strategies and QueueStateMachine need Hypothesis; "
        "install it with: pip install 'asynctasq[testing]'"
    ) from error

__all__ = [
    "Bundle",
    "HypothesisException",
    "RuleBasedStateMachine",
    "SearchStrategy",
    "initialize",
    "invariant",
    "precondition",
    "rule",
    "st",
]
