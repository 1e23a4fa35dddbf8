"""Defects of schedules: doubled and lost ticks, wrong clocks, and what a deploy may spoil."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from asynctasq.codec.schedule import decode_note
from asynctasq.core import schedule_duty as schedule_duty_module
from asynctasq.core import schedule_messages as schedule_messages_module
from asynctasq.core import tickers as tickers_module
from asynctasq.core.schedule_messages import ScheduleMessages
from asynctasq.core.tickers import Tickers, pause_id
from asynctasq.kernel import schedule as schedule_module
from asynctasq.kernel.messages import Complete
from asynctasq.kernel.schedule import CronRule, Ticker, derived_id
from asynctasq.tasks import schedules as schedules_module
from tests.mutants.planting import Mutant, planter

__all__ = ["SCHEDULES"]

SCHEDULES: list[Mutant] = []
_plant = planter(SCHEDULES)


# -- ticks ---------------------------------------------------------------------------------------


@_plant(Tickers, "_settlement", "tick doubled at takeover", "who takes over a ticker runs what was run already")
def _enqueue_first(original: Any) -> Any:
    async def settlement(self: Any, lease: Any, ticker: Any) -> Any:
        right = await original(self, lease, ticker)
        if not isinstance(right, Complete) or len(right.follow_ups) < 2:
            return right
        *runs, going_on = right.follow_ups
        await self._driver.enqueue([replace(run, id=f"{run.id[:-8]}{lease.token:>08}"[-36:]) for run in runs])
        return replace(right, follow_ups=(going_on,))

    return settlement


@_plant(Tickers, "_settlement", "next tick computed from the worker's clock", "a clock that is ahead runs ticks early")
def _own_clock(original: Any) -> Any:
    return lambda self, lease, ticker: original(self, replace(lease, expires_at=lease.expires_at + 3600), ticker)


@_plant(schedule_module, "_due", "misfire policies swapped", "what was missed runs each time, or once")
def _swap(original: Any) -> Any:
    swapped = {"run_once": "run_all", "run_all": "run_once", "skip": "skip"}
    return lambda misfire, *rest: original(swapped[misfire], *rest)


@_plant(schedule_module, "MISFIRE_AFTER_S", "skip makes up for late ticks", "what should be left out runs hours late")
def _never_late(original: float) -> float:
    return original * 1_000


@_plant(tickers_module, "plan_ticks", "jitter before the instant", "a tick may run before it is due")
def _too_early(original: Any) -> Any:
    def plan_ticks(ticker: Ticker, *, now: float, **given: Any) -> Any:
        jitter_s = ticker.definition.jitter_s
        return original(ticker, now=now + jitter_s / 2, **given)

    return plan_ticks


@_plant(schedule_module, "jitter_of", "jitter of a schedule forgotten", "all that is due at midnight runs at midnight")
def _no_jitter(original: Any) -> Any:
    return lambda name, nominal_at, jitter_s: 0.0 * original(name, nominal_at, jitter_s)


@_plant(schedules_module, "_next_of_cron", "daylight saving gap skipped", "one night a year the task is not run")
def _skip_gap(original: Any) -> Any:
    def next_of_cron(rule: Any) -> Any:
        next_tick = original(rule)

        def skipping(after: float) -> Any:
            at = next_tick(after)
            if isinstance(rule, CronRule) and at is not None:
                hour = rule.expression.split()[1]
                if hour.isdigit() and datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(rule.tz)).hour != int(hour):
                    return next_tick(at)
            return at

        return skipping

    return next_of_cron


@_plant(tickers_module, "plan_ticks", "ticker counts from when it is run", "a tick that became due meanwhile is lost")
def _from_now(original: Any) -> Any:
    def plan_ticks(ticker: Ticker, *, now: float, enqueued_at: float, **given: Any) -> Any:
        fresh = replace(ticker, next_at=None) if ticker.next_at is not None and now > ticker.next_at else ticker
        return original(fresh, now=now, enqueued_at=now if fresh is not ticker else enqueued_at, **given)

    return plan_ticks


@_plant(ScheduleMessages, "run", "tick not told to its task", "scheduled_for is None")
def _untold(original: Any) -> Any:
    return lambda self, definition, tick, *, now: self.run_now(
        definition, original(self, definition, tick, now=now).id, now=now
    )


# -- deploys -------------------------------------------------------------------------------------


@_plant(tickers_module, "ticker_id", "replanted although it lives", "each look makes one ticker more")
def _many_tickers(original: Any) -> Any:
    made: list[str] = []

    def ticker_id(name: str) -> str:
        made.append(name)
        return f"{original(name)}-{len(made) % 3}"

    return ticker_id


@_plant(schedule_messages_module, "ticker_id", "ticker goes on under a new id", "nobody finds it again")
def _other_id(original: Any) -> Any:
    made: list[str] = []

    def ticker_id(name: str) -> str:
        made.append(name)
        return derived_id("ticker", name, str(len(made)))

    return ticker_id


@_plant(Tickers, "_see_alive", "paused forgotten at redefinition", "a deploy starts what an operator has stopped")
def _forget_pause(original: Any) -> Any:
    async def see_alive(self: Any, store: Any, definition: Any, standing: Any) -> None:
        before = await store.find(tickers_module.ticker_id(definition.name))
        if before is not None:
            ticker = self._messages.ticker_in(before.id, before.queue, before.body)
            if ticker.definition != definition:
                await store.cancel([pause_id(definition.name)])
        await original(self, store, definition, standing)

    return see_alive


@_plant(schedule_duty_module, "current_code", "old code is as good as new", "an old worker puts its schedules back")
def _any_code(original: Any) -> Any:
    return lambda codes, on_duty: original(list(reversed(codes)), on_duty)


@_plant(Tickers, "_changed", "changed schedule left as it is", "the new rule never takes effect")
def _unchanged(original: Any) -> Any:
    return lambda self, stored, definition, standing: None


@_plant(schedule_duty_module, "decode_note", "schedules that left the code go on", "what was removed runs for ever")
def _no_names(original: Any) -> Any:
    return lambda body: () if decode_note(body)[:1] == ("name",) else original(body)
