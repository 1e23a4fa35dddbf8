"""The name under which other processes can import the script that runs."""

import sys
from pathlib import PurePath

__all__ = ["importable_module"]


def importable_module(module: str) -> str:
    """Return `module`; for `__main__` the name it can be imported by."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name.removesuffix(".__main__")
    return PurePath(getattr(main, "__file__", None) or "__main__").stem
