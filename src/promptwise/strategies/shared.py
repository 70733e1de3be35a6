"""The task-level baseline."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import SharedSettings


class SharedPrompt(Strategy):
    """One prompt for the whole task: prompt tuning or prefix tuning (paper, section 2)."""

    settings: ClassVar[type] = SharedSettings
    instance_wise: ClassVar[bool] = SharedSettings.instance_wise
    task_prompt: ClassVar[str | None] = "vectors"

    def __init__(self, shape: PromptShape) -> None:
        super().__init__(shape)
        values = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.vectors = nn.Parameter(values)

    def forward(self, instance: Instance) -> Prompt:
        """The same vectors ``[1, K, W]`` for every instance."""
        return Prompt(self.vectors.unsqueeze(0))
