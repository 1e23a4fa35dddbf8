"""On how many examples a property is tried: on all that its test asks for, on few with `--hypothesis-profile=quick`."""

from hypothesis import settings

__all__ = ["examples"]

FEW = 25

settings.register_profile("quick", max_examples=FEW)


def examples(count: int) -> int:
    """Return `count`, or a few in the quick run."""
    return min(count, FEW) if settings.get_current_profile_name() == "quick" else count
