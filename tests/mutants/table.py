"""All planted defects, and why those that survive do."""

from typing import Final

from tests.mutants.planted_heldout import HELD_OUT
from tests.mutants.planted_kernel import KERNEL
from tests.mutants.planted_memory import MEMORY
from tests.mutants.planted_recorded import RECORDED
from tests.mutants.planted_secondhand import SECOND_HAND
from tests.mutants.planted_secondrest import SECOND_REST
from tests.mutants.planted_third import THIRD
from tests.mutants.planted_thirdrest import THIRD_REST
from tests.mutants.planted_undrawn import UNDRAWN
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
        *HELD_OUT,
        *UNDRAWN,
        *SECOND_HAND,
        *SECOND_REST,
        *THIRD,
        *THIRD_REST,
    )
}

SURVIVORS: Final[dict[str, str]] = {
    "lost lease's outcome still settled": "the store compares tokens, so a settlement that should not have been sent "
    "changes nothing; only one that meets the same worker's next lease does harm, under one seed in fifty",
    "interruption decided to be final": "nothing is buried before its hook, and the hook of an interrupted attempt "
    "ends it: the message is handed back whatever was decided",
    "thread without the context": "a simulation runs blocking code in the loop's own thread, where the context is at "
    "hand; tests/core/test_complete_in.py, with real threads, finds it",
}
"""Mutants that can't be found, and why."""
