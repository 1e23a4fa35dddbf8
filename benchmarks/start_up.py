"""Import and start-up time beside `python -c pass`, as ratios in one run.

    python benchmarks/start_up.py [--rounds 15]

Whole processes, in turns; medians. `worker` starts a worker on an empty SQLite queue with --burst and ends.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

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
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                started = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["python -c pass"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:<34} {median * 1000:7.0f} ms   {median / base:5.1f} x python -c pass")


if __name__ == "__main__":
    main()
