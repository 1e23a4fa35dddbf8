"""What the hook `failed` returns unless a task overrides it: nothing, whether it is awaited or not."""

from collections.abc import Generator

__all__ = ["NOTHING"]


class _Nothing:
    """An awaitable that need not be awaited, so that `failed` works with and without `await`."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


NOTHING = _Nothing()
