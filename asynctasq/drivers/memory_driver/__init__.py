"""The memory driver, the readable reference of the contract: only `MemoryDriver` is for use outside this folder."""

from asynctasq.drivers.memory_driver.driver import MemoryDriver

__all__ = ["MemoryDriver"]
