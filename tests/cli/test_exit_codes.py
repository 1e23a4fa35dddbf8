"""What a command's end is called: wrong configuration is only what an operator can set right by configuring."""

import logging

import pytest

from asynctasq.cli.exit_codes import ExitCode, exit_on_error
from asynctasq.errors import (
    BodyTooLarge,
    ConfigError,
    DriverError,
    DriverMisconfigured,
    DriverUnavailable,
    InvalidTransition,
    LifespanError,
    MissingExtra,
    TaskDefinitionError,
    UnsupportedFeature,
)


def exit_code(error: BaseException) -> int:
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise error
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("kind", [ConfigError, MissingExtra, DriverMisconfigured])
def test_a_wrong_configuration_is_told_in_one_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(kind("set it right")) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "asynctasq: set it right\n"


@pytest.mark.parametrize("kind", [DriverError, DriverUnavailable, UnsupportedFeature])
def test_a_backend_that_refuses_is_told_in_one_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(kind("the server is away")) == ExitCode.BACKEND
    assert capsys.readouterr().err == "asynctasq: the server is away\n"


def test_a_lifespan_that_fails_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(LifespanError("the database is down")) == ExitCode.LIFESPAN
    assert capsys.readouterr().err == "asynctasq: the database is down\n"


@pytest.mark.parametrize(
    "kind",
    [ValueError, TypeError, OverflowError, KeyError, OSError, InvalidTransition, BodyTooLarge, TaskDefinitionError],
)
def test_any_other_error_has_its_traceback_and_a_code_of_its_own(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        assert exit_code(kind("year 318914 is out of range")) == ExitCode.UNEXPECTED

    assert "Traceback (most recent call last)" in caplog.text
    assert "year 318914 is out of range" in caplog.text


def test_an_exit_and_an_interrupt_are_left_alone() -> None:
    assert exit_code(SystemExit(7)) == 7
    with pytest.raises(KeyboardInterrupt), exit_on_error():
        raise KeyboardInterrupt
