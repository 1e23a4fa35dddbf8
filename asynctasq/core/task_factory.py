"""Makes tasks that can run from the bytes of messages; the same in the worker and in a child process."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from asynctasq.clock import Clock, SystemClock
from asynctasq.codec.arguments import pack_result, unpack_arguments, unpack_result
from asynctasq.codec.envelope import decode_envelope
from asynctasq.codec.limits import DECODE_S_MAX, DEFAULT_LIMITS, OFF_LOOP_BYTES, Limits
from asynctasq.codec.orm.references import LoadInAnotherLoop, has_references, resolve_for_hooks, resolve_references
from asynctasq.codec.signing import SigningKeys, sign_result
from asynctasq.core.module_imports import ModuleImports
from asynctasq.core.tracebacks import exception_text
from asynctasq.errors import BadSignature, TaskTimeoutError, UndecodableBody, UnknownTask
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.messages import DeadReason
from asynctasq.kernel.values import value
from asynctasq.tasks.application import Application
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import TaskDefinition, definition_of, set_metadata, set_scheduled_for
from asynctasq.tasks.registry import registered

__all__ = ["BadArguments", "Invocation", "TaskFactory", "dead_reason_of"]


class BadArguments(TypeError):
    """The stored arguments no longer fit the task's constructor."""


@value
class Invocation:
    """A decoded message whose task is known but not built yet."""

    message_id: str
    attempt: int
    envelope: Envelope
    cls: type[BaseTask[Any]]
    definition: TaskDefinition

    @property
    def dispatched_at(self) -> datetime:
        """When the task was dispatched, aware, UTC."""
        return datetime.fromtimestamp(self.envelope.dispatched_at, UTC)


class TaskFactory:
    """Decodes messages and builds the tasks they invoke, those of one application only.

    With `decode_in_threads`, large arguments are decoded, and modules imported, outside of the event loop.
    """

    def __init__(
        self,
        application: Application,
        *,
        keys: SigningKeys | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock | None = None,
        load_in_another_loop: LoadInAnotherLoop | None = None,
        decode_in_threads: bool = False,
    ) -> None:
        self._application = application
        self._keys = keys
        self._limits = limits
        self._clock = clock or SystemClock()
        self._load_in_another_loop = load_in_another_loop
        self._decode_in_threads = decode_in_threads
        self._imports = ModuleImports(application) if decode_in_threads else None
        self._definitions: dict[type[BaseTask[Any]], TaskDefinition] = {}

    def decode(self, message_id: str, body: bytes, *, queue: str = "") -> Envelope:
        """Return what the body holds; with keys, only if it was signed for this message and queue. Imports nothing.

        Raises: UndecodableBody, BadSignature, UnsupportedVersion.
        """
        now = None if self._keys is None else self._clock.now()
        return decode_envelope(body, keys=self._keys, limits=self._limits, belongs_to=(message_id, queue), now=now)

    def decode_verified(self, body: bytes) -> Envelope:
        """Do `decode` for a body whose signature the worker has verified: a child process is given no keys."""
        return decode_envelope(body, limits=self._limits)

    async def find(self, message_id: str, attempt: int, envelope: Envelope, *, file: str | None = None) -> Invocation:
        """Return what an envelope invokes, having imported its module if that is necessary and allowed.

        `file` is where the worker has the task from, for a child process.

        Raises: UnknownTask.
        """
        cls = registered(envelope.task)
        if cls is None and self._imports is not None:
            cls = await self._imports.resolve(envelope.task, file)
        elif cls is None:
            cls = self._application.resolve(envelope.task, file=file)
        definition = self._definitions.get(cls)
        if definition is None:
            definition = self._definitions[cls] = definition_of(cls)
        return Invocation(message_id=message_id, attempt=attempt, envelope=envelope, cls=cls, definition=definition)

    async def build(self, invocation: Invocation, *, timeout_s: float | None = None) -> BaseTask[Any]:
        """Build the task: decode its arguments, fetch the models they refer to, call its constructor.

        Raises: UndecodableBody, BadArguments, ModelNotFoundError, TaskTimeoutError if the models did not come within
        `timeout_s`, and whatever the constructor raises.
        """
        arguments = await self._arguments(invocation)
        if has_references(arguments):
            arguments = await self._with_models(invocation, arguments, timeout_s)
        if invocation.definition.validate:
            from asynctasq.codec.validation import InvalidArguments, validate_arguments  # few tasks need it

            try:
                validate_arguments(arguments, invocation.definition.signature.annotations)
            except InvalidArguments as error:
                raise BadArguments(f"{invocation.envelope.task}: {error}") from None
        return self._make(invocation, arguments)

    async def build_for_hooks(self, invocation: Invocation, *, timeout_s: float | None = None) -> BaseTask[Any]:
        """Build a task whose attempt has failed: models that can't be loaded within `timeout_s` are None.

        Raises: UndecodableBody, BadArguments, and whatever the constructor raises.
        """
        arguments = await self._arguments(invocation)
        if has_references(arguments):
            arguments = await resolve_for_hooks(
                arguments, timeout_s=timeout_s, load_in_another_loop=self._load_in_another_loop
            )
        return self._make(invocation, arguments)

    async def _with_models(
        self, invocation: Invocation, arguments: dict[str, object], timeout_s: float | None
    ) -> dict[str, object]:
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                missing = invocation.envelope.missing
                return await resolve_references(
                    arguments, missing=missing, load_in_another_loop=self._load_in_another_loop
                )
        except TimeoutError as error:
            if scope.expired() and isinstance(error.__cause__, asyncio.CancelledError):
                raise TaskTimeoutError(f"the models of the task were not loaded within {timeout_s:g} s") from error
            raise

    async def _arguments(self, invocation: Invocation) -> dict[str, object]:
        annotations, data = invocation.definition.signature.annotations, invocation.envelope.arguments
        if len(data) <= OFF_LOOP_BYTES or not self._decode_in_threads:
            return unpack_arguments(data, annotations, self._limits)
        scope = asyncio.timeout(DECODE_S_MAX)
        try:
            async with scope:
                return await asyncio.to_thread(unpack_arguments, data, annotations, self._limits)
        except TimeoutError as error:
            if scope.expired():
                raise UndecodableBody(f"its arguments were not decoded within {DECODE_S_MAX:g} s") from error
            raise

    def _make(self, invocation: Invocation, arguments: dict[str, object]) -> BaseTask[Any]:
        try:
            args, kwargs = invocation.definition.signature.unbind(arguments)
        except TypeError as error:
            raise BadArguments(
                f"{invocation.envelope.task} can't take the stored arguments: {exception_text(error)}"
            ) from error
        task = invocation.cls(*args, **kwargs)
        set_metadata(
            task,
            task_id=invocation.message_id,
            attempt=invocation.attempt,
            dispatched_at=invocation.dispatched_at,
        )
        if (tick := invocation.envelope.scheduled_for) is not None:
            set_scheduled_for(task, datetime.fromtimestamp(tick, UTC))
        return task

    def pack_result(self, definition: TaskDefinition, value: object) -> bytes:
        """Return what `execute` returned as bytes.

        Raises: UnserializableValue, BodyTooLarge.
        """
        return pack_result(definition.name, value, definition.returns, self._limits)

    def unpack_result(self, definition: TaskDefinition, data: bytes) -> object:
        """Return what `pack_result` was given."""
        return unpack_result(data, definition.returns, self._limits)

    def sign_result(self, message_id: str, data: bytes) -> bytes:
        """Return a packed result as it is stored: signed, if there are keys."""
        return sign_result(data, self._keys, message_id)


def dead_reason_of(error: BaseException) -> DeadReason | None:
    """Return why a message that raised this can never run; None if another attempt may succeed."""
    match error:
        case UnknownTask():
            return DeadReason.UNKNOWN_TASK
        case BadSignature():
            return DeadReason.BAD_SIGNATURE
        case UndecodableBody():
            return DeadReason.UNDECODABLE
        case BadArguments():
            return DeadReason.BAD_ARGUMENTS
        case _:
            return None
