"""Folder and file of a queue on disk: made for their user alone, refused where another user could put his own."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from asynctasq.errors import DriverMisconfigured

__all__ = ["make_file", "make_folder", "refuse_other_owners"]

ROOT = 0


def make_folder(folder: str) -> None:
    """Make the folder if it is missing, with a file that keeps git from taking what is in it.

    Raises: DriverMisconfigured.
    """
    try:
        try:
            os.makedirs(folder, mode=0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        else:
            with open(os.path.join(folder, ".gitignore"), "w", encoding="ascii") as file:
                file.write("*\n")
    except OSError as error:
        raise DriverMisconfigured(
            f"the folder {folder} of the queue can't be made ({error.strerror}); make it, or name another file"
        ) from error


def refuse_other_owners(*places: str) -> None:
    """Raise DriverMisconfigured for a place, link or what it leads to, of a user who is neither this one nor root."""
    if sys.platform == "win32":
        return
    for place in places:
        if not {os.geteuid(), ROOT}.issuperset(_owners(place)):
            raise DriverMisconfigured(
                f"{place} belongs to another user, who could read and replace the queue; name a file in a folder of "
                "your own, or change the owner"
            )


def _owners(place: str) -> Iterator[int]:
    for look in (os.lstat, os.stat):
        with suppress(FileNotFoundError):
            yield look(place).st_uid


def make_file(path: str) -> None:
    """Make the file if it is missing; SQLite gives its write-ahead log the same permissions."""
    with suppress(OSError):  # it is there, or SQLite says what is wrong
        os.close(os.open(os.path.realpath(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
