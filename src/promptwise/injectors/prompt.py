"""Prompt tuning: vectors before the input embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from promptwise.backbone import Backbone
from promptwise.injectors.attention import use_own_attention
from promptwise.injectors.base import Injector, PromptShape
from promptwise.instance import Instance, Prompt, gather_rows, left_order


class PromptInjector(Injector):
    """Prepends ``K`` vectors of width ``E`` to the input embeddings (Lester et al., 2021; paper, section 2).

    Slots without a vector are left out of the sequence, so a short text is the same input alone and in a batch.
    The prompts take ``K`` of the model's positions.
    """

    def __init__(self, backbone: Backbone, length: int, instance_wise: bool) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass; elsewhere torch's own attention is the faster one.
            use_own_attention(backbone)
        size = backbone.embedding_size
        # The paper starts prompts at U(-0.5, 0.5).
        self.shape = PromptShape(length, width=size, embedding_size=size, init_scale=0.5)
        self.reserved_positions = length

    def forward(self, backbone: Backbone, instance: Instance, prompt: Prompt, token_types: Tensor | None) -> Tensor:
        """See :meth:`Injector.forward`; ``prompt.vectors`` is ``[B, K, E]``."""
        vectors = prompt.vectors.to(instance.embeddings.dtype)
        mask = torch.cat([prompt.mask, instance.mask], dim=1)
        order = left_order(mask)
        embeddings = gather_rows(torch.cat([vectors, instance.embeddings], dim=1), order)
        types = None
        if token_types is not None:
            types = torch.nn.functional.pad(token_types, (prompt.mask.shape[1], 0)).gather(1, order)
        start = prompt.mask.sum(1, keepdim=True)
        positions = start + torch.arange(instance.ids.shape[1], device=start.device)
        return backbone.run(instance, embeddings, mask.gather(1, order), positions=positions, token_types=types)
