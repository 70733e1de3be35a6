"""Prefix tuning: keys and values before those of every attention layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from promptwise.backbone import Backbone
from promptwise.injectors.attention import use_prefix_attention
from promptwise.injectors.base import Injector, PromptShape
from promptwise.instance import Instance, Prompt

# The paper adds the instance's keys and values to the shared prefix of the first layer, scaled by this.
INSTANCE_SCALE = 0.05


class PrefixInjector(Injector):
    """``K`` keys and values for each of ``L`` layers (Li and Liang, 2021; P-tuning v2; paper, section 2).

    A task-level strategy is asked for the whole prefix, ``W = L x 2 x A x D`` with ``A`` key/value heads of size
    ``D``. For an instance-wise strategy the injector owns that shared prefix, and the strategy's vectors, of
    width ``2 x A x D``, are added to the first layer's, scaled by 0.05. Where an instance has no vector for a slot
    the shared prefix stays as it is. The prompts take no positions of the model.

    An encoder-decoder gets its prefix in the encoder.
    """

    def __init__(self, backbone: Backbone, length: int, instance_wise: bool) -> None:
        super().__init__(backbone, length, instance_wise)
        layers = use_prefix_attention(backbone)
        self.layers, self.heads, self.head_size = len(layers), layers[0].heads, layers[0].head_size
        layer_width = 2 * self.heads * self.head_size
        scale = 0.5
        width = layer_width if instance_wise else self.layers * layer_width
        self.shape = PromptShape(length, width=width, embedding_size=backbone.embedding_size, init_scale=scale)
        self.prefix: nn.Parameter | None = None
        if instance_wise:
            self.prefix = nn.Parameter(torch.empty(length, self.layers * layer_width).uniform_(-scale, scale))

    def forward(self, backbone: Backbone, instance: Instance, prompt: Prompt, token_types: Tensor | None) -> Tensor:
        """See :meth:`Injector.forward`; ``prompt.vectors`` is ``[B, K, W]``."""
        return backbone.run(
            instance,
            instance.embeddings,
            instance.mask,
            token_types=token_types,
            **self._attention_arguments(prompt),
        )

    def _attention_arguments(self, prompt: Prompt) -> dict[str, Any]:
        """Per layer the keys and values ``[2, B or 1, A, K, D]``."""
        vectors = prompt.vectors
        if self.prefix is None:
            prefix = self._per_layer(vectors)
            return {"prompt_keys_values": prefix.unbind(0)}
        shared = self._per_layer(self.prefix.unsqueeze(0))
        scaled = vectors * prompt.mask.unsqueeze(-1) * INSTANCE_SCALE
        first = shared[0] + scaled.unflatten(-1, (2, self.heads, self.head_size)).permute(2, 0, 3, 1, 4)
        return {"prompt_keys_values": (first, *shared[1:].unbind(0))}

    def _per_layer(self, prefix: Tensor) -> Tensor:
        """``[B, K, L*2*A*D]`` as ``[L, 2, B, A, K, D]``."""
        shape = (self.layers, 2, self.heads, self.head_size)
        layers: Tensor = prefix.unflatten(-1, shape).permute(2, 3, 0, 4, 1, 5)
        return layers
