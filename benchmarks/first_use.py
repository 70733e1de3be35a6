"""How long the commands take that a person waits for: seconds of the whole process, the first one and the median.

The first start finds files that the system may not have read yet; ``--drop-caches`` makes sure of it, as root on Linux.

    python benchmarks/first_use.py --adapter runs/demo/instance-wise --rounds 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """How long a command takes.

    Raises:
        CalledProcessError: It fails.
    """
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="runs/demo/instance-wise", help="a saved adapter")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drop-caches", action="store_true", help="before the first start of each command")
    arguments = parser.parse_args()
    program = [str(Path(sys.executable).parent / "promptwise")]
    commands = {
        "--help": ["--help"],
        "info": ["info", arguments.adapter],
        "predict --text": ["predict", "--adapter", arguments.adapter, "--text", "A sentence that nobody has seen."],
    }
    print("| command | first start, s | median, s |")
    print("|---|---|---|")
    for name, rest in commands.items():
        if arguments.drop_caches:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        times = [seconds([*program, *rest]) for _ in range(arguments.rounds)]
        print(f"| `{name}` | {times[0]:.2f} | {statistics.median(times):.2f} |")


if __name__ == "__main__":
    main()
