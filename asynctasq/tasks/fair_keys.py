"""The fair key of one dispatch: whose work the task is, so that it does not delay that of others."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from asynctasq.errors import DispatchError
from asynctasq.kernel.fairness import check_fair_key
from asynctasq.tasks.base import BaseTask
from asynctasq.tasks.definition import TaskDefinition
from asynctasq.tasks.options import FairKey

__all__ = ["fair_key_of"]


def fair_key_of(source: FairKey, task: BaseTask[Any], definition: TaskDefinition, given: Mapping[str, object]) -> str:
    """Return the key that the setting `fair_key` makes of a task with the arguments `given`; "" for None.

    Raises: DispatchError for an attribute that is missing, and for what is no key.
    """
    is_function = definition.defaults is None
    subject = SimpleNamespace(**{**definition.signature.defaults(), **given}) if is_function else task
    try:
        value = getattr(subject, source) if isinstance(source, str) else source(subject)
    except Exception as error:
        raise DispatchError(
            f"{definition.name}: its fair_key can't be read: {type(error).__name__}: {error}"
        ) from error
    if value is None:
        return ""
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        value = str(value)
    try:
        return check_fair_key(value)
    except DispatchError as error:
        raise DispatchError(f"{definition.name}: {error}") from None
