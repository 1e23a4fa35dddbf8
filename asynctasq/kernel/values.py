"""Classes of values of which every message makes some: made as quickly as Python can."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["value"]

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a dataclass whose instances compare and hash by their fields, and are never changed.

    Only type checkers refuse a change: refusing it when the program runs makes an instance take more than twice as long
    to make, and a message needs a dozen. Use it for these, and `dataclass(frozen=True)` for the rest.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
