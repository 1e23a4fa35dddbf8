"""The wire format of a ticker, inside the envelope of its message, and of what workers note of schedules."""

import math
from typing import Final, cast

from asynctasq.codec.limits import Limits
from asynctasq.codec.typed_msgpack import packb
from asynctasq.codec.values import unpack
from asynctasq.errors import CodecError, DispatchError, UndecodableBody
from asynctasq.kernel.fairness import check_fair_key
from asynctasq.kernel.messages import ON_CONFLICTS, UNTILS, UniqueKey, check_queue_name, is_unique_key
from asynctasq.kernel.priority import NORMAL, check_priority
from asynctasq.kernel.schedule import (
    MISFIRES,
    TEXT_CHARS_MAX,
    CronRule,
    EveryRule,
    Misfire,
    Rule,
    ScheduleDefinition,
    Ticker,
)

__all__ = ["decode_note", "decode_ticker", "encode_note", "encode_ticker"]

VERSION: Final = 1
LIMITS: Final = Limits(depth_max=4, items_max=100, body_bytes_max=2**31)
"""What a ticker or a note may hold: others may write to the store, too. The envelope around it bounds its bytes."""
USUAL: Final[tuple[object, ...]] = (None, NORMAL, "")
"""Unique key, level and fair key of most schedules; what only such values would follow is left out."""
WINDOW_S_MIN: Final = 1e-6
LATEST_INSTANT: Final = 253_402_300_799.0  # the last second that datetime can name


def encode_ticker(ticker: Ticker) -> bytes:
    """Return the bytes that `decode_ticker` takes."""
    definition = ticker.definition
    rule = definition.rule
    wire = [rule.expression, rule.tz] if isinstance(rule, CronRule) else rule.period_s
    unique = definition.unique
    held = None if unique is None else [unique.key, unique.until, unique.window_s, unique.on_conflict]
    further: list[object] = [held, definition.priority, definition.fair_key]
    while further and further[-1] == USUAL[len(further) - 1]:
        further.pop()
    settings = [definition.misfire, definition.jitter_s, *further]
    state = [ticker.next_at, ticker.last_at]
    return packb([VERSION, definition.name, definition.queue, wire, settings, definition.template, state])


def decode_ticker(data: bytes) -> Ticker:
    """Return the ticker in the arguments of its envelope.

    Raises: UndecodableBody.
    """
    try:
        version, name, queue, wire, settings, template, state = cast("list[object]", unpack(data, limits=LIMITS))
        misfire, jitter_s, *further = cast("list[object]", settings)
        unique, level, fair_key = [*further, *USUAL[len(further) :]]
        next_at, last_at = cast("list[object]", state)
        if version != VERSION or type(template) is not bytes:
            raise ValueError("it is of another version, or not one")
        definition = ScheduleDefinition(
            name=_text(name),
            queue=check_queue_name(cast("str", queue)),
            rule=_rule(wire),
            misfire=_misfire(misfire),
            jitter_s=_number(jitter_s),
            template=template,
            unique=_unique(unique),
            priority=check_priority(level),
            fair_key=check_fair_key(fair_key) if fair_key != "" else "",
        )
        return Ticker(definition=definition, next_at=_instant(next_at), last_at=_instant(last_at))
    except (DispatchError, StopIteration, TypeError, ValueError) as error:
        raise UndecodableBody(f"the ticker of a schedule is damaged: {error}") from error


def _rule(wire: object) -> Rule:
    if isinstance(wire, list):
        expression, tz = cast("list[object]", wire)
        return CronRule(expression=_text(expression), tz=_text(tz))
    return EveryRule(period_s=_number(wire, least=1.0))


def _text(value: object) -> str:
    if type(value) is not str or len(value) > TEXT_CHARS_MAX:
        raise ValueError(f"name, cron expression and time zone must be texts of {TEXT_CHARS_MAX} characters at most")
    return value


def _misfire(value: object) -> Misfire:
    return next(known for known in MISFIRES if known == value)


def _unique(wire: object) -> UniqueKey | None:
    if wire is None:
        return None
    key, until, window_s, on_conflict = cast("list[object]", wire)
    if not is_unique_key(_text(key)):
        raise ValueError("its unique key is none")
    return UniqueKey(
        key=_text(key),
        until=next(known for known in UNTILS if known == until),
        window_s=None if window_s is None else _number(window_s, least=WINDOW_S_MIN),
        on_conflict=next(known for known in ON_CONFLICTS if known == on_conflict),
    )


def _instant(value: object) -> float | None:
    return None if value is None else _number(value)


def _number(value: object, *, least: float = 0.0) -> float:
    if type(value) not in (int, float) or not least <= cast("float", value) <= LATEST_INSTANT:
        raise ValueError(f"{value!r} is no such number of seconds")
    return float(cast("float", value)) if math.isfinite(cast("float", value)) else 0.0


def encode_note(*texts: str) -> bytes:
    """Return the body of a note: texts that are not secret and decide nothing about what is run."""
    return packb([*texts])


def decode_note(body: bytes) -> tuple[str, ...]:
    """Return the texts of a note; none for what is not one."""
    try:
        texts = unpack(body, limits=LIMITS)
    except CodecError:
        return ()
    items = cast("list[object]", texts) if type(texts) is list else []
    return tuple(item for item in items if type(item) is str)
