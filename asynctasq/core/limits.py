"""Runs attempts of tasks with limits: with the tokens of all of them, or not yet."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from asynctasq.core.exception_codec import record_of
from asynctasq.core.in_flight import AttemptRun, InFlightAttempt
from asynctasq.core.limit_lines import RETRY_S, WaitingLines
from asynctasq.core.limit_tokens import HeldToken, TokenStore
from asynctasq.errors import DriverError, UnsupportedFeature
from asynctasq.kernel.limits import LimitRule
from asynctasq.kernel.messages import Release, Settlement
from asynctasq.logs import get_logger
from asynctasq.tasks.mode import Mode

__all__ = ["LimitedAttempts", "TokenHold"]

logger = get_logger(__name__)

T = TypeVar("T")

UNSUPPORTED_RETRY_S = 60.0
"""After how long a message is looked at again whose limits the driver can't keep."""

Start = Callable[[AttemptRun], Awaitable[Settlement | None]]


class TokenHold:
    """The tokens under which one attempt runs, as its lane sees them."""

    def __init__(self, tokens: list[HeldToken], store: TokenStore) -> None:
        self.tokens = tokens
        self._store = store

    async def before(self, code: Coroutine[Any, Any, T], *, enters: bool = False) -> T:
        """Await the coroutine; with `enters`, its first step begins the attempt's own code."""
        try:
            await self._store.renew_late(self.tokens)
        except BaseException:
            code.close()
            raise
        if enters:
            self._started()
        return await code

    def calling(self, execute: Callable[[], T]) -> Callable[[], T]:
        """Return the call that notes its own beginning, in whichever thread."""
        loop = asyncio.get_running_loop()

        def noted() -> T:
            loop.call_soon_threadsafe(self._started)
            return execute()

        return noted

    def _started(self) -> None:
        """Give the tokens of rate limits back. As they are settled after this instant, they are away long enough."""
        self._store.give_back([token for token in self.tokens if token.rule.per_s])
        self.tokens[:] = [token for token in self.tokens if not token.rule.per_s]


class LimitedAttempts:
    """The attempts of one worker that have limits; `lines` are those who wait."""

    def __init__(self, tokens: TokenStore, lines: WaitingLines) -> None:
        self._tokens = tokens
        self.lines = lines

    async def run(self, run: AttemptRun, start: Start) -> Settlement | None:
        """Run an attempt with the tokens of its limits; where one is missing, return how its message waits for it."""
        from asynctasq.tasks.limits import rules_of

        attempt, taken = run.attempt, list[HeldToken]()
        rules = rules_of(run.invocation.definition.limits, run.invocation.envelope.limits)
        given = self.lines.given.pop((attempt.lease.message_id, attempt.lease.token), [])
        try:
            missing = await self._take(attempt, rules, given, taken)
        except BaseException as error:
            self._tokens.give_back_unused(taken)
            if isinstance(error, UnsupportedFeature):
                logger.error("%s is not started: %s", attempt, error)  # noqa: TRY400 - it says all
                return Release(delay_s=UNSUPPORTED_RETRY_S, counted=False, error=record_of(error))
            if isinstance(error, DriverError):
                logger.warning("%s is not started, as its tokens can't be taken: %s", attempt, error)
                return Release(delay_s=RETRY_S, counted=False)
            raise
        if missing is not None:
            self._tokens.give_back_unused(taken)
            return None if attempt.cancel_reason else self.lines.begin(run, missing, rules)
        run.limited = TokenHold(taken, self._tokens)
        try:
            return await start(run)
        finally:
            still_runs = attempt.cancel_reason is not None and run.invocation.definition.mode is Mode.THREAD
            held, taken[:] = list(taken), []
            for token in held:
                self._tokens.let_go(token)
            if not still_runs:
                self._tokens.give_back(held)
                self.lines.woken = True

    async def _take(
        self, attempt: InFlightAttempt, rules: Sequence[LimitRule], given: list[HeldToken], taken: list[HeldToken]
    ) -> LimitRule | None:
        """Take the tokens, those that are given first, always in one order; return the limit that has none free."""
        taken += given
        by_key = {token.rule.key: token for token in given}
        tokens = self._tokens
        for rule in rules:
            if (known := by_key.get(rule.key)) is not None:
                if tokens.is_valid(rule, known.lease):
                    known.rule, known.holder = rule, attempt
                    continue
                taken.remove(known)
                tokens.let_go(known)
            if not given and self.lines.holds(rule, attempt.lease.queue):
                return rule  # behind those who wait
            token = await tokens.take(rule)
            if token is None:
                return rule
            token.holder = attempt
            taken.append(token)
        unused = [token for token in taken if token.holder is None]  # of a limit that the code does not have any more
        tokens.give_back_unused(unused)
        taken[:] = [token for token in taken if token.holder is not None]
        return None

    def end(self, attempt: InFlightAttempt) -> None:
        """Give back the tokens with which the message of an attempt was leased, if it has ended before it took them."""
        self._tokens.give_back_unused(self.lines.given.pop((attempt.lease.message_id, attempt.lease.token), []))
