"""Hypothesis strategies for what a queue deals with; the names below are for users."""

from asynctasq.testing.strategies.dispatches import (
    FAULT_KINDS,
    NoStrategy,
    TaskSource,
    delays,
    fault_plans,
    faults,
    messages,
    retry_policies,
    task_arguments,
    tasks,
)

__all__ = [
    "FAULT_KINDS",
    "NoStrategy",
    "TaskSource",
    "delays",
    "fault_plans",
    "faults",
    "messages",
    "retry_policies",
    "task_arguments",
    "tasks",
]
