"""msgpack's C functions with types; the only file that imports msgpack."""

from collections.abc import Callable
from typing import cast

import msgpack  # type: ignore[import-untyped] # msgpack has no stubs

__all__ = ["ExtType", "Timestamp", "packb", "unpackb"]

ExtType = cast("Callable[[int, bytes], object]", msgpack.ExtType)
Timestamp = cast("type", msgpack.Timestamp)
packb = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] - no stubs
unpackb = cast("Callable[..., object]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType] - no stubs
