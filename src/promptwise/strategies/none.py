"""No prompt at all: the comparison that shows what a prompt adds."""

from __future__ import annotations

from typing import ClassVar

import torch

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import NoPromptSettings


class NoPrompt(Strategy):
    """Zero vectors: linear probing with the classifier head, fine-tuning where the backbone is tuned too."""

    settings: ClassVar[type] = NoPromptSettings
    instance_wise: ClassVar[bool] = NoPromptSettings.instance_wise
    makes_vectors: ClassVar[bool] = NoPromptSettings.makes_vectors

    def __init__(self, shape: PromptShape) -> None:
        super().__init__(shape)

    def forward(self, instance: Instance) -> Prompt:
        """Empty vectors ``[1, 0, W]``."""
        return Prompt(torch.zeros(1, 0, self.shape.width, device=instance.ids.device))
