"""First values from a seed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_ALONE = threading.RLock()
"""All threads draw from one generator, which must not be put back while another one has seeded it."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """First values from ``seed``, and the global generator left as it was."""
    with _ALONE, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
