"""Prompt tuning: vectors before the input embeddings, or before the hidden states that enter a later layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from promptwise.backbones.attention_setup import use_own_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector
from promptwise.injectors.layers import entry_layer
from promptwise.injectors.settings import PromptSettings


class PromptInjector(Injector):
    """Prepends ``K`` vectors of width ``E`` to the input embeddings (Lester et al., 2021; paper, section 2).

    Slots without a vector are left out of the sequence, so a short text is the same input alone and in a batch.
    The prompts take ``K`` of the model's positions.

    With ``from_layer`` the vectors have the width ``H`` of hidden states and come before those that enter that layer
    (late prompt tuning, Liu et al., 2022, arXiv 2210.11292), so the layers below see the text alone.
    """

    settings: ClassVar[type] = PromptSettings

    def __init__(
        self,
        backbone: Backbone,
        length: int,
        instance_wise: bool,
        from_layer: int = PromptSettings.from_layer,
        init_scale: float = PromptSettings.init_scale,
        init: str = PromptSettings.init,
    ) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass; elsewhere torch's own attention is the faster one.
            use_own_attention(backbone)
        self.from_layer = entry_layer(backbone, from_layer)
        size = backbone.embedding_size
        self.shape = PromptShape(
            length,
            width=backbone.layer_size if self.from_layer else size,
            embedding_size=size,
            init_scale=init_scale,
            hidden_size=backbone.layer_size,
        )
        self.reserved_positions = length

    def first_values(self, backbone: Backbone, ids: Tensor) -> Tensor:
        """See :meth:`Injector.first_values`: frozen word embeddings ``[K, E]``, above layer 0 states ``[K, H]``."""
        embeddings = backbone.embed(ids)
        if self.from_layer == 0:
            return embeddings.float()
        there = torch.ones_like(ids, dtype=torch.bool).unsqueeze(0)
        words = Instance(ids.unsqueeze(0), there, there, embeddings.unsqueeze(0))
        return backbone.states(words, self.from_layer).squeeze(0).float()

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`; ``prompt.vectors`` is ``[B or 1, K, E]``, above layer 0 ``[.., H]``."""
        return Injection(instance.ids.shape[0], prompt=prompt.vectors, prompt_mask=prompt.mask)
