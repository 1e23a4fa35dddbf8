"""All planted defects, and why those that survive do."""

from typing import Final

from tests.mutants.planted_cancelling import CANCELLING
from tests.mutants.planted_fair import FAIR
from tests.mutants.planted_heldout import HELD_OUT
from tests.mutants.planted_kernel import KERNEL
from tests.mutants.planted_limits import LIMITS
from tests.mutants.planted_memory import MEMORY
from tests.mutants.planted_priority import PRIORITY
from tests.mutants.planted_recorded import RECORDED
from tests.mutants.planted_results import RESULTS
from tests.mutants.planted_schedules import SCHEDULES
from tests.mutants.planted_second_author import SECOND_AUTHOR
from tests.mutants.planted_second_author_rest import SECOND_AUTHOR_REST
from tests.mutants.planted_surroundings import SURROUNDINGS
from tests.mutants.planted_third_author import THIRD_AUTHOR
from tests.mutants.planted_third_author_rest import THIRD_AUTHOR_REST
from tests.mutants.planted_undrawn import UNDRAWN
from tests.mutants.planted_unique import UNIQUE
from tests.mutants.planted_words import WORDS
from tests.mutants.planted_worker import WORKER
from tests.mutants.planting import Mutant

__all__ = ["MUTANTS", "SURVIVORS"]

MUTANTS: Final[dict[str, Mutant]] = {
    mutant.name: mutant
    for mutant in (
        *KERNEL,
        *MEMORY,
        *WORKER,
        *RECORDED,
        *RESULTS,
        *HELD_OUT,
        *UNDRAWN,
        *SCHEDULES,
        *PRIORITY,
        *FAIR,
        *SECOND_AUTHOR,
        *SECOND_AUTHOR_REST,
        *THIRD_AUTHOR,
        *THIRD_AUTHOR_REST,
        *WORDS,
        *SURROUNDINGS,
        *CANCELLING,
        *UNIQUE,
        *LIMITS,
    )
}

SURVIVORS: Final[dict[str, str]] = {
    "lost lease's outcome still settled": "the store compares tokens, so a settlement that should not have been sent "
    "changes nothing; only one that meets the same worker's next lease does harm, under one seed in fifty",
    "interruption decided to be final": "nothing is buried before its hook, and the hook of an interrupted attempt "
    "ends it: the message is handed back whatever was decided",
    "token of a rate limit given back at take": "in a simulation no time passes between the last token and the start; "
    "tests/core/test_limits.py, with middleware that takes its time, finds it",
    "thread without the context": "a simulation runs blocking code in the loop's own thread, where the context is at "
    "hand; tests/core/test_complete_in.py, with real threads, finds it",
}
"""Mutants that can't be found, and why."""
