"""The PostgreSQL driver: only `PostgresDriver` is for use outside this folder."""

from asynctasq.drivers.postgres_driver.driver import PostgresDriver

__all__ = ["PostgresDriver"]
