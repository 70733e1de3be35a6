"""The memory of this process: what is freed is kept for the next step, and the peak is measured."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step; it costs programs that end soon nothing.

    A training step asks for the same hundreds of megabytes again and again. glibc gives large blocks back to the system
    when they are freed, which maps and clears each page anew: up to a third of a step on a CPU (``LOG.md``). Other C
    libraries are left alone.
    """
    libc = _libc()
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def reset_peak_memory() -> None:
    """Start to measure :func:`peak_memory` anew; one process may do many runs."""
    import torch

    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        # Memory that an earlier run freed would count towards this run's peak.
        libc.malloc_trim(0)
    # Writing 5 resets the peak, see proc(5). Where that is not possible the peak is that since the process started.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Peak memory in MiB of the process and of the accelerator since :func:`reset_peak_memory`."""
    import torch

    memory = {}
    peak = _peak_of_linux()
    if peak is not None:
        memory["process_peak_mib"] = peak
    elif sys.platform != "win32":
        import resource

        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        memory["process_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if torch.cuda.is_available():
        memory["device_peak_mib"] = torch.cuda.max_memory_allocated() / 1024**2
    return memory


def _peak_of_linux() -> float | None:
    """Peak memory in MiB as the kernel tells it, where there is such a file and such a line: gVisor has none.

    It is not that of getrusage, where a new process starts from the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else None


@cache
def _libc() -> ctypes.CDLL | None:
    """The C library of this process, where it is Linux's."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None
