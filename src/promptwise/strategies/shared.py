"""The task-level baseline."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from promptwise.injectors.base import PromptShape
from promptwise.instance import Instance, Prompt
from promptwise.strategies.base import Strategy


class SharedPrompt(Strategy):
    """One prompt for the whole task: prompt tuning or prefix tuning (paper, section 2)."""

    instance_wise: ClassVar[bool] = False

    def __init__(self, shape: PromptShape) -> None:
        super().__init__(shape)
        values = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.vectors = nn.Parameter(values)

    def forward(self, instance: Instance) -> Prompt:
        """The same ``[K, W]`` vectors for every row of the batch."""
        batch = instance.ids.shape[0]
        mask = torch.ones(batch, self.shape.length, dtype=torch.bool, device=instance.ids.device)
        return Prompt(self.vectors.expand(batch, -1, -1), mask)
