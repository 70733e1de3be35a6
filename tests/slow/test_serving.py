"""A server under faults. Needs a minute or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
READS = """
import os, sys, time
from pathlib import Path
from promptwise.errors import AdapterError
from safetensors import SafetensorError
from promptwise.serving.loading import AdapterLoader
weights = Path(sys.argv[1])
content = weights.read_bytes()
reader = os.getpid()
cutting = os.fork()
if cutting == 0:
    file = os.open(weights, os.O_RDWR)
    while os.getppid() == reader:
        os.ftruncate(file, 0)
        os.pwrite(file, content, 0)
    os._exit(0)
loader = AdapterLoader(None, 2**30)
until, cut = time.monotonic() + 15, 0
try:
    while time.monotonic() < until:
        try:
            # The part of reading an adapter in which its file may be cut.
            loader._check_size(weights, {})
        except (AdapterError, ValueError, OSError, RuntimeError, SafetensorError) as error:
            cut += "has no place" not in str(error)
finally:
    os.kill(cutting, 9)
print(cut)
"""


@pytest.mark.slow
def test_a_file_that_is_cut_while_it_is_read_kills_nobody(tmp_path: Path) -> None:
    """A mapped file would: the system ends a process that looks beyond the end of one."""
    weights = tmp_path / "adapter_model.safetensors"
    save_file({f"tensor-{number}": torch.zeros(1000) for number in range(400)}, weights)
    done = subprocess.run([sys.executable, "-c", READS, str(weights)], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert int(done.stdout) > 0, "some were read while they were cut"


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
