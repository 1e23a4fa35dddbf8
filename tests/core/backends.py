"""The backends whose messages an operator can see, and the operator of a driver."""

from asynctasq.clock import SystemClock
from asynctasq.codec.limits import DEFAULT_LIMITS
from asynctasq.core.queue_operator import QueueOperator
from asynctasq.drivers.base import Driver
from asynctasq.testing.conformance.harnesses import memory, mysql, postgres, redis, sqlite

__all__ = ["INSPECTABLE", "operator_of"]

INSPECTABLE = {
    "memory": memory.make_harness,
    "sqlite": sqlite.make_harness,
    "redis": redis.make_harness,
    "postgres": postgres.make_harness,
    "mysql": mysql.make_harness,
}
"""Name of a backend -> what makes its harness."""


def operator_of(driver: Driver) -> QueueOperator:
    return QueueOperator(driver, limits=DEFAULT_LIMITS, clock=SystemClock())
