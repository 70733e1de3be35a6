"""Prefix tuning: keys and values before those of every attention layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptwise.backbones.attention_setup import use_prefix_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector

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
        self.dtype = backbone.compute_dtype
        layer_width = 2 * self.heads * self.head_size
        scale = 0.5
        width = layer_width if instance_wise else self.layers * layer_width
        self.shape = PromptShape(length, width=width, embedding_size=backbone.embedding_size, init_scale=scale)
        self.prefix: nn.Parameter | None = None
        if instance_wise:
            self.prefix = nn.Parameter(torch.empty(length, self.layers * layer_width).uniform_(-scale, scale))

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`; ``prompt.vectors`` is ``[B or 1, K, W]``."""
        return Injection(len(instance.ids), prefix=self._keys_values(prompt))

    def _keys_values(self, prompt: Prompt) -> tuple[Tensor, ...]:
        """Per layer the keys and values ``[2, B or 1, A, K, D]`` in the dtype of the model's own."""
        dtype = self.dtype
        if self.prefix is None:
            return self._per_layer(prompt.vectors.to(dtype)).unbind(0)
        scale = INSTANCE_SCALE if prompt.mask is None else (prompt.mask * INSTANCE_SCALE).unsqueeze(-1)
        first, *rest = self._per_layer(self.prefix.unsqueeze(0)).split([1, self.layers - 1])
        own = (prompt.vectors * scale).unflatten(-1, (2, self.heads, self.head_size)).permute(2, 0, 3, 1, 4)
        return ((first.squeeze(0) + own).to(dtype), *(layer for part in rest for layer in part.to(dtype).unbind(0)))

    def _per_layer(self, prefix: Tensor) -> Tensor:
        """``[B, K, L*2*A*D]`` as ``[L, 2, B, A, K, D]``."""
        shape = (self.layers, 2, self.heads, self.head_size)
        layers: Tensor = prefix.unflatten(-1, shape).permute(2, 3, 0, 4, 1, 5)
        return layers
