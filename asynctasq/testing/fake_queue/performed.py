"""How one attempt ended that was run by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from asynctasq.core.lanes.process_pool import ChildCrashed
from asynctasq.errors import Retry, Snooze
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Progress, Settlement

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

__all__ = ["Performed"]

_UNRUNNABLE = frozenset(DeadReason) - {DeadReason.FAILED, DeadReason.REJECTED, DeadReason.CRASHED, DeadReason.EXPIRED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed(Generic[R_co]):
    """How one attempt ended: what it returned or raised, and how it would have been settled."""

    value: R_co | None
    exception: BaseException | None
    settlement: Settlement
    progress: Sequence[Progress] = ()
    """What it reported by `report_progress`, in order."""

    @property
    def outcome(self) -> str:
        """What became of it, in the words of `AttemptRecord.outcome`: "succeeded", "failed", "snoozed", ..."""
        settlement = self.settlement
        if isinstance(settlement, Complete):
            return "succeeded"
        if isinstance(settlement, Bury) and settlement.reason is DeadReason.REJECTED:
            return "rejected"
        if isinstance(settlement, Bury) and settlement.reason in _UNRUNNABLE:
            return "unrunnable"
        kinds = {Snooze: "snoozed", Retry: "retryrequested", ChildCrashed: "crashed"}
        return next((name for kind, name in kinds.items() if isinstance(self.exception, kind)), "failed")

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return isinstance(self.settlement, Complete)

    @property
    def failed(self) -> bool:
        """Whether it would be a dead letter now."""
        return isinstance(self.settlement, Bury)

    @property
    def retry_in_s(self) -> float | None:
        """After how many seconds it would run again; None if it would not."""
        return None if isinstance(self.settlement, Complete | Bury) else self.settlement.delay_s
