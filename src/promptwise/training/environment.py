"""What a run ran on: versions and device, for its record."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

import torch

from promptwise import __version__

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone


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
