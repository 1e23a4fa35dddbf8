"""The SQLite driver, the embedded default: only `SQLiteDriver` is for use outside this folder."""

from asynctasq.drivers.sqlite_driver.driver import SQLiteDriver

__all__ = ["SQLiteDriver"]
