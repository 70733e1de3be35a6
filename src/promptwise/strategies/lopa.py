"""LoPA: a task prompt whose numbers a gate of the input turns up and down."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import LopaSettings
from promptwise.strategies.text_vectors import text_read, width_read


class GatedPrompt(Strategy):
    """``Z = 2 Z_s * sigmoid(Z_I)``, a task prompt ``Z_s`` ``[K, W]`` and a gate of low rank ``Z_I = U(x) V``.

    LoPA (Jain et al., arXiv 2405.15282) has ``Z = Z_s * sigmoid(Z_I)`` with ``Z_I`` of rank ``r``. Here
    ``U(x)`` ``[K, r]`` is a linear map of the text's mean ``[R]`` (:func:`~.text_vectors.text_read`), and ``V``
    ``[r, W]`` is learnt and the same for all texts, where the paper makes it from the input too: a map to ``r x W``
    numbers would be the larger part of the adapter where ``W`` holds the keys and values of several layers. The paper
    reads an encoder of its own; here it is the backbone's embeddings, or the states of one of its layers.

    ``V`` starts at zero, where the gate is one half, so that with the factor 2 training starts from the task prompt.

    Args:
        shape: What the injector asks for.
        lopa_rank: ``r``.
        reads_layer: The layer whose incoming states ``[B, T, H]`` are read in place of the frozen word embeddings.
    """

    settings: ClassVar[type] = LopaSettings
    lr_scale: ClassVar[float] = 0.3
    stacks = True
    task_prompt: ClassVar[str | None] = "task"

    def __init__(
        self,
        shape: PromptShape,
        lopa_rank: int = LopaSettings.lopa_rank,
        reads_layer: int | None = LopaSettings.reads_layer,
    ) -> None:
        super().__init__(shape)
        self.reads_layer = reads_layer
        values = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.task = nn.Parameter(values)
        self.codes = nn.Linear(width_read(shape, reads_layer), shape.length * lopa_rank)
        self.up = nn.Parameter(torch.zeros(lopa_rank, shape.width))

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real; an empty text has the gate of the map's bias."""
        codes = self.codes(text_read(instance, self.reads_layer)).unflatten(-1, (self.shape.length, -1))
        return Prompt(2 * self.task * torch.sigmoid(codes @ self.up))
