"""Import and start-up time beside `python -c pass` and beside another checkout, as ratios in one run.

    python benchmarks/start_up.py [--rounds 15] [--beside FOLDER]

Whole processes, in turns; medians. `worker` starts a worker on an empty SQLite queue with --burst and ends. As in an
installed package, modules are compiled already: the first round, which compiles them, does not count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import asyncio": [sys.executable, "-c", "import asyncio"],
    "import asynctasq": [sys.executable, "-c", "import asynctasq"],
    "import asynctasq, first dispatch": [
        sys.executable,
        "-c",
        "import asynctasq\n@asynctasq.task\ndef f(): pass\nf.task_class._task_name = 'm:f'\nf().dispatch_sync()",
    ],
    "asynctasq --version": [sys.executable, "-m", "asynctasq", "--version"],
    "asynctasq worker --burst": [sys.executable, "-m", "asynctasq", "worker", "--burst", "--quiet"],
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", type=Path, help="the root of another checkout")
    arguments = parser.parse_args()
    roots = [Path(__file__).parents[1], *([arguments.beside.resolve()] if arguments.beside else [])]
    seconds: dict[tuple[str, Path], list[float]] = {}
    for _ in range(arguments.rounds + 1):
        for name, command in COMMANDS.items():
            for root in roots:
                seconds.setdefault((name, root), []).append(_run(command, root))
    median = {key: statistics.median(taken[1:]) for key, taken in seconds.items()}
    for name in COMMANDS:
        own, base = median[name, roots[0]], median["python -c pass", roots[0]]
        beside = f"   {own / median[name, roots[1]]:5.2f} x {roots[1].name}" if len(roots) > 1 else ""
        print(f"{name:<34} {own * 1000:7.0f} ms   {own / base:5.1f} x python -c pass{beside}")


@cache
def _folder(_root: Path) -> "tempfile.TemporaryDirectory[str]":
    """Return the folder that the queue of a checkout is in, until the end: they may differ in its schema."""
    return tempfile.TemporaryDirectory()


def _run(command: list[str], root: Path) -> float:
    variables = {**os.environ, "PYTHONPATH": str(root)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    subprocess.run(
        command, cwd=_folder(root).name, env=variables, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
