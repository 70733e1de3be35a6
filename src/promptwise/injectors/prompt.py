"""Prompt tuning: vectors before the input embeddings."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from promptwise.backbones.attention_setup import use_own_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
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
        self,
        backbone: Backbone,
        length: int,
        instance_wise: bool,
        init_scale: float = PromptSettings.init_scale,
        init: str = PromptSettings.init,
    ) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass; elsewhere torch's own attention is the faster one.
            use_own_attention(backbone)
        size = backbone.embedding_size
        self.shape = PromptShape(
            length, width=size, embedding_size=size, init_scale=init_scale, hidden_size=backbone.layer_size
        )
        self.reserved_positions = length

    def first_values(self, backbone: Backbone, ids: Tensor) -> Tensor:
        """See :meth:`Injector.first_values`: the frozen word embeddings ``[K, E]``."""
        return backbone.embed(ids).float()

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`; ``prompt.vectors`` is ``[B or 1, K, E]``."""
        return Injection(len(instance.ids), prompt=prompt.vectors, prompt_mask=prompt.mask)
