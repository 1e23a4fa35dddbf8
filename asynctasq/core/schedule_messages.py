"""Schedules to messages and back: definitions from tasks, tickers, and what runs a tick. Stores nothing."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asynctasq.codec.envelope import decode_envelope, encode_envelope
from asynctasq.codec.limits import DEFAULT_LIMITS, Limits
from asynctasq.codec.schedule import decode_ticker, encode_ticker
from asynctasq.codec.signing import SigningKeys
from asynctasq.config import ScheduleSetting
from asynctasq.errors import AsyncTasqError, ConfigError, UndecodableBody, UnknownTask
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import Message
from asynctasq.kernel.retry import Fixed
from asynctasq.kernel.schedule import TICKER_TASK, ScheduleDefinition, Tick, Ticker, tick_id, ticker_id
from asynctasq.queue import MessageFactory
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import definition_of
from asynctasq.tasks.registry import known_names, registered
from asynctasq.tasks.schedules import Schedule, jitter_seconds, schedules_in

__all__ = ["ScheduleMessages", "ScheduledTask", "configured_schedules", "definitions_of", "scheduled_tasks"]

NO_RETRY = Fixed(delay_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledTask:
    """A task and one schedule of it; `name` is the schedule's."""

    task: type[BaseTask[Any]]
    schedule: Schedule
    name: str


def scheduled_tasks(*, other_processes: bool) -> list[ScheduledTask]:
    """Return what the imported tasks say of when they run.

    With `other_processes`, without what is defined inside functions: no worker of another process can find it.
    """
    return [
        ScheduledTask(task=task, schedule=schedule, name=schedule.name or definition_of(task).name)
        for name in known_names()
        if (task := registered(name)) is not None and not (other_processes and "<locals>" in name)
        for schedule in schedules_in(task)
    ]


def definitions_of(
    scheduled: Iterable[ScheduledTask], limits: Limits = DEFAULT_LIMITS
) -> dict[str, ScheduleDefinition]:
    """Return the definitions by name.

    Raises: ConfigError for two schedules of one name, and for a task that can't be made with a schedule's arguments.
    """
    factory, owners = MessageFactory(limits=limits), dict[str, str]()
    definitions: dict[str, ScheduleDefinition] = {}
    for item in scheduled:
        owner = definition_of(item.task).name
        if item.name in definitions:
            raise ConfigError(
                f"{owners[item.name]} and {owner} have schedules of one name, {item.name!r}; "
                'give one of them another: Cron(..., name="...")'
            )
        owners[item.name] = owner
        definitions[item.name] = _definition(item, factory, limits)
    return definitions


def _definition(item: ScheduledTask, factory: MessageFactory, limits: Limits) -> ScheduleDefinition:
    try:
        message = factory.message(item.task(**item.schedule.arguments))
    except (AsyncTasqError, TypeError, ValueError) as error:
        raise ConfigError(
            f"schedule {item.name!r}: no message can be made for {definition_of(item.task).name}: {error}; "
            'give what it takes: Cron(..., arguments={"name": value})'
        ) from error
    envelope = replace(decode_envelope(message.body, limits=limits), dispatched_at=0.0)
    return ScheduleDefinition(
        name=item.name,
        queue=message.queue,
        rule=item.schedule.rule,
        misfire=item.schedule.misfire,
        jitter_s=jitter_seconds(item.schedule),
        template=encode_envelope(envelope, limits=limits),
        unique=message.unique,
        priority=message.priority,
        fair_key=message.fair_key,
    )


def configured_schedules(given: Mapping[str, ScheduleSetting], application: Application) -> list[ScheduledTask]:
    """Return the schedules of the settings; a task's module is imported, if it belongs to the application.

    Raises: ConfigError for a task that there is not.
    """
    found: list[ScheduledTask] = []
    for name, setting in given.items():
        try:
            task = application.resolve(setting.task)
        except UnknownTask as error:
            raise ConfigError(f"schedules.{name}: {error}") from error
        found.append(ScheduledTask(task=task, schedule=setting.schedule(), name=name))
    return found


class ScheduleMessages:
    """Makes the messages of schedules, signed if there are `keys`; their signatures do not expire."""

    def __init__(self, keys: SigningKeys | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._keys = keys
        self._limits = limits

    def ticker(self, ticker: Ticker, *, delay_s: float = 0.0) -> Message:
        """Return the message that keeps a schedule going."""
        definition = ticker.definition
        envelope = Envelope(
            task=TICKER_TASK, arguments=encode_ticker(ticker), max_attempts=1, retry=NO_RETRY, dispatched_at=0.0
        )
        return self._message(ticker_id(definition.name), definition, envelope, delay_s)

    def run(self, definition: ScheduleDefinition, tick: Tick, *, now: float) -> Message:
        """Return the message that runs a tick; the same id for the same tick."""
        template = replace(self.template(definition), scheduled_for=tick.nominal_at)
        return self._run(definition, template, tick_id(definition.name, tick.nominal_at), now, tick.delay_s)

    def run_now(self, definition: ScheduleDefinition, message_id: str, *, now: float) -> Message:
        """Return a message that runs the task of a schedule, but for no tick of it."""
        return self._run(definition, self.template(definition), message_id, now, 0.0)

    def template(self, definition: ScheduleDefinition) -> Envelope:
        """Return what the messages of a schedule's task are made of.

        Raises: UndecodableBody.
        """
        return decode_envelope(definition.template, limits=self._limits)

    def ticker_in(self, message_id: str, queue: str, body: bytes) -> Ticker:
        """Return the ticker in the body of a message.

        Raises: CodecError if it is damaged, or not signed as it should be.
        """
        # The signature of a ticker does not expire, so the time does not matter.
        envelope = decode_envelope(
            body, keys=self._keys, limits=self._limits, belongs_to=(message_id, queue), now=sys.float_info.max
        )
        if envelope.task != TICKER_TASK:
            raise UndecodableBody(f"message {message_id} is no ticker of a schedule")
        return decode_ticker(envelope.arguments)

    def _run(
        self, definition: ScheduleDefinition, template: Envelope, message_id: str, now: float, delay_s: float
    ) -> Message:
        envelope = replace(template, dispatched_at=max(0.0, now))
        message = self._message(message_id, definition, envelope, delay_s)
        return replace(message, unique=definition.unique, fair_key=definition.fair_key)

    def _message(self, message_id: str, definition: ScheduleDefinition, envelope: Envelope, delay_s: float) -> Message:
        queue = definition.queue
        body = encode_envelope(envelope, key=self._keys, limits=self._limits, belongs_to=(message_id, queue))
        return Message(id=message_id, queue=queue, body=body, delay_s=delay_s, priority=definition.priority)
