"""The harnesses of the drivers that come with asynctasq, one file each, named as in `--driver=NAME`.

The convention, for `--driver=redis`:

* the file is `harnesses/redis.py`; only when that name is asked for is it imported, so it may import the
  driver and the driver's library at the top. A library that is missing is reported as "not run".
* it holds `def make_harness(servers: Servers) -> DriverHarness`. The suite calls it once per test. `servers` lives
  as long as the test run (of one xdist worker): `servers.redis()` returns the one Redis of the run, started when
  first asked for or named by `ASYNCTASQ_REDIS_URL`; `.url` is its address, `.restart()` restarts it (blocking, so
  `await asyncio.to_thread(server.restart)`) or raises `NotPossible` if it is not ours.
  See `asynctasq.testing.servers`.
* each call makes a store of its own on that server, by a name that nobody else has: `unique_name()` returns one that
  is a valid identifier, prefix and database name. `clean_up` removes that store and nothing else.
* the class subclasses `DriverHarness`. `create` remembers its drivers and gives a new one the sum of the `advance`
  calls so far as `clock_offset`; `advance` adds to the `clock_offset` of all of them.
* `async def prepare(self)` is awaited once per test before the first `create`; a SQL harness makes its database there
  and brings it up to date with `migrate()`.
* tests of a slow backend set `pace` below 1. A harness whose driver claims `transactional` also has `begin`.

A harness outside of this package does the same; its `make_harness` may also take no argument.
"""

import itertools
import os
import secrets

__all__ = ["unique_name"]

_numbers = itertools.count(1)
_run = f"{os.getpid():x}{secrets.token_hex(3)}"


def unique_name() -> str:
    """Return a name no other test uses: lower-case letters, digits and `_`, at most 24 characters."""
    return f"t{_run}_{next(_numbers)}"
