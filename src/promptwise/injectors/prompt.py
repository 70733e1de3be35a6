"""Prompt tuning: vectors before the input embeddings."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from promptwise.backbones.attention import use_own_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance, gather_rows, left_order
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector
from promptwise.injectors.settings import PromptSettings


class PromptInjector(Injector):
    """Prepends ``K`` vectors of width ``E`` to the input embeddings (Lester et al., 2021; paper, section 2).

    Slots without a vector are left out of the sequence, so a short text is the same input alone and in a batch.
    The prompts take ``K`` of the model's positions.
    """

    settings: ClassVar[type] = PromptSettings

    def __init__(
        self, backbone: Backbone, length: int, instance_wise: bool, init_scale: float = PromptSettings.init_scale
    ) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass; elsewhere torch's own attention is the faster one.
            use_own_attention(backbone)
        size = backbone.embedding_size
        self.shape = PromptShape(length, width=size, embedding_size=size, init_scale=init_scale)
        self.reserved_positions = length

    def forward(self, backbone: Backbone, instance: Instance, prompt: Prompt, token_types: Tensor | None) -> Tensor:
        """See :meth:`Injector.forward`; ``prompt.vectors`` is ``[B or 1, K, E]``."""
        length = prompt.vectors.shape[1]
        vectors = prompt.vectors.to(instance.embeddings.dtype).expand(len(instance.ids), -1, -1)
        embeddings = torch.cat([vectors, instance.embeddings], dim=1)
        types = None if token_types is None else torch.nn.functional.pad(token_types, (length, 0))
        if prompt.mask is None:
            mask = torch.nn.functional.pad(instance.mask, (length, 0), value=True)
            return backbone.run(instance, embeddings, mask, positions=slice(length, None), token_types=types)
        mask = torch.cat([prompt.mask, instance.mask], dim=1)
        order = left_order(mask)
        start = prompt.mask.sum(1, keepdim=True)
        return backbone.run(
            instance,
            gather_rows(embeddings, order),
            mask.gather(1, order),
            positions=start + torch.arange(instance.ids.shape[1], device=start.device),
            token_types=None if types is None else types.gather(1, order),
        )
