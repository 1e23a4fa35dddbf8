"""`asynctasq migrate`: shows or applies the migrations of a driver that has a schema."""

import sys

from asynctasq.cli.exit_codes import ExitCode
from asynctasq.config import load_settings
from asynctasq.core.setup import Setup
from asynctasq.drivers.base import Driver, Migratable
from asynctasq.errors import ConfigError
from asynctasq.kernel.texts import printable
from asynctasq.utils.loop import run

__all__ = ["run_migrate"]


def run_migrate(name: str | None, *, check: bool, sql: bool, dry_run: bool) -> None:
    """Do one of: print all SQL, check, say what is missing, apply what is missing.

    Raises: ConfigError if the driver has no migrations, DriverError if the database can't be used.
    """
    settings = load_settings({} if name is None else {"driver": name})
    driver = Setup(settings).driver(settings.driver)
    if not isinstance(driver, Migratable):
        raise ConfigError(f"{driver} has no schema to migrate; it sets itself up")
    if sql:
        for migration in driver.migrations():
            _say(f"-- {migration.version}: {migration.title}")
            for statement in migration.statements:
                _say(f"{statement.strip().rstrip(';')};")
        return
    code = run(_migrate(driver, driver, apply=not (check or dry_run)))
    if check and code is not ExitCode.DONE:
        raise SystemExit(int(code))


async def _migrate(driver: Driver, migratable: Migratable, *, apply: bool) -> ExitCode:
    try:
        current = await migratable.schema_version()
        missing = [migration for migration in migratable.migrations() if migration.version > current]
        if not missing:
            _say(f"{printable(str(driver))}: up to date (version {current})")
            return ExitCode.DONE
        for migration in missing:
            _say(f"{'applying' if apply else 'missing'} {migration.version}: {migration.title}")
        if not apply:
            return ExitCode.FAILED
        applied = await migratable.migrate()
        _say(
            f"{printable(str(driver))}: applied {', '.join(map(str, applied)) or 'nothing, another process was faster'}"
        )
        return ExitCode.DONE
    finally:
        await driver.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
