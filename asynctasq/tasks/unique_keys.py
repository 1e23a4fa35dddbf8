"""The unique key of one dispatch, made of the task that is dispatched; imported only where a task is unique."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.canonical import canonical
from asynctasq.codec.limits import Limits
from asynctasq.kernel.messages import UniqueKey
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import TaskDefinition
from asynctasq.tasks.options import UniqueSetting

__all__ = ["unique_key_of"]


def unique_key_of(
    unique: UniqueSetting,
    task: BaseTask[Any],
    definition: TaskDefinition,
    given: Mapping[str, object],
    limits: Limits,
) -> UniqueKey:
    """Return the key that the setting `unique` makes of a task with the arguments `given`.

    Raises: DispatchError.
    """
    arguments = {**definition.signature.defaults(), **given}

    def packed() -> bytes:
        return canonical(pack_arguments(definition.name, arguments, definition.signature.annotations, limits))

    subject = task if definition.defaults is not None else SimpleNamespace(**arguments)
    return unique.key_of(definition.name, subject, packed)
