"""The pages as a whole: their links, what they import, and what they say about folders and commands."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import patient_s

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
CODE = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
IMPORT = re.compile(r"^ *(?:from|import) +(asynctasq[\w.]*)", re.MULTILINE)
FOR_USERS = re.compile(
    r"asynctasq(\.(testing(\.(strategies|conformance)(\..+)?)?|errors|limits|queue|tasks(\.cancellation)?|unique|utils\.loop"
    r"|drivers\.(base|\w+_driver)|integrations\.\w+))?"
)
"""What pages may import: no page needs the worker's parts, the rules or the registry."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the targets of a page's relative links, each with its anchor or ''."""
    for target, anchor in LINK.findall(CODE.sub("", text_of(page))):
        yield (page.parent / target if target else page).resolve(), anchor


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = HEADING.findall(CODE.sub("", text_of(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_what_exists() -> None:
    wrong = [
        f"{page.relative_to(ROOT)}: {target.relative_to(ROOT)}#{anchor}"
        for page in PAGES
        for target, anchor in links_of(page)
        if not target.exists() or (anchor and anchor not in anchors_of(target))
    ]

    assert wrong == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = {README}, [README]
    while ahead:
        for target, _ in links_of(ahead.pop()):
            found = target.glob("*.md") if target.is_dir() else [target]
            new = {page for page in found if page.suffix == ".md" and page.exists()} - reached
            reached |= new
            ahead += new

    assert sorted(str(page.relative_to(ROOT)) for page in set(PAGES) - reached) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_imports_only_what_is_for_users(page: Path) -> None:
    assert [name for name in IMPORT.findall(text_of(page)) if not FOR_USERS.fullmatch(name)] == []


def test_the_tree_of_folders_is_the_packages() -> None:
    page = text_of(ROOT / "docs" / "explanation" / "architecture.md")
    tree = page.partition("```text\nasynctasq/\n")[2].partition("```")[0]
    parents: list[str] = []
    shown = []
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        parents[depth - 1 :] = [name]
        shown.append("".join(parents))

    package = ROOT / "asynctasq"
    folders = {
        f"{init.parent.relative_to(package)}/"
        for init in package.rglob("__init__.py")
        if init.parent != package and not {"harnesses", "management"} & set(init.relative_to(package).parts)
    }

    assert {name for name in shown if name.endswith("/")} == folders
    assert [name for name in shown if not (package / name).exists()] == []


def test_the_readmes_worker_serves_the_queues_of_its_tasks(tmp_path: Path) -> None:
    """As a newcomer does: both files, a dispatch of each, and the worker command as it stands."""
    text = text_of(README)
    for name, example in re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(example, encoding="utf-8")
    [command] = re.findall(r"^\$ asynctasq (worker.*)$", text, re.MULTILINE)
    report = "import functions; functions.build_report.dispatch_sync(year=2026)"

    for arguments in (["app.py"], ["-c", report], ["-m", "asynctasq", *shlex.split(command), "--burst"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=patient_s(100),
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert "app:SendEmail" in done.stdout
    assert "functions:build_report" in done.stdout


def test_every_make_command_of_the_pages_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    told = {
        name for page in (README, ROOT / "CONTRIBUTING.md") for name in re.findall(r"`make ([a-z-]+)", text_of(page))
    }

    assert told - targets == set()
    assert {"quick", "check", "unit", "conformance", "test", "fast", "demo", "clean"} <= told
