"""What a run ran on: versions, device and peak memory, for its record."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from promptwise import __version__

if TYPE_CHECKING:
    from promptwise.backbone import Backbone


def reset_peak_memory() -> None:
    """Start to measure :func:`peak_memory` anew; one process may do many runs."""
    # As proc(5) says; where the system has no such file or does not let us, the peak is that since the process started.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """Peak memory in MiB of the process and of the accelerator since :func:`reset_peak_memory`."""
    memory = {}
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: a process inherits the peak of the one that started it.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        memory["process_peak_mib"] = int(line.split()[1]) / 1024
    elif sys.platform != "win32":
        import resource

        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        memory["process_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if torch.cuda.is_available():
        memory["device_peak_mib"] = torch.cuda.max_memory_allocated() / 1024**2
    return memory


def versions(backbone: Backbone) -> dict[str, str]:
    """Versions of what took part, and the device, threads and dtype it ran with."""
    packages = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")
    device = (
        torch.cuda.get_device_name()
        if backbone.device.type == "cuda"
        else f"{backbone.device.type} ({platform.machine()})"
    )
    return {
        "promptwise": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": device,
        "threads": str(torch.get_num_threads()),
        "dtype": str(backbone.compute_dtype).removeprefix("torch."),
    }
