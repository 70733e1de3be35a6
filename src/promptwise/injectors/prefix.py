"""Prefix tuning: keys and values before those of every attention layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from promptwise.backbones.attention_setup import use_prefix_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Injection
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector
from promptwise.injectors.layers import entry_layer, layer_numbers
from promptwise.injectors.settings import PrefixSettings


class PrefixInjector(Injector):
    """``K`` keys and values for each of ``L`` layers (Li and Liang, 2021; P-tuning v2; paper, section 2).

    A task-level strategy is asked for the whole prefix, ``W = L x 2 x A x D`` with ``A`` key/value heads of size
    ``D``. For an instance-wise strategy the injector owns that shared prefix, and the strategy's vectors, of
    width ``n x 2 x A x D``, are added to that of ``n`` layers, scaled. The paper has the first layer alone and a factor
    of 0.05. Where an instance has no vector for a slot the shared prefix stays as it is. The prompts take no positions
    of the model.

    An encoder-decoder gets its prefix in the encoder. With ``from_layer`` ``L`` counts the layers from that one on, and
    there is no prefix below.

    Args:
        backbone: The frozen model.
        length: ``K``.
        instance_wise: Whether the strategy makes a prompt of each instance.
        from_layer: The first layer that gets a prefix.
        init_scale: The shared prefix starts at U(-init_scale, init_scale).
        layers: The layers that an instance's vectors are added to: ``all``, ``first``, or numbers as in ``0,3,5``.
        instance_scale: The factor of what is added.
        init: What the shared prefix starts from in place of that; see :mod:`promptwise.models.first_values`.

    Raises:
        ConfigError: The backbone has no layer of such a number.
    """

    settings: ClassVar[type] = PrefixSettings
    task_prompt: ClassVar[str | None] = "prefix"

    def __init__(
        self,
        backbone: Backbone,
        length: int,
        instance_wise: bool,
        from_layer: int = PrefixSettings.from_layer,
        init_scale: float = PrefixSettings.init_scale,
        layers: str = PrefixSettings.layers,
        instance_scale: float = PrefixSettings.instance_scale,
        init: str = PrefixSettings.init,
    ) -> None:
        super().__init__(backbone, length, instance_wise)
        attention = use_prefix_attention(backbone)
        self.from_layer = entry_layer(backbone, from_layer)
        self.layers, self.heads, self.head_size = len(attention), attention[0].heads, attention[0].head_size
        self.instance_layers = layer_numbers(layers, self.layers, backbone.name, lowest=self.from_layer)
        self.instance_scale = instance_scale
        self.dtype = backbone.compute_dtype
        layer_width = 2 * self.heads * self.head_size
        prefixed = self.layers - self.from_layer
        width = (len(self.instance_layers) if instance_wise else prefixed) * layer_width
        self.shape = PromptShape(
            length,
            width=width,
            embedding_size=backbone.embedding_size,
            init_scale=init_scale,
            hidden_size=backbone.layer_size,
        )
        self.prefix: nn.Parameter | None = None
        if instance_wise:
            self.prefix = nn.Parameter(torch.empty(length, prefixed * layer_width).uniform_(-init_scale, init_scale))

    def first_values(self, backbone: Backbone, ids: Tensor) -> Tensor:
        """See :meth:`Injector.first_values`: the keys and values of a text in each layer, ``[K, L*2*A*D]``."""
        return (
            torch.stack(backbone.keys_values(ids)[self.from_layer :])
            .squeeze(2)
            .permute(3, 0, 1, 2, 4)
            .flatten(1)
            .float()
        )

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`; ``prompt.vectors`` is ``[B or 1, K, W]``."""
        layers = self._keys_values(prompt)
        # Attention asks by the number of its layer in the whole model.
        below = (layers[0][:, :1, :, :0],) * self.from_layer
        return Injection(instance.ids.shape[0], prefix=(*below, *layers))

    def _keys_values(self, prompt: Prompt) -> tuple[Tensor, ...]:
        """Per layer that has a prefix the keys and values ``[2, B or 1, A, K, D]`` in the dtype of the model's own."""
        dtype = self.dtype
        if self.prefix is None:
            return self._per_layer(prompt.vectors.to(dtype)).unbind(0)
        scale = self.instance_scale
        own = self._per_layer(prompt.vectors * (scale if prompt.mask is None else (prompt.mask * scale).unsqueeze(-1)))
        shared = self._per_layer(self.prefix.unsqueeze(0))
        layers = list(shared.to(dtype).unbind(0))
        for place, layer in enumerate(self.instance_layers):
            number = layer - self.from_layer
            layers[number] = (shared[number] + own[place]).to(dtype)
        return tuple(layers)

    def _per_layer(self, prefix: Tensor) -> Tensor:
        """Of ``n`` layers ``[B, K, n*2*A*D]`` as ``[n, 2, B, A, K, D]``."""
        layers: Tensor = prefix.unflatten(-1, (-1, 2, self.heads, self.head_size)).permute(2, 3, 0, 4, 1, 5)
        return layers
