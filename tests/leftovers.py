"""Processes that a test run started and left behind, found by a mark in the environment that all of them inherit."""

import os
import time
import uuid
from pathlib import Path

from tests.patience import SOON_S

__all__ = ["left_behind", "mark_processes"]

MARK = "TEST_RUN_OF_ASYNCTASQ"


def mark_processes() -> None:
    """Mark what this process starts from now on."""
    os.environ[MARK] = str(uuid.uuid4())


def left_behind(within_s: float = SOON_S) -> list[str]:
    """Return the command lines of marked processes that do not end in time."""
    deadline = time.monotonic() + within_s
    while (left := _marked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _marked() -> list[str]:
    wanted = f"{MARK}={os.environ[MARK]}".encode()
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone meanwhile, or another user's
            continue
        if marked and command and folder.name != str(os.getpid()):
            found.append(f"{folder.name} {command}")
    return found
