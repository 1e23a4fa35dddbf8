"""The Python examples of README and docs run as the pytest files or scripts they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!-- fails: (.*?) -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""An example, and the text it fails with if it is there to fail."""
HOW_TO = ("replay-a-failure", "simulate-crashes", "test-django", "test-retries")
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial" / "testing.md",
    *(ROOT / "docs" / "how-to" / f"{name}.md" for name in HOW_TO),
]
EXAMPLES = [
    (f"{page.stem}-{number}", *found)
    for page in PAGES
    for number, found in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("name", "fails_with", "text"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])
def test_example_runs(name: str, fails_with: str, text: str, tmp_path: Path) -> None:
    is_test = "def test_" in text and "__main__" not in text
    path = tmp_path / ("test_example.py" if is_test else "app.py")
    path.write_text(text, encoding="utf-8")
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"] if is_test else []

    done = subprocess.run(
        [sys.executable, *options, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )

    assert done.returncode == (1 if fails_with else 0), done.stdout + done.stderr
    assert fails_with in done.stdout


def test_pages_link_only_to_what_exists() -> None:
    link = re.compile(r"\]\((?!https?:)([^)#]+)\)")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]

    assert missing == []
