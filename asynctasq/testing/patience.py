"""How long tests wait for a condition, scaled for slow machines; holds no test and waits for nothing itself."""

import math
import os

from asynctasq.errors import ConfigError

__all__ = ["VARIABLE", "patient_s"]

VARIABLE = "ASYNCTASQ_TEST_PATIENCE"


def patient_s(seconds: float) -> float:
    """Return `seconds` times ASYNCTASQ_TEST_PATIENCE, which is 1 unless it is set.

    For deadlines only: a test that passes on a fast machine takes no longer under a larger factor.

    Raises: ConfigError if the variable is no number above 0.
    """
    text = os.environ.get(VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(f"{VARIABLE} is {text!r}; set it to a factor above 0 for the deadlines of tests, such as 3")
    return seconds * factor
