"""A private queue on a real driver for tests of applications; use from outside only the names below."""

from asynctasq.testing.real_queue.real_queue import RealQueue
from asynctasq.testing.real_queue.store import Store

__all__ = ["RealQueue", "Store"]
