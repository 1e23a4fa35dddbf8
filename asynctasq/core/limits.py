"""Runs attempts of tasks with limits: with the tokens of all of them, or not yet.

An attempt for which a token is missing does not begin. Its message is released for long, uncounted, and in the same
step a note that it waits is stored, in a queue of that limit. Workers that know of such a queue wait for tokens as they
wait for work; who gets one takes the first note and leases its message again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from asynctasq.clock import Clock
from asynctasq.codec.envelope import encode_envelope
from asynctasq.codec.limited import Wait, decode_look, decode_wait, encode_look, encode_wait
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.exception_codec import record_of
from asynctasq.core.in_flight import AttemptRun, CancelReason, InFlightAttempt
from asynctasq.core.leases import LeaseRenewer
from asynctasq.core.limit_tokens import HeldToken, LimitStore, SettleLater, TokenStore, check_keeps_limits, living
from asynctasq.drivers.base import Driver
from asynctasq.errors import CodecError, DriverError, UnsupportedFeature
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.limits import (
    LIMIT_TASK,
    LimitRule,
    look_delay_s,
    look_id,
    token_lease_s,
    token_queue,
    wait_id,
    wait_s,
    waiting_queue,
)
from asynctasq.kernel.messages import Bury, Complete, DeadReason, Lease, Message, Release, Settlement
from asynctasq.kernel.retry import Fixed, RandomSource
from asynctasq.logs import get_logger
from asynctasq.tasks.mode import Mode

__all__ = ["LimitedAttempts", "TokenHold"]

logger = get_logger(__name__)

T = TypeVar("T")

RETRY_S = 5.0
"""After how long what the backend refused is tried again."""
UNSUPPORTED_RETRY_S = 60.0
"""After how long a message is looked at again whose limits the driver can't keep."""
LINES_MAX = 200
"""In how many queues of waiting messages a worker takes part at once; of others it is told again later."""
MOVED_MAX = 100
"""How many messages are looked at in one go that need another token, too, which is not free."""
BUSY_LOOK_S = 0.1
"""How often a worker that has always work, and so does not wait, looks for tokens of those who wait."""

Start = Callable[[AttemptRun], Awaitable[Settlement | None]]


@dataclass(slots=True)
class _Line:
    """The messages of one queue that wait for a token of one limit; `look` makes them known to other workers."""

    rule: LimitRule
    queue: str
    tokens: str
    notes: str
    look: Message


class TokenHold:
    """The tokens under which one attempt runs, as its lane sees them."""

    def __init__(self, tokens: list[HeldToken], keeper: "LimitedAttempts") -> None:
        self.tokens = tokens
        self._keeper = keeper

    async def entering(self, code: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine, whose first step begins the attempt's own code."""
        try:
            await self._keeper.renew_late(self.tokens)
        except BaseException:
            code.close()
            raise
        self._started()
        return await code

    async def before(self, code: Coroutine[Any, Any, T]) -> T:
        """Await the coroutine, which calls what `calling` has returned."""
        try:
            await self._keeper.renew_late(self.tokens)
        except BaseException:
            code.close()
            raise
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
        self._keeper.give_back([token for token in self.tokens if token.rule.per_s])
        self.tokens[:] = [token for token in self.tokens if not token.rule.per_s]


class LimitedAttempts:
    """The limits of one worker's attempts, and the lines of waiting messages that it knows.

    `settle_later` settles with the worker's next call; `on_line` is called when there is one more line to wait for.
    """

    def __init__(  # noqa: PLR0913 - what a worker is made of
        self,
        driver: Driver,
        renewer: LeaseRenewer,
        *,
        lease_s: float,
        clock: Clock,
        rng: RandomSource,
        keys: SigningKeys | None,
        body_limits: Limits,
        settle_later: SettleLater,
        on_line: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._renewer = renewer
        self._lease_s = lease_s
        self._clock = clock
        self._rng = rng
        self._keys = keys
        self._body_limits = body_limits
        self._settle_later = settle_later
        self._on_line = on_line
        self._kept: tuple[LimitStore, TokenStore] | None = None
        self._given: dict[str, list[HeldToken]] = {}
        """The tokens that messages were leased for which had waited."""
        self.lines: dict[str, _Line] = {}
        """By the queue of the notes."""
        self.waiting: dict[str, _Line] = {}
        """The messages whose wait is not settled yet."""
        self.woken = False
        """Whether there may be tokens."""
        self._look_at = self._pause_until = 0.0
        self._moved = 0
        """How many notes were moved to other lines, since another token was missing."""

    def forget(self) -> None:
        """Begin anew, with a worker that starts."""
        self.lines.clear()
        self.waiting.clear()
        self._given.clear()

    def _stores(self) -> tuple[LimitStore, TokenStore]:
        if self._kept is None:
            store, clock = check_keeps_limits(self._driver), self._clock
            tokens = TokenStore(store, lease_s=self._lease_s, clock=clock, settle_later=self._settle_later)
            self._kept = store, tokens
        return self._kept

    # -- attempts ----------------------------------------------------------------------------------

    async def run(self, run: AttemptRun, start: Start) -> Settlement | None:
        """Run an attempt with the tokens of its limits; where one is missing, return how its message waits for it."""
        from asynctasq.tasks.limits import rules_of

        attempt, taken = run.attempt, list[HeldToken]()
        rules = rules_of(run.invocation.definition.limits, run.invocation.envelope.limits)
        given = self._given.pop(attempt.lease.message_id, [])
        try:
            missing = await self._take(attempt, rules, given, taken)
        except BaseException as error:
            self._give_back_unused(taken)
            if isinstance(error, UnsupportedFeature):
                logger.error("%s is not started: %s", attempt, error)  # noqa: TRY400 - it says all
                return Release(delay_s=UNSUPPORTED_RETRY_S, counted=False, error=record_of(error))
            if isinstance(error, DriverError):
                logger.warning("%s is not started, as its tokens can't be taken: %s", attempt, error)
                return Release(delay_s=RETRY_S, counted=False)
            raise
        if missing is not None:
            self._give_back_unused(taken)
            return None if attempt.cancel_reason else self._wait(run, missing, rules)
        run.limited = TokenHold(taken, self)
        try:
            return await start(run)
        finally:
            still_runs = attempt.cancel_reason is not None and run.invocation.definition.mode is Mode.THREAD
            held, taken[:] = list(taken), []
            for token in held:
                self._renewer.remove(token)
            if not still_runs:
                self.give_back(held)

    async def _take(
        self, attempt: InFlightAttempt, rules: Sequence[LimitRule], given: list[HeldToken], taken: list[HeldToken]
    ) -> LimitRule | None:
        """Take the tokens, those that are given first, always in one order; return the limit that has none free."""
        taken += given
        by_key = {token.rule.key: token for token in given}
        _, tokens = self._stores()
        for rule in rules:
            if (known := by_key.get(rule.key)) is not None:
                if tokens.is_valid(rule, known.lease):
                    known.rule, known.holder = rule, attempt
                    continue
                taken.remove(known)
                self._renewer.remove(known)
            if not given and waiting_queue(rule, attempt.lease.queue) in self.lines:
                return rule  # behind those who wait
            token = await tokens.take(rule)
            if token is None:
                return rule
            token.holder = attempt
            taken.append(token)
            self._renewer.add(token)
        unused = [token for token in taken if token.holder is None]  # of a limit that the code does not have any more
        self._give_back_unused(unused)
        taken[:] = [token for token in taken if token.holder is not None]
        return None

    def _wait(self, run: AttemptRun, rule: LimitRule, rules: Sequence[LimitRule]) -> Release:
        lease, expires_s = run.attempt.lease, run.invocation.envelope.expires_s
        line = self._line(rule, lease.queue)
        self.waiting[lease.message_id] = line
        body = encode_wait(Wait(lease.message_id, lease.token, tuple(rules)))
        note = Message(id=wait_id(lease.message_id, lease.token), queue=line.notes, body=body)
        age_s = lease.expires_at - self._lease_s - lease.enqueued_at
        delay_s = wait_s(age_s=age_s, expires_s=expires_s)
        return Release(delay_s=delay_s, counted=False, follow_ups=(note, line.look))

    async def renew_late(self, tokens: Sequence[HeldToken]) -> None:
        """Renew the tokens of rate limits of an attempt that starts late: they must not come back too early.

        Raises: DriverError, CancelledError for tokens that are lost.
        """
        now = self._clock.monotonic()
        for token in tokens:
            if token.rule.per_s and now >= token.start_by:
                lease_s = token_lease_s(token.rule, self._lease_s)
                if await self._driver.extend([token.lease], lease_s=lease_s):
                    assert token.holder is not None, "it is that of an attempt"
                    token.holder.cancel_reason = token.holder.cancel_reason or CancelReason.LIMIT_LOST
                    raise asyncio.CancelledError
                token.deadline, token.start_by = now + lease_s, now + self._lease_s

    def give_back(self, tokens: Sequence[HeldToken]) -> None:
        """Give back the tokens of an attempt that has ended, or of rate limits once it has started."""
        for token in tokens:
            self._renewer.remove(token)
            self._settle_later(token.lease, Release(delay_s=token.rule.per_s, counted=False))
            self.woken = self.woken or not token.rule.per_s

    def _give_back_unused(self, tokens: Sequence[HeldToken]) -> None:
        for token in tokens:
            self._renewer.remove(token)
            self._settle_later(token.lease, Release(counted=False))

    def not_begun(self, attempt: InFlightAttempt) -> None:
        """Give back the token for which a message was leased whose attempt never begins."""
        self._give_back_unused(self._given.pop(attempt.lease.message_id, []))

    # -- who waits ---------------------------------------------------------------------------------

    def _line(self, rule: LimitRule, queue: str) -> _Line:
        """Return the line of a limit as this worker's code has it."""
        notes = waiting_queue(rule, queue)
        line = self.lines.get(notes)
        if line is None or line.rule != rule:
            line = _Line(rule, queue, token_queue(rule), notes, self._look_message(rule, queue, look_delay_s(0)))
            if notes in self.lines:
                self.lines[notes] = line
        return line

    def _look_message(self, rule: LimitRule, queue: str, delay_s: float) -> Message:
        known, no_retry = look_id(rule, queue), Fixed(delay_s=0.0)
        envelope = Envelope(
            task=LIMIT_TASK, arguments=encode_look(rule), max_attempts=1, retry=no_retry, dispatched_at=0.0
        )
        body = encode_envelope(envelope, key=self._keys, limits=self._body_limits, belongs_to=(known, queue))
        return Message(id=known, queue=queue, body=body, delay_s=delay_s)

    def settled(self, settlements: Sequence[tuple[Lease, Settlement]]) -> int:
        """Take part in the lines of the messages that wait from now on; return how many do."""
        count = 0
        for lease, _ in settlements:
            if (line := self.waiting.pop(lease.message_id, None)) is not None:
                count += 1
                self._add(line)
        return count

    def _add(self, line: _Line) -> None:
        self.woken = True
        if line.notes not in self.lines and len(self.lines) < LINES_MAX:
            self.lines[line.notes] = line
            self._on_line()

    async def look(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement:
        """Learn that messages wait, and let another worker learn it later; end that where none waits any more."""
        lease = attempt.lease
        attempt.task_name = "limit"
        try:
            rule = decode_look(envelope.arguments)
            if look_id(rule, lease.queue) != lease.message_id:
                raise CodecError("it is not about the limit that it names")
            store, tokens = self._stores()
            line = self.lines.get(waiting_queue(rule, lease.queue)) or self._line(rule, lease.queue)
            if not living(await store.depth(line.notes)):
                self.lines.pop(line.notes, None)
                return Complete()
            await tokens.plant(line.rule)
        except CodecError as error:
            logger.error("message %s tells of no limit: %s", lease.message_id, error)  # noqa: TRY400 - it says all
            return Bury(reason=DeadReason.UNDECODABLE, error=record_of(error))
        except DriverError as error:
            logger.warning("who waits for a limit can't be looked up, trying again in %g s: %s", RETRY_S, error)
            return Release(delay_s=RETRY_S, counted=False)
        self._add(line)
        delay_s = look_delay_s(lease.attempt)
        if line.rule != rule:
            return Complete(follow_ups=(replace(line.look, delay_s=delay_s),))
        return Release(delay_s=delay_s, counted=True)

    def token_queues(self) -> list[str]:
        """Return the queues of tokens to wait for: none for a moment after tokens were free that did no good alone."""
        if self._clock.monotonic() < self._pause_until:
            return []
        return list(dict.fromkeys(line.tokens for line in self.lines.values()))

    def is_due(self) -> bool:
        """Return whether it is time to look for tokens."""
        now = self._clock.monotonic()
        return now >= self._pause_until and (self.woken or now >= self._look_at)

    async def start_waiting(self, room: int) -> list[Lease]:
        """Take up to `room` tokens, and as many messages that wait for them; return the leases of the messages.

        Raises: DriverError if there is no lease to return.
        """
        self.woken, started = False, list[Lease]()
        by_period: dict[float, list[_Line]] = {}
        for line in self.lines.values():
            by_period.setdefault(line.rule.per_s, []).append(line)
        try:
            for lines in by_period.values():
                if len(started) < room:
                    await self._start_lines(lines, room - len(started), started)
                else:
                    self.woken = True
        except DriverError as error:
            if not started:
                raise
            logger.warning("those who wait for tokens can't be looked up: %s", error)
        self._look_at = self._clock.monotonic() + BUSY_LOOK_S
        if self._moved:
            self._pause()
        return started

    def _pause(self) -> None:
        """Leave the tokens alone for a moment: several workers may take them from each other, each one of two."""
        self._moved = 0
        pause_s = BUSY_LOOK_S * (1 + self._rng.random())
        self._pause_until = self._clock.monotonic() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self._go_on)

    def _go_on(self) -> None:
        self.woken = True
        self._on_line()

    async def _start_lines(self, lines: Sequence[_Line], room: int, started: list[Lease]) -> None:
        """Do it for lines whose tokens are leased for the same time."""
        store, tokens = self._stores()
        by_queue: dict[str, list[_Line]] = {}
        for line in lines:
            by_queue.setdefault(line.tokens, []).append(line)
        asked_at, lease_s = self._clock.monotonic(), token_lease_s(lines[0].rule, self._lease_s)
        _, leases = await store.turn((), list(by_queue), limit=room, lease_s=lease_s)
        self.woken = self.woken or len(leases) == room
        free: dict[str, list[HeldToken]] = {}
        for lease in leases:
            if (token := tokens.held(by_queue[lease.queue][0].rule, lease, asked_at)) is not None:
                free.setdefault(lease.queue, []).append(token)
        try:
            for queue, found in free.items():
                for line in by_queue[queue]:
                    await self._start_line(store, line, found, started)
        finally:
            self._give_back_unused([token for found in free.values() for token in found])
        for line in (line for queue in free for line in by_queue[queue]):
            if self.lines.pop(line.notes, None) is not None:
                self.lines[line.notes] = line  # the others have the first choice next time

    async def _start_line(self, store: LimitStore, line: _Line, found: list[HeldToken], started: list[Lease]) -> None:
        """Start those who are first in a line with the tokens found; leave in `found` what is not needed."""
        while found and self._moved < MOVED_MAX:
            notes = await store.reserve([line.notes], limit=len(found), lease_s=self._lease_s)
            if not notes:
                self.lines.pop(line.notes, None)
                return
            ready: dict[str, tuple[Lease, list[HeldToken]]] = {}
            left = list(notes)
            try:
                for note in notes:
                    if await self._prepare(line, note, found, ready):
                        left.remove(note)
                granted = await store.reserve_released([lease for lease, _ in ready.values()], lease_s=self._lease_s)
                for lease in granted:  # of two notes about one message, one is outdated
                    known = next(one for one, (wanted, _) in ready.items() if wanted.message_id == lease.message_id)
                    self._given[lease.message_id] = ready.pop(known)[1]
                    started.append(lease)
                while left:
                    self._settle_later(left.pop(), Complete())
            finally:
                self._give_back_unused([token for _, held in ready.values() for token in held])
                for note in left:  # what the backend refused did not happen, or its lease runs out
                    self._settle_later(note, Release(counted=False))

    async def _prepare(
        self, line: _Line, note: Lease, found: list[HeldToken], ready: dict[str, tuple[Lease, list[HeldToken]]]
    ) -> bool:
        """Take all tokens that a message needs; if one is not free, move its note to that line, and return True."""
        wait = decode_wait(note.body)
        if wait is None:
            return False
        held, missing = [found.pop(0)], None
        self._renewer.add(held[0])
        _, tokens = self._stores()
        try:
            for rule in wait.rules:
                if rule.key != line.rule.key and missing is None:
                    if (token := await tokens.take(rule)) is None:
                        missing = rule
                    else:
                        self._renewer.add(token)
                        held.append(token)
        except BaseException:
            self._give_back_unused(held)
            raise
        if missing is None:
            ready[note.message_id] = replace(note, message_id=wait.message_id, token=wait.token), held
            return False
        self._renewer.remove(held[0])
        found.append(held[0])
        self._give_back_unused(held[1:])
        other = self._line(missing, line.queue)
        moved = Message(id=note.message_id, queue=other.notes, body=note.body)
        self._settle_later(note, Complete(follow_ups=(moved, other.look)))
        self._moved += 1
        self._add(other)
        return True
