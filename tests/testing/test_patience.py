"""The factor for the deadlines of tests."""

import pytest

from asynctasq.errors import ConfigError
from asynctasq.testing.patience import VARIABLE, patient_s


def test_deadlines_are_as_written_unless_the_factor_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)

    assert patient_s(30) == 30


def test_the_factor_scales_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "2.5")

    assert patient_s(4) == 10


@pytest.mark.parametrize("factor", ["", "slow", "0", "-1", "nan", "inf"])
def test_what_is_no_factor_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, factor: str) -> None:
    monkeypatch.setenv(VARIABLE, factor)

    with pytest.raises(ConfigError, match=VARIABLE):
        patient_s(1)
