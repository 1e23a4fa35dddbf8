"""What the embedded queue keeps in files is read by its user alone, and stands where no other user can put his own."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynctasq.drivers.sqlite_driver import SQLiteDriver
from asynctasq.errors import DriverMisconfigured
from asynctasq.kernel.messages import Message

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
MESSAGE = Message(id="m", queue="default", body=b"SECRET-PAYLOAD")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def enqueue(path: Path) -> None:
    driver = SQLiteDriver(path)
    try:
        await driver.enqueue([MESSAGE])
    finally:
        await driver.close()


async def test_folder_and_files_that_it_makes_are_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".asynctasq" / "queue.db"
    driver = SQLiteDriver(path)

    await driver.enqueue([MESSAGE])

    files = {file.name: mode(file) for file in path.parent.iterdir()}
    await driver.close()
    assert mode(path.parent) == 0o700
    assert files.pop(".gitignore") == 0o644
    assert set(files) == {"queue.db", "queue.db-wal", "queue.db-shm"}
    assert set(files.values()) == {0o600}


async def test_git_takes_none_of_it(tmp_path: Path) -> None:
    await enqueue(tmp_path / ".asynctasq" / "queue.db")

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert status.stdout == ""


async def test_a_folder_and_a_file_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "queue.db"
    path.touch(0o640)

    await enqueue(path)

    assert (mode(tmp_path), mode(path)) == (0o755, 0o640)
    assert not (tmp_path / ".gitignore").exists()


async def test_a_file_in_a_folder_that_is_there_is_its_users_alone(tmp_path: Path) -> None:
    await enqueue(tmp_path / "queue.db")

    assert mode(tmp_path / "queue.db") == 0o600


async def test_links_of_its_own_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".asynctasq").symlink_to("elsewhere")
    (tmp_path / "elsewhere" / "queue.db").symlink_to("real.db")

    await enqueue(tmp_path / ".asynctasq" / "queue.db")

    assert mode(tmp_path / "elsewhere" / "real.db") == 0o600


@as_root
@pytest.mark.parametrize(
    "what", ["folder", "link to a folder", "folder behind a link", "file", "link to a file", "dangling link"]
)
async def test_what_another_user_owns_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / ".asynctasq"
    real = tmp_path / "real"
    real.mkdir()
    match what:
        case "folder":
            folder.mkdir()
            os.chown(folder, NOBODY, NOBODY)
        case "link to a folder":
            folder.symlink_to(real)
            os.lchown(folder, NOBODY, NOBODY)
        case "folder behind a link":
            folder.symlink_to(real)
            os.chown(real, NOBODY, NOBODY)
        case "file":
            folder.mkdir()
            (folder / "queue.db").touch()
            os.chown(folder / "queue.db", NOBODY, NOBODY)
        case _:
            folder.mkdir()
            (folder / "queue.db").symlink_to(real / "queue.db")
            os.lchown(folder / "queue.db", NOBODY, NOBODY)
            if what == "link to a file":
                (real / "queue.db").touch()

    with pytest.raises(DriverMisconfigured, match="belongs to another user"):
        await enqueue(folder / "queue.db")

    assert not (real / "queue.db").exists() or (real / "queue.db").stat().st_size == 0


@pytest.fixture
def folder_of_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the folders of pytest can't be entered by others
        yield Path(folder)


@as_root
async def test_what_root_owns_is_taken_from_root(folder_of_root: Path) -> None:
    """A folder that an administrator made for a service: root could read everything anyway."""
    folder_of_root.chmod(0o777)
    path = folder_of_root / "queue.db"

    os.seteuid(NOBODY)
    try:
        await enqueue(path)
    finally:
        os.seteuid(0)

    assert (path.stat().st_uid, mode(path)) == (NOBODY, 0o600)
