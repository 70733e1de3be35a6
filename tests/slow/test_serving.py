"""A server under faults. Needs a minute or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.common import TinyFolder, load, make_prepared

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
READS = """
import os, sys, time
from pathlib import Path
from promptwise import AdapterPool
from promptwise.errors import AdapterError
folder, weights = Path(sys.argv[1]), Path(sys.argv[1]) / "one" / "adapter_model.safetensors"
pool = AdapterPool.from_backbone(sys.argv[2], folder=folder, dtype="fp32", device="cpu")
content = weights.read_bytes()
reader = os.getpid()
cutting = os.fork()
if cutting == 0:
    file = os.open(weights, os.O_RDWR)
    while os.getppid() == reader:
        os.ftruncate(file, 0)
        os.pwrite(file, content, 0)
until, counts = time.monotonic() + 10, [0, 0]
try:
    while time.monotonic() < until:
        try:
            pool.reload("one")
            counts[0] += 1
        except AdapterError:
            counts[1] += 1
finally:
    os.kill(cutting, 9)
print(*counts)
"""


@pytest.mark.slow
def test_a_file_that_is_cut_while_it_is_read_kills_nobody(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """A mapped file would: the system ends a process that looks beyond the end of one."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prefix", strategy="encoder", encoder="mlp")
    model.save_pretrained(tmp_path / "one")
    command = [sys.executable, "-c", READS, str(tmp_path), str(tiny_folder("bert"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert int(done.stdout.split()[1]) > 0, "some were read while they were cut"


@pytest.mark.slow
def test_nothing_is_wrong_or_lost_under_faults(tmp_path: Path) -> None:
    """Whatever breaks, every request is answered rightly, refused, or answered when it is sent again."""
    file = tmp_path / "faults.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "serving_faults.py"), "--seconds", "2", "--json", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["wrong"], found["lost"], found["tracebacks"]) == (0, 0, 0), found["examples"]
    faults = found["faults"]
    assert faults["log on a full disk"]["log bytes"] == 64 * 1024
    assert faults["saved on a full disk"]["saving left the adapter as it was"]
    assert faults["SIGKILL and restart"]["exit code"] == -9
    assert faults["SIGKILL and restart"]["sent again"] > 0
    assert faults["files cut"]["rows refused by name"] > 0
    assert faults["clients that hang"]["half bodies told"] == {"408": 32}
    ended = faults["SIGTERM"]
    assert (ended["exit code"], ended["arrived of them"]) == (0, ended["answered by the server"])
    assert all(one["answered"] > 0 for one in faults.values())
