"""What an operator sees of the schedules in a store, and does to them; works without the application's code."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from asynctasq.codec.schedule import decode_note
from asynctasq.core.schedule_duty import ScheduleStore, all_notes, check_keeps_schedules, note
from asynctasq.core.schedule_messages import ScheduleMessages
from asynctasq.drivers.base import Driver, Enqueued
from asynctasq.errors import CodecError, ConfigError
from asynctasq.kernel.messages import State, StoredMessage
from asynctasq.kernel.schedule import CronRule, ScheduleDefinition, Ticker, ticker_id
from asynctasq.tasks.schedules import next_tick_of

__all__ = ["ScheduleOperator", "ScheduleView"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    """One schedule. Instants are seconds since the epoch.

    `state` is "active", "paused", "not started" (no worker has it yet) or "damaged". `defined`: this code has it.
    """

    name: str
    state: str
    defined: bool
    task: str = ""
    queue: str = ""
    rule: str = ""
    tz: str = ""
    next_at: float | None = None
    last_at: float | None = None


class ScheduleOperator:
    """The schedules in the store of a driver; `defined` are those of the code at hand, by name.

    Raises: UnsupportedFeature if the driver can't keep schedules.
    """

    def __init__(self, driver: Driver, messages: ScheduleMessages, defined: Mapping[str, ScheduleDefinition]) -> None:
        self._store: ScheduleStore = check_keeps_schedules(driver)
        self._messages = messages
        self._defined = defined

    async def views(self) -> list[ScheduleView]:
        """Return all schedules, of the store and of the code, by name.

        Raises: DriverError.
        """
        notes = [decode_note(message.body) for message in await all_notes(self._store)]
        about = [texts for texts in notes if len(texts) == len(("kind", "name"))]
        paused, names = ({name for kind, name in about if kind == wanted} for wanted in ("pause", "name"))
        found = [await self._view(name, name in paused) for name in sorted({*names, *self._defined})]
        return [view for view in found if view is not None]

    async def _view(self, name: str, paused: bool) -> ScheduleView | None:
        stored, defined = await self._store.find(ticker_id(name)), name in self._defined
        if stored is None and not defined:  # it has ended
            return None
        if stored is None:
            return self._shown(Ticker(definition=self._defined[name]), "paused" if paused else "not started", None)
        ticker = self._read(stored)
        if ticker is None:
            return ScheduleView(name=name, state="damaged", defined=defined, queue=stored.queue)
        next_at = ticker.next_at or next_tick_of(ticker.definition.rule)(stored.enqueued_at)
        return self._shown(ticker, "paused" if paused else "active", next_at)

    def _read(self, stored: StoredMessage) -> Ticker | None:
        if stored.state is State.DEAD:
            return None
        try:
            ticker = self._messages.ticker_in(stored.id, stored.queue, stored.body)
            self._messages.template(ticker.definition)
            next_tick_of(ticker.definition.rule)
        except (CodecError, ValueError):  # the latter for a rule that can't be, or a time zone that is not known here
            return None
        return ticker

    def _shown(self, ticker: Ticker, state: str, next_at: float | None) -> ScheduleView:
        definition = ticker.definition
        rule = definition.rule
        return ScheduleView(
            name=definition.name,
            state=state,
            defined=definition.name in self._defined,
            task=self._messages.template(definition).task,
            queue=definition.queue,
            rule=str(rule),
            tz=rule.tz if isinstance(rule, CronRule) else "UTC",
            next_at=next_at,
            last_at=ticker.last_at,
        )

    async def next_ticks(self, name: str, count: int, *, now: float) -> tuple[ScheduleDefinition, list[float]]:
        """Return a schedule and its next instants; `now` counts where no worker has it yet.

        Raises: ConfigError if there is none of that name, DriverError.
        """
        ticker, since = await self._find(name)
        next_tick = next_tick_of(ticker.definition.rule)
        at = ticker.next_at or next_tick(now if since is None else since)
        instants: list[float] = []
        while at is not None and len(instants) < count:
            instants.append(at)
            at = next_tick(at)
        return ticker.definition, instants

    async def run(self, name: str, message_id: str, *, now: float) -> str:
        """Enqueue one message of a schedule's task, now and beside its ticks; return its id.

        That is the id of another one where that holds the unique key of the task.

        Raises: ConfigError if there is none of that name, DriverError.
        """
        ticker, _ = await self._find(name)
        new = await self._store.enqueue([self._messages.run_now(ticker.definition, message_id, now=now)])
        return new.holders.get(message_id, message_id) if isinstance(new, Enqueued) else message_id

    async def pause(self, name: str) -> bool:
        """Let the ticks of a schedule pass by until `resume`, through deploys as well; return whether it ran before.

        Raises: ConfigError if there is none of that name, DriverError.
        """
        await self._find(name)
        return bool(await self._store.enqueue([note("pause", name)]))

    async def resume(self, name: str) -> bool:
        """Let a schedule tick again; what it passed by is not made up for. Return whether it was paused.

        Raises: ConfigError if there is none of that name, DriverError.
        """
        await self._find(name)
        return bool(await self._store.cancel([note("pause", name).id]))

    async def _find(self, name: str) -> tuple[Ticker, float | None]:
        """Return a ticker and when it was enqueued; None if the schedule is only in the code yet."""
        stored = await self._store.find(ticker_id(name))
        ticker = None if stored is None else self._read(stored)
        if stored is not None and ticker is not None:
            return ticker, stored.enqueued_at
        if name in self._defined:
            return Ticker(definition=self._defined[name]), None
        known = [view.name for view in await self.views()]
        nearest = get_close_matches(name, known, 1, 0.3)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known) or 'none'}"
        raise ConfigError(f"there is no schedule {name!r}; {hint}")
