"""A name in a message is never a reason to import what is not the application's."""

import os
import sys
from pathlib import Path

import pytest

from asynctasq.errors import UnknownTask
from asynctasq.tasks import AsyncTask
from asynctasq.tasks.registry import Application, project_root, register, registered

MODULE = "from asynctasq import AsyncTask\n\nclass Found(AsyncTask[None]):\n    async def execute(self): ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Known(AsyncTask[None]):
    async def execute(self) -> None: ...


def test_a_task_whose_module_is_imported_is_found_by_name() -> None:
    assert Application().resolve(f"{__name__}:Known") is Known


def test_a_module_in_the_project_root_is_imported_when_needed(project: Path) -> None:
    (project / "reg_found.py").write_text(MODULE)

    assert Application((), project).resolve("reg_found:Found").__name__ == "Found"


def test_a_package_in_the_project_root_is_imported_when_needed(project: Path) -> None:
    (project / "reg_pkg").mkdir()
    (project / "reg_pkg" / "__init__.py").write_text("")
    (project / "reg_pkg" / "jobs.py").write_text(MODULE)

    assert Application((), project).resolve("reg_pkg.jobs:Found").__module__ == "reg_pkg.jobs"


def test_a_module_below_a_named_one_is_imported_when_needed(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (project / "reg_named").mkdir()
    (project / "reg_named" / "__init__.py").write_text("")
    (project / "reg_named" / "jobs.py").write_text(MODULE)

    assert Application(("reg_named",)).resolve("reg_named.jobs:Found").__module__ == "reg_named.jobs"


@pytest.mark.parametrize(
    "name",
    [
        "subprocess:Popen",
        "os:system",
        "builtins:eval",
        "antigravity:x",
        "this:x",
        "reg_outside:Found",
        "../reg_outside:Found",
        "/etc/passwd:x",
        "reg_pkg/evil:Found",
        ".reg_outside:Found",
        "..reg_outside:Found",
        "reg outside:Found",
        ":",
        "",
        ":Found",
        "a:b:c",
        "\x00:x",
        "reg_trap:Trap",
        "site-packages.reg_inside:Found",
    ],
)
def test_what_is_not_the_applications_is_never_imported(
    name: str, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    for folder, module in ((outside, "reg_outside"), (outside, "reg_trap"), (project, "site-packages/reg_inside")):
        (folder / f"{module}.py").parent.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(MODULE)
    sys.path.insert(1, str(outside))
    before = set(sys.modules)
    try:
        with pytest.raises(UnknownTask):
            Application((), project).resolve(name)
    finally:
        sys.path.remove(str(outside))

    assert set(sys.modules) - before == set()


def test_an_attribute_of_an_application_module_is_not_a_task(project: Path) -> None:
    (project / "reg_attrs.py").write_text(f"import subprocess\nfrom subprocess import Popen\n{MODULE}")

    for name in ("reg_attrs:Popen", "reg_attrs:subprocess.Popen", "reg_attrs:AsyncTask", "reg_attrs:__name__"):
        with pytest.raises(UnknownTask):
            Application((), project).resolve(name)


def test_a_name_nobody_knows_is_told_with_the_nearest_and_what_was_looked_at(project: Path) -> None:
    name = f"{__name__}:Knwon"

    with pytest.raises(UnknownTask, match=f"did you mean '{__name__}:Known'.*--app: shop; project root: ") as caught:
        Application(("shop",), project).resolve(name)
    assert str(project) in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import a_library_nobody_has", "a_library_nobody_has"),
        ("def broken(:", "invalid syntax"),
        ("raise RuntimeError('no database')", "no database"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_makes_an_unknown_task_not_a_dead_worker(
    source: str, words: str, project: Path
) -> None:
    (project / "reg_broken.py").write_text(source)

    with pytest.raises(UnknownTask, match=words):
        Application((), project).resolve("reg_broken:Found")


def test_a_later_definition_of_a_name_replaces_the_earlier() -> None:
    class Again(AsyncTask[None]):
        async def execute(self) -> None: ...

    register("reg_again:Again", Known)
    register("reg_again:Again", Again)

    assert registered("reg_again:Again") is Again


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.py", "setup.cfg"])
def test_the_project_root_is_the_nearest_folder_with_a_project_file(marker: str, tmp_path: Path) -> None:
    (tmp_path / marker).touch()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert project_root(below) == tmp_path.resolve()


def test_without_a_project_file_the_root_is_where_one_stands(tmp_path: Path) -> None:
    assert project_root(tmp_path) == tmp_path.resolve()


def test_the_default_start_is_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")

    assert project_root() == tmp_path.resolve()
    assert Path(os.getcwd()) == tmp_path.resolve() / "src"
