"""What an idle worker on SQLite costs, and how soon a message of another process starts there.

    python benchmarks/idle_sqlite.py [SOURCE ...] [--seconds 20] [--messages 20]

SOURCE is a folder that holds an `asynctasq` package (default: this one); with two, the second is also shown as a ratio
to the first. Per source: processor time as a share of one core and voluntary context switches of the whole worker
process while nothing happens, then the time from before `enqueue` to the first line of the task, of messages that come
after a pause of more than two seconds. Linux only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APPLICATION = """
import time
from asynctasq import task

@task
async def note(sent_at: float) -> None:
    with open("latencies", "a") as file:
        file.write(f"{time.time() - sent_at}\\n")
"""

DISPATCH = """
import asyncio, random, sys, time
import idle_app
from asynctasq import init

async def main():
    init(driver="sqlite:///queue.db")
    await idle_app.note(0.0).dispatch()
    for _ in range(int(sys.argv[1])):
        await asyncio.sleep(random.uniform(2.1, 2.6))
        await idle_app.note(time.time()).dispatch()
    await asyncio.sleep(0.5)

asyncio.run(main())
"""


def counters(pid: int) -> tuple[float, int]:
    """Return processor seconds and voluntary context switches of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    switches = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        status = (thread / "status").read_text()
        switches += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return seconds, switches


def measure(source: str, seconds: float, messages: int) -> dict[str, float]:
    """Run one worker of `source` and return what it cost."""
    environment = {**os.environ, "PYTHONPATH": source}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "idle_app.py").write_text(APPLICATION)
        command = [sys.executable, "-m", "asynctasq", "worker", "--app", "idle_app", "--driver", "sqlite:///queue.db"]
        worker = subprocess.Popen([*command, "--quiet"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            time.sleep(6)  # its start is not what is measured
            before, switched = counters(worker.pid)
            time.sleep(seconds)
            after, switched_since = counters(worker.pid)
            dispatching = [sys.executable, "-c", DISPATCH, str(messages)]
            subprocess.run(dispatching, cwd=folder, env=environment, check=True)
            lines = (Path(folder) / "latencies").read_text().splitlines()
        finally:
            worker.terminate()
            worker.wait()
    latencies = sorted(float(line) * 1000 for line in lines[1:])
    return {
        "cpu_percent": 100 * (after - before) / seconds,
        "switches_per_s": (switched_since - switched) / seconds,
        "latency_p50_ms": statistics.median(latencies),
        "latency_p90_ms": latencies[int(len(latencies) * 0.9)],
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=[str(Path(__file__).parents[1])])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--messages", type=int, default=20)
    options = parser.parse_args()
    results = [measure(os.path.abspath(source), options.seconds, options.messages) for source in options.sources]
    for source, result in zip(options.sources, results, strict=True):
        print(source, json.dumps({name: round(value, 3) for name, value in result.items()}))
    if len(results) == 2:
        first, second = results
        print("ratio", json.dumps({name: round(second[name] / first[name], 3) for name in first if first[name]}))


if __name__ == "__main__":
    main()
