"""Memory that is freed stays with the process, and counts for no later run."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptwise.training.memory import peak_memory, reset_peak_memory

LARGE = 16 * 2**20
ALLOCATE = f"""
import resource, sys, torch
from promptwise.training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones({LARGE})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_is_freed_is_used_again() -> None:
    """Once the heap has grown, ten tensors of 64 MiB, one after the other, take no new page."""

    def faults(how: str) -> int:
        command = [sys.executable, "-c", ALLOCATE, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 4 * LARGE // resource.getpagesize()
    assert faults("given back") > 9 * pages
    assert faults("kept") < pages // 10


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is that of the process elsewhere")
def test_a_new_peak_leaves_out_what_was_freed() -> None:
    """A process that has held a large tensor has no higher peak afterwards."""
    reset_peak_memory()
    torch.ones(LARGE)
    high = peak_memory()["process_peak_mib"]
    reset_peak_memory()
    assert peak_memory()["process_peak_mib"] < high - 50


def test_a_system_without_the_peak_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of some sandboxes tells how much is used, and not the most that was."""
    monkeypatch.setattr(Path, "read_text", lambda self: "VmSize:\t   10 kB\nVmRSS:\t   10 kB\n")
    assert peak_memory()["process_peak_mib"] > 10
