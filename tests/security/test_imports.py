"""Which files a message may make a worker import: modules that define its task, or those of `--app`; no others."""

import builtins
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynctasq.errors import UnknownTask
from asynctasq.tasks import SyncTask
from asynctasq.tasks.application import Application
from tests.effort import examples
from tests.patience import SOON_S

NOTE = "import builtins\nbuiltins.asynctasq_ran.append(__name__ + '@' + __file__)\n"
"""The first lines of every file below: they tell which of them ran."""
TASK = "from asynctasq import SyncTask\nclass X(SyncTask[None]):\n    def execute(self) -> None: ...\n"
FUNCTION = "from asynctasq import task\n@task\ndef X() -> None: ...\n"


@pytest.fixture
def ran() -> Iterator[list[str]]:
    """Every file that ran, and at the end none of their modules is left behind."""
    before = set(sys.modules)
    files: list[str] = []
    builtins.asynctasq_ran = files  # type: ignore[attr-defined]
    yield files
    del builtins.asynctasq_ran  # type: ignore[attr-defined]
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on `sys.path`, with nothing in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return folder


def write(path: Path, text: str = TASK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NOTE + text)
    return path


def refusal(application: Application, name: str) -> str:
    with pytest.raises(UnknownTask) as refused:
        application.resolve(name)
    assert len(str(refused.value)) < 2_000
    return str(refused.value)


# -- without --app --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("setup", "setup.py"),
        ("conftest", "conftest.py"),
        ("jobs.conftest", "jobs/conftest.py"),
        ("test_jobs", "test_jobs.py"),
        ("tests.jobs", "tests/jobs.py"),
        ("testing", "testing.py"),
        ("Setup", "Setup.py"),
        ("pkg.__main__", "pkg/__main__.py"),
        ("pkg.__init__", "pkg/__init__.py"),
        ("__main__", "__main__.py"),
        ("__init__", "__init__.py"),
        ("\uff53etup", "\uff53etup.py"),
        ("\ufb01le", "\ufb01le.py"),
    ],
)
def test_a_file_of_such_a_name_is_no_module_of_tasks_even_if_it_defines_one(
    root: Path, ran: list[str], module: str, file: str
) -> None:
    write(root / "pkg" / "__init__.py", "")
    write(root / file)

    text = refusal(Application(root=root), f"{module}:X")

    assert ran == []
    assert "--app" in text


@pytest.mark.parametrize(
    "text",
    [
        "def X() -> None: ...\n",
        "class X: ...\n",
        "class X(Exception): ...\n",
        "from somewhere import AsyncTask\nclass X(AsyncTask[None]): ...\n",
        "from asynctasq import init\nclass X(init): ...\n",
        "from asynctasq import task\n@other\ndef X() -> None: ...\n",
        "AsyncTask = object\nclass X(AsyncTask): ...\n",
        f"def hidden():\n    {TASK.splitlines()[0]}\n    class X(SyncTask[None]): ...\n",
        TASK.replace("class X", "class Y"),
        "X = X\nclass Z(X): ...\n",
        "class X(X): ...\n",
        "from loop import X\n",
        "1 +",
        "\0",
        "if 1:\n  " + "(" * 500,
        "#" * 2_000_000 + "\n" + TASK,
    ],
)
def test_a_file_that_defines_no_such_task_is_read_and_not_run(root: Path, ran: list[str], text: str) -> None:
    write(root / "jobs.py", text)
    write(root / "loop.py", "from jobs import X")

    refusal(Application(root=root), "jobs:X")

    assert ran == []


def test_a_script_that_drops_the_database_is_not_run(root: Path, ran: list[str]) -> None:
    write(root / "scripts" / "drop_database.py", "def X() -> None: ...")
    write(root / "jobs.py")

    text = refusal(Application(root=root), "scripts.drop_database:X")

    assert ran == []
    assert "drop_database.py" in text
    assert "--app" in text


DEFINITIONS = {
    "a class": TASK,
    "a function": FUNCTION,
    "with settings": "import asynctasq\n@asynctasq.task(queue='q')\nasync def X() -> None: ...\n",
    "alias of the package": "import asynctasq as at\nclass X(at.AsyncTask[None]):\n    async def execute(self): ...\n",
    "alias of the name": "from asynctasq import task as job\n@job\ndef X() -> None: ...\n",
    "submodule": "import asynctasq.tasks\nclass X(asynctasq.tasks.SyncTask[None]):\n    def execute(self): ...\n",
    "from the submodule": "from asynctasq.tasks.base import SyncTask as S\nclass X(S):\n    def execute(self): ...\n",
    "module as a name": "from asynctasq import tasks as t\nclass X(t.SyncTask):\n    def execute(self): ...\n",
    "star": "from asynctasq import *\nclass X(SyncTask[None]):\n    def execute(self): ...\n",
    "a base of its own": TASK.replace("X", "Base") + "class X(Base): ...\n",
    "an assigned base": "from asynctasq import SyncTask\nB = SyncTask[None]\nclass X(B):\n    def execute(self): ...\n",
    "an assigned decorator": "from asynctasq import task\njob = task(queue='q')\n@job\ndef X() -> None: ...\n",
    "under if": "if True:\n    try:\n"
    + "".join(f"        {line}\n" for line in TASK.splitlines())
    + "    finally: ...\n",
    "import under try": "try:\n    import nothing_there\nexcept ImportError:\n    from asynctasq import SyncTask\n"
    + TASK.partition("\n")[2],
    "second base": "from asynctasq import SyncTask\nclass M: ...\nclass X(M, SyncTask):\n    def execute(self): ...\n",
    "base of another module": "from bases import Base\nclass X(Base): ...\n",
    "relative": "from .bases2 import Base as B\nclass X(B): ...\n",
    "passed on": "from shop import Base\nclass X(Base): ...\n",
    "star of another": "from bases import *\nclass X(Base): ...\n",
    "module of another": "import bases\nclass X(bases.Base): ...\n",
    "decorator of another": "from bases import job\n@job\ndef X() -> None: ...\n",
}


@pytest.mark.parametrize("text", DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_module_that_defines_the_task_is_imported(root: Path, ran: list[str], text: str) -> None:
    base = TASK.replace("X", "Base")
    write(root / "bases.py", base + "from asynctasq import task\njob = task(queue='q')\n")
    write(root / "shop" / "__init__.py", "from .bases2 import Base\n")
    write(root / "shop" / "bases2.py", base)
    write(root / "shop" / "jobs.py", text)

    assert Application(root=root).resolve("shop.jobs:X").__module__ == "shop.jobs"

    assert "shop.jobs" in {line.partition("@")[0] for line in ran}


def test_a_class_inside_a_class_is_found(root: Path, ran: list[str]) -> None:
    inner = "class A:\n    class B(SyncTask[None]):\n        def execute(self) -> None: ...\n"
    write(root / "jobs.py", "from asynctasq import SyncTask\n" + inner)

    assert Application(root=root).resolve("jobs:A.B").__qualname__ == "A.B"
    assert len(ran) == 1


def test_a_folder_without_init_may_hold_tasks(root: Path, ran: list[str]) -> None:
    write(root / "jobs" / "night" / "mail.py")

    assert Application(root=root).resolve("jobs.night.mail:X").__module__ == "jobs.night.mail"
    assert len(ran) == 1


# -- the file that is checked is the one that is imported -------------------------------------------


def test_a_module_that_sys_path_takes_from_elsewhere_is_not_run(
    root: Path, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "jobs.py")
    write(tmp_path / "stranger" / "jobs.py")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "stranger"), *sys.path])

    text = refusal(Application(root=root), "jobs:X")

    assert ran == []
    assert str(tmp_path / "stranger" / "jobs.py") in text


def test_the_init_of_a_strangers_package_is_not_run(
    root: Path, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "jobs" / "mail.py")
    write(tmp_path / "stranger" / "jobs" / "__init__.py", "")
    write(tmp_path / "stranger" / "jobs" / "mail.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "stranger")])

    refusal(Application(root=root), "jobs.mail:X")

    assert ran == []


def test_a_package_imported_from_elsewhere_lends_its_name_to_no_file(
    root: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(root / "jobs" / "mail.py")
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "mail.py")
    package = SimpleNamespace(__name__="jobs", __path__=[str(elsewhere)], __spec__=None)
    monkeypatch.setitem(sys.modules, "jobs", package)  # type: ignore[arg-type]

    refusal(Application(root=root), "jobs.mail:X")

    assert ran == []


def test_a_link_out_of_the_project_is_not_followed(root: Path, ran: list[str], tmp_path: Path) -> None:
    write(tmp_path / "outside" / "jobs.py")
    (root / "jobs.py").symlink_to(tmp_path / "outside" / "jobs.py")
    (root / "linked").symlink_to(tmp_path / "outside")

    refusal(Application(root=root), "jobs:X")
    refusal(Application(root=root), "linked.jobs:X")

    assert ran == []


def test_a_link_within_the_project_is_followed(root: Path, ran: list[str]) -> None:
    write(root / "src" / "jobs.py")
    (root / "jobs.py").symlink_to(root / "src" / "jobs.py")

    assert Application(root=root).resolve("jobs:X").__module__ == "jobs"
    assert len(ran) == 1


@pytest.mark.parametrize("suffix", [".so", ".pyc"])
def test_what_is_no_source_file_is_not_imported(root: Path, ran: list[str], suffix: str) -> None:
    (root / f"jobs{suffix}").write_bytes(b"\x7fELF")

    refusal(Application(root=root), "jobs:X")
    write(root / "jobs.py")
    if suffix == ".so":  # which Python takes first
        refusal(Application(root=root), "jobs:X")
        assert ran == []


def test_an_archive_on_sys_path_holds_no_application(
    root: Path, ran: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "jobs.zip", "w") as archive:
        archive.writestr("jobs.py", NOTE + TASK)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "jobs.zip"), *sys.path])

    refusal(Application(root=root, path=(str(tmp_path / "jobs.zip"),)), "jobs:X")
    write(root / "jobs.py")
    refusal(Application(root=root), "jobs:X")

    assert ran == []


# -- with --app -------------------------------------------------------------------------------------


def test_with_app_only_its_packages_are_imported(root: Path, ran: list[str]) -> None:
    write(root / "other.py")
    write(root / "shop" / "__init__.py", "")
    write(root / "shop" / "jobs.py")
    application = Application(("shop",), root, path=(str(root),))

    text = refusal(application, "other:X")
    assert ran == []
    assert application.resolve("shop.jobs:X").__module__ == "shop.jobs"
    assert "shop" in text


@pytest.mark.parametrize(
    "module", ["__main__", "__init__", "setup", "conftest", "test_jobs", "tests.jobs", "sub.setup"]
)
def test_a_package_of_app_has_such_files_too(root: Path, ran: list[str], module: str) -> None:
    write(root / "shop" / "__init__.py", "")
    write(root / "shop" / "sub" / "__init__.py", "")
    write(root / "shop" / Path(*module.split(".")).with_suffix(".py"))

    refusal(Application(("shop",), root), f"shop.{module}:X")

    assert "shop." + module not in {line.partition("@")[0] for line in ran}


@pytest.mark.parametrize(
    "name", ["shop2.jobs:X", "shopx:X", "sho:X", ".shop:X", "shop.:X", "shop..jobs:X", "shop/jobs:X"]
)
def test_a_name_that_only_resembles_that_of_app_is_refused(root: Path, ran: list[str], name: str) -> None:
    write(root / "shop" / "__init__.py", "")
    write(root / "shop" / "jobs.py")
    write(root / "shop2" / "jobs.py")
    write(root / "shopx.py")

    refusal(Application(("shop",), root), name)

    assert ran == []


# -- names by chance --------------------------------------------------------------------------------

PARTS = [
    "jobs",
    "pkg",
    "plain",
    "__init__",
    "__main__",
    "setup",
    "SETUP",
    "conftest",
    "ConfTest",
    "test_x",
    "Tests",
    "x",
    "",
]
PARTS += [
    ".",
    "..",
    "/etc",
    "\uff53etup",
    "\u0455etup",
    "site-packages",
    "space",
    "linked",
    "native",
    "archived",
    "os",
    "\0",
    "a" * 300,
]
FILES = ["jobs.py", "plain.py", "setup.py", "SETUP.py", "conftest.py", "test_x.py", "Tests/jobs.py", "pkg/__init__.py"]
FILES += ["pkg/__main__.py", "pkg/setup.py", "pkg/jobs.py", "pkg/conftest.py", "space/jobs.py", "space/test_x.py"]
FILES += ["site-packages/jobs.py", "\uff53etup.py", "pkg/site-packages/jobs.py"]
MAY_RUN = {"jobs.py", "pkg/__init__.py", "pkg/jobs.py", "space/jobs.py"}


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4), st.sampled_from(["X", "", "X.X", "plain", "__init__"]))
def test_no_name_runs_another_file_than_one_that_defines_its_task(
    root: Path, ran: list[str], tmp_path: Path, parts: list[str], qualname: str
) -> None:
    if not (root / "jobs.py").exists():
        for file in FILES:
            write(root / file, "" if "plain" in file else TASK)
        write(tmp_path / "outside" / "jobs.py")
        (root / "linked").symlink_to(tmp_path / "outside")
        (root / "native.so").write_bytes(b"\x7fELF")
        with zipfile.ZipFile(root / "archived.zip", "w") as archive:
            archive.writestr("archived.py", NOTE + TASK)
    sys.path.append(str(root / "archived.zip"))
    before = set(sys.modules)
    try:
        Application(root=root).resolve(f"{'.'.join(parts)}:{qualname}")
    except UnknownTask as error:
        assert len(str(error)) < 2_000  # noqa: PT017 - most names are refused, some are not
    finally:
        sys.path.remove(str(root / "archived.zip"))
        for name in set(sys.modules) - before:
            del sys.modules[name]

    assert {str(Path(line.partition("@")[2]).relative_to(root)) for line in ran} <= MAY_RUN


# -- failures ---------------------------------------------------------------------------------------


class Known(SyncTask[None]):
    def execute(self) -> None: ...


def test_what_is_imported_already_is_found_whatever_its_name(root: Path) -> None:
    assert Application(("shop",), root).resolve(f"{__name__}:Known") is Known


def test_a_module_that_fails_is_imported_once_and_its_tasks_stay_unknown(root: Path, ran: list[str]) -> None:
    write(root / "jobs.py", TASK + "raise RuntimeError('half of it')\n")
    application = Application(root=root)

    for _ in range(3):
        assert "half of it" in refusal(application, "jobs:X")

    assert len(ran) == 1


def test_a_task_of_a_module_that_failed_below_another_stays_unknown(root: Path, ran: list[str]) -> None:
    write(root / "half.py", TASK + "raise RuntimeError('half of it')\n")
    write(root / "jobs.py", "try:\n    import half\nexcept RuntimeError: ...\n" + TASK)
    application = Application(("jobs",), root)

    application.resolve("jobs:X")

    refusal(application, "half:X")
    assert len(ran) == 2


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt", "BaseException('x')", "Hostile()"])
def test_whatever_a_module_raises_the_task_is_unknown(root: Path, ran: list[str], error: str) -> None:
    hostile = "class Hostile(Exception):\n    def __str__(self): raise SystemExit\n"
    write(root / "jobs.py", f"{TASK}{hostile}raise {error}\n")

    assert "can't be imported" in refusal(Application(root=root), "jobs:X")
    assert len(ran) == 1


def test_a_child_process_is_not_given_the_folder_it_starts_in(tmp_path: Path) -> None:
    """What a stranger left there would be imported in place of an installed library."""
    for name in ("msgpack.py", "uvloop.py"):  # the first is imported before a child is told the worker's path
        (tmp_path / name).write_text("raise SystemExit('a stranger has run')")
    (tmp_path / "jobs.py").write_text(
        "from asynctasq import SyncProcessTask\nclass X(SyncProcessTask[None]):\n    def execute(self) -> None: ...\n"
    )
    code = "import sys\nsys.path.append('')\nfrom asynctasq import init\nfrom jobs import X\n"
    code += "init(driver='sqlite')\nX().dispatch_sync()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCTASQ_")}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, check=True, timeout=SOON_S)

    script = Path(sys.executable).with_name("asynctasq")
    command = [script, "worker", "--burst", "--driver", "sqlite"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=SOON_S
    )

    assert "jobs:X" in done.stdout, done.stdout + done.stderr
    assert "a stranger" not in done.stdout + done.stderr
    assert " completed " in done.stdout
