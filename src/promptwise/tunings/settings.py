"""What the tunings can be told; no torch here, so that the command line knows it without importing any."""

from __future__ import annotations

from dataclasses import dataclass

from promptwise.config.settings import setting


@dataclass(frozen=True)
class TuningSettings:
    """Settings of a tuning that has none."""


@dataclass(frozen=True)
class LoraSettings(TuningSettings):
    """Of :class:`~promptwise.tunings.lora.LoRA`."""

    lora_rank: int = setting(4, "Rank r of the low-rank updates; alpha is r, so their scale is 1.", minimum=1)
