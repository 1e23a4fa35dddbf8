"""The Redis and Valkey driver: only `RedisDriver` is for use outside this folder."""

from asynctasq.drivers.redis_driver.driver import RedisDriver

__all__ = ["RedisDriver"]
