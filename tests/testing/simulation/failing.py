"""An assertion that must fail, and what it says."""

from collections.abc import Callable
from typing import Any

import pytest


def failure(assertion: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Return the text of the AssertionError."""
    with pytest.raises(AssertionError) as caught:
        assertion(*args, **kwargs)
    return str(caught.value)
