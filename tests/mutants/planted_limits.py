"""Defects of limits: exceeded at once or in a window, tokens that are lost, and tasks that wait too long."""

from dataclasses import replace
from typing import Any

from asynctasq.core import limit_lines as limit_lines_module
from asynctasq.core import limit_tokens as limit_tokens_module
from asynctasq.core.leases import LoopLeaseRenewer
from asynctasq.core.limit_lines import WaitingLines
from asynctasq.core.limit_tokens import HeldToken, TokenStore
from asynctasq.core.limits import LimitedAttempts
from asynctasq.kernel.limits import LimitRule
from asynctasq.kernel.messages import Release
from asynctasq.testing.engine.worker_driver import current_worker_driver
from tests.mutants.planting import Change, Mutant, planter

__all__ = ["LIMITS"]

LIMITS: list[Mutant] = []
_plant = planter(LIMITS)


@_plant(TokenStore, "give_back", "rate limit by fixed window", "twice as many start around the end of a window")
def _fixed_window(_original: Any) -> Any:
    def give_back(self: Any, tokens: Any) -> None:
        for token in tokens:
            self._renewer.remove(token)
            per_s = token.rule.per_s
            delay_s = per_s - self.clock.now() % per_s if per_s else 0.0
            self.settle_later(token.lease, Release(delay_s=delay_s, counted=False))

    return give_back


@_plant(
    TokenStore, "take", "token of a rate limit given back at take", "an attempt that starts late is forgotten early"
)
def _at_take(original: Any) -> Any:
    async def take(self: Any, rule: Any) -> Any:
        token = await original(self, rule)
        if token is not None and rule.per_s:
            await self.store.settle([(token.lease, Release(delay_s=rule.per_s, counted=False))])
        return token

    return take


@_plant(LoopLeaseRenewer, "add", "token not renewed", "a long attempt is joined by one more")
def _not_renewed(original: Any) -> Any:
    return lambda self, attempt: None if isinstance(attempt, HeldToken) else original(self, attempt)


@_plant(limit_tokens_module, "token_index", "token above the new number kept", "a smaller limit never counts")
def _any_index(_original: Any) -> Any:
    return lambda rule, message_id: int(message_id.rpartition(":")[2])


@_plant(LimitRule, "key", "limit counted per worker", "each worker more is one limit more")
def _per_worker(original: Any) -> Any:
    def key(self: Any) -> tuple[str, str]:
        driver = current_worker_driver.get()
        kind, text = original.fget(self)
        return kind, text if driver is None else f"{text} {driver.worker}"

    return property(key)


@_plant(WaitingLines, "begin", "who waits leaves no note", "nobody calls it before an hour has passed")
def _no_note(original: Any) -> Any:
    def wait(self: Any, run: Any, rule: Any, rules: Any) -> Any:
        release = original(self, run, rule, rules)
        return replace(release, follow_ups=release.follow_ups[1:])

    return wait


@_plant(WaitingLines, "begin", "other workers are not told who waits", "with the one that knows all wait")
def _no_look(original: Any) -> Any:
    def wait(self: Any, run: Any, rule: Any, rules: Any) -> Any:
        release = original(self, run, rule, rules)
        return replace(release, follow_ups=release.follow_ups[:1])

    return wait


@_plant(WaitingLines, "begin", "a wait counted as an attempt", "a task that waited has attempts less")
def _counted(original: Any) -> Any:
    return lambda self, run, rule, rules: replace(original(self, run, rule, rules), counted=True)


@_plant(TokenStore, "give_back", "token kept after the attempt", "a limit lets in so many, and then nobody")
def _kept(original: Any) -> Any:
    return lambda self, tokens: original(self, [token for token in tokens if token.rule.per_s])


@_plant(TokenStore, "give_back_unused", "first token kept when the second is not free", "two limits block each other")
def _held_on(_original: Any) -> Any:
    return lambda self, tokens: None


@_plant(LimitedAttempts, "_take", "token of who had waited forgotten", "it needs one more, and the first is lost")
def _forgotten(original: Any) -> Any:
    return lambda self, attempt, rules, given, taken: original(self, attempt, rules, [], taken)


@_plant(WaitingLines, "_add", "lines are not remembered", "free tokens are not noticed by who could use them")
def _forgetful(_original: Any) -> Any:
    return lambda self, line: None


@_plant(WaitingLines, "_start_line", "notes of who waited stay", "they are worked through again for ever")
def _notes_stay(original: Any) -> Any:
    async def start_line(self: Any, store: Any, line: Any, found: Any, started: Any) -> None:
        settle_later, self._tokens.settle_later = self._tokens.settle_later, lambda lease, settlement: None
        try:
            await original(self, store, line, found, started)
        finally:
            self._tokens.settle_later = settle_later

    return start_line


def _lease_alone(_original: Any) -> Any:
    return lambda rule, lease_s: lease_s


LIMITS.append(
    Mutant(
        name="token of a dead worker back before its time",
        breaks="a rate limit is exceeded after a crash",
        changes=(
            Change(owner=limit_tokens_module, name="token_lease_s", make=_lease_alone),
            Change(owner=limit_lines_module, name="token_lease_s", make=_lease_alone),
        ),
    )
)
