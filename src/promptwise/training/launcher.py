"""What a launcher such as ``torchrun`` says to the processes that it starts; no torch here."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes train one model together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
