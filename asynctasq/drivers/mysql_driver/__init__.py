"""The MySQL and MariaDB driver: only `MySQLDriver` is for use outside this folder."""

from asynctasq.drivers.mysql_driver.driver import MySQLDriver

__all__ = ["MySQLDriver"]
