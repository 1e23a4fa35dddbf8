"""The lines of messages that wait for tokens of limits, as one worker knows them.

A message waits in its own queue, released for long. A note about it lies in a queue of its limit: those notes are a
line. Workers that know of it wait for tokens as they wait for work; who gets one leases the first message again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from asynctasq.codec.envelope import encode_envelope
from asynctasq.codec.limited import Wait, decode_look, decode_wait, encode_look, encode_wait
from asynctasq.codec.limits import Limits
from asynctasq.codec.signing import SigningKeys
from asynctasq.core.exception_codec import record_of
from asynctasq.core.in_flight import AttemptRun, InFlightAttempt
from asynctasq.core.limit_tokens import HeldToken, LimitStore, TokenStore, living
from asynctasq.errors import CodecError, DriverError
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.limits import (
    LIMIT_TASK,
    LimitRule,
    is_wait_id,
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

__all__ = ["RETRY_S", "WaitingLines"]

logger = get_logger(__name__)

RETRY_S = 5.0
"""After how long what the backend refused is tried again."""
LINES_MAX = 200
"""In how many lines a worker takes part at once; of others it is told again later."""
MOVED_MAX = 100
"""How many messages are looked at in one go that need another token, too, which is not free."""
BUSY_LOOK_S = 0.1
"""How often a worker that has always work, and so does not wait, looks for tokens of those who wait."""

Ready = dict[str, tuple[Lease, list[HeldToken]]]
"""By the id of its note: a message that waits, as `reserve_released` takes it, and the tokens for it."""


@dataclass(slots=True)
class _Line:
    """The messages of one queue that wait for a token of one limit; `look` makes them known to other workers."""

    rule: LimitRule
    queue: str
    tokens: str
    notes: str
    look: Message


class WaitingLines:
    """The lines that one worker takes part in. `on_line` is called when there is one more to wait for."""

    def __init__(
        self,
        tokens: TokenStore,
        *,
        rng: RandomSource,
        keys: SigningKeys | None,
        body_limits: Limits,
        on_line: Callable[[], None],
    ) -> None:
        self._tokens = tokens
        self._lease_s = tokens.lease_s
        self._clock = tokens.clock
        self._rng = rng
        self._keys = keys
        self._body_limits = body_limits
        self._on_line = on_line
        self.known: dict[str, _Line] = {}
        """By the queue of the notes."""
        self.beginning: dict[str, _Line] = {}
        """The lines that settlements to come concern, by message: it begins to wait, or its note moves."""
        self.given: dict[tuple[str, str], list[HeldToken]] = {}
        """The tokens with which messages were leased that had waited, by id and token of these leases."""
        self.woken = False
        """Whether there may be tokens."""
        self._look_at = self._pause_until = 0.0
        self._moved = 0
        """How many notes were moved to other lines, since another token was missing."""

    def forget(self) -> None:
        """Begin anew, with a worker that starts."""
        self.known.clear()
        self.beginning.clear()
        self.given.clear()

    def holds(self, rule: LimitRule, queue: str) -> bool:
        """Return whether messages of a queue are known to wait for this limit."""
        return waiting_queue(rule, queue) in self.known

    def begin(self, run: AttemptRun, rule: LimitRule, rules: Sequence[LimitRule]) -> Release:
        """Return the settlement by which a message begins to wait for a token of a limit."""
        lease, expires_s = run.attempt.lease, run.invocation.envelope.expires_s
        line = self._line(rule, lease.queue)
        self.beginning[lease.message_id] = line
        body = encode_wait(Wait(lease.message_id, lease.token, tuple(rules)))
        note = Message(id=wait_id(lease.message_id, lease.token), queue=line.notes, body=body)
        age_s = lease.expires_at - self._lease_s - lease.enqueued_at
        delay_s = wait_s(age_s=age_s, expires_s=expires_s)
        return Release(delay_s=delay_s, counted=False, follow_ups=(note, line.look))

    def _line(self, rule: LimitRule, queue: str) -> _Line:
        """Return the line of a limit as this worker's code has it."""
        notes = waiting_queue(rule, queue)
        line = self.known.get(notes)
        if line is None or line.rule != rule:
            line = _Line(rule, queue, token_queue(rule), notes, self._look_message(rule, queue, look_delay_s(0)))
            if notes in self.known:
                self.known[notes] = line
        return line

    def _look_message(self, rule: LimitRule, queue: str, delay_s: float) -> Message:
        known, no_retry = look_id(rule, queue), Fixed(delay_s=0.0)
        envelope = Envelope(
            task=LIMIT_TASK, arguments=encode_look(rule), max_attempts=1, retry=no_retry, dispatched_at=0.0
        )
        body = encode_envelope(envelope, key=self._keys, limits=self._body_limits, belongs_to=(known, queue))
        return Message(id=known, queue=queue, body=body, delay_s=delay_s)

    def settled(self, settlements: Sequence[tuple[Lease, Settlement]]) -> int:
        """Take part in the lines of what waits from now on; return how many attempts did not begin."""
        count = 0
        for lease, _ in settlements:
            if (line := self.beginning.pop(lease.message_id, None)) is not None:
                count += not is_wait_id(lease.message_id)
                self._add(line)
        return count

    def _add(self, line: _Line) -> None:
        self.woken = True
        if line.notes not in self.known and len(self.known) < LINES_MAX:
            self.known[line.notes] = line
            self._on_line()

    async def look(self, attempt: InFlightAttempt, envelope: Envelope) -> Settlement:
        """Learn that messages wait, and let another worker learn it later; end that where none waits any more."""
        lease = attempt.lease
        attempt.task_name = "limit"
        try:
            rule = decode_look(envelope.arguments)
            if look_id(rule, lease.queue) != lease.message_id:
                raise CodecError("it is not about the limit that it names")
            store, tokens = self._tokens.store, self._tokens
            line = self.known.get(waiting_queue(rule, lease.queue)) or self._line(rule, lease.queue)
            if not living(await store.depth(line.notes)):
                return await self._end_look(store, line, attempt)
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

    async def _end_look(self, store: LimitStore, line: _Line, attempt: InFlightAttempt) -> Complete:
        """End a look that has found nobody; store it anew for a note that came meanwhile and relied on it.

        Raises: DriverError if it could not be ended.
        """
        self.known.pop(line.notes, None)
        lost = await store.settle([(attempt.lease, Complete())])
        attempt.settled_in_transaction = not lost
        try:
            if not lost and living(await store.depth(line.notes)):
                await store.enqueue([line.look])
        except DriverError as error:
            logger.warning("who waits for a limit can't be looked up: %s", error)
            self._add(line)
        return Complete()

    def token_queues(self) -> list[str]:
        """Return the queues of tokens to wait for: none for a moment after tokens were free that did no good alone."""
        if self._clock.monotonic() < self._pause_until:
            return []
        return list(dict.fromkeys(line.tokens for line in self.known.values()))

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
        for line in self.known.values():
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
        store, tokens = self._tokens.store, self._tokens
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
            self._tokens.give_back_unused([token for found in free.values() for token in found])
        for line in (line for queue in free for line in by_queue[queue]):
            if self.known.pop(line.notes, None) is not None:
                self.known[line.notes] = line  # the others have the first choice next time

    async def _start_line(self, store: LimitStore, line: _Line, found: list[HeldToken], started: list[Lease]) -> None:
        """Start those who are first in a line with the tokens found; leave in `found` what is not needed."""
        while found and self._moved < MOVED_MAX:
            notes = await store.reserve([line.notes], limit=len(found), lease_s=self._lease_s)
            if not notes:
                self.known.pop(line.notes, None)
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
                    self.given[lease.message_id, lease.token] = ready.pop(known)[1]
                    started.append(lease)
                while left:
                    self._tokens.settle_later(left.pop(), Complete())
            finally:
                self._tokens.give_back_unused([token for _, held in ready.values() for token in held])
                for note in left:  # what the backend refused did not happen, or its lease runs out
                    self._tokens.settle_later(note, Release(counted=False))

    async def _prepare(
        self, line: _Line, note: Lease, found: list[HeldToken], ready: dict[str, tuple[Lease, list[HeldToken]]]
    ) -> bool:
        """Take all tokens that a message needs; if one is not free, move its note to that line, and return True."""
        wait = decode_wait(note.body)
        if wait is None:
            return False
        held, missing = [found.pop(0)], None
        tokens = self._tokens
        tokens.hold(held[0])
        try:
            for rule in wait.rules:
                if rule.key != line.rule.key and missing is None:
                    if (token := await tokens.take(rule)) is None:
                        missing = rule
                    else:
                        held.append(token)
        except BaseException:
            self._tokens.give_back_unused(held)
            raise
        if missing is None:
            ready[note.message_id] = replace(note, message_id=wait.message_id, token=wait.token), held
            return False
        tokens.let_go(held[0])
        found.append(held[0])
        self._tokens.give_back_unused(held[1:])
        other = self.known.get(waiting_queue(missing, line.queue)) or self._line(missing, line.queue)
        moved = Message(id=note.message_id, queue=other.notes, body=note.body)
        self._tokens.settle_later(note, Complete(follow_ups=(moved, other.look)))
        self._moved += 1
        self.beginning[note.message_id] = other  # not before it is stored: a line without notes is forgotten
        return True
