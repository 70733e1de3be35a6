"""Vectors are added to the hidden states of the input's own tokens, in every layer."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor

from promptwise.backbones.attention_setup import use_own_attention
from promptwise.backbones.backbone import Backbone
from promptwise.core.injection import Edit, Injection, Site
from promptwise.core.instance import Instance, masked_mean
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.injectors.base import Injector
from promptwise.injectors.layers import entry_layer, layer_numbers
from promptwise.injectors.settings import HiddenSettings


class HiddenInjector(Injector):
    """Adds to the states that enter layers; nothing is put before the text, and no position is taken.

    A strategy that makes edits decides for each token and layer what is added. Any other strategy is asked for
    vectors of width ``W = L x H``: their mean over the instance's slots is the same addition to all tokens of a
    layer, for the task-level strategy a trained bias of each layer (as BitFit, Ben Zaken et al., 2022, trains them).
    """

    settings: ClassVar[type] = HiddenSettings
    takes_edits: ClassVar[bool] = True
    has_slots: ClassVar[bool] = False

    def __init__(
        self,
        backbone: Backbone,
        length: int,
        instance_wise: bool,
        from_layer: int = HiddenSettings.from_layer,
        edit_layers: str = HiddenSettings.edit_layers,
    ) -> None:
        super().__init__(backbone, length, instance_wise)
        if backbone.device.type == "cpu":
            # For its backward pass; elsewhere torch's own attention is the faster one.
            use_own_attention(backbone)
        backbone.serve_edits()
        self.from_layer = entry_layer(backbone, from_layer)
        layers = layer_numbers(edit_layers, len(backbone.layers), backbone.name, "--edit-layers", self.from_layer)
        size = backbone.layer_size
        # What is shared of vectors starts at nothing; what a strategy adds from the input may not.
        self.shape = PromptShape(
            length,
            width=len(layers) * size,
            embedding_size=backbone.embedding_size,
            init_scale=0.0,
            hidden_size=size,
            layers=layers,
        )

    def inject(self, instance: Instance, prompt: Prompt) -> Injection:
        """See :meth:`Injector.inject`; ``prompt.vectors`` is ``[B or 1, K, L*H]`` where there are no edits."""
        rows = instance.ids.shape[0]
        if prompt.edits:
            return Injection(rows, edits=prompt.edits)
        mean = prompt.vectors.mean(1) if prompt.mask is None else masked_mean(prompt.vectors, prompt.mask)
        by_layer = mean.unsqueeze(1).unflatten(-1, (len(self.shape.layers), self.shape.hidden_size)).unbind(2)
        edits: dict[Site, Edit] = {
            (layer, "input"): partial(_same_for_all, vector)
            for layer, vector in zip(self.shape.layers, by_layer, strict=True)
        }
        return Injection(rows, edits=edits)


def _same_for_all(vector: Tensor, hidden: Tensor) -> Tensor:
    """The addition ``[B or 1, 1, H]`` to every token of ``hidden`` ``[B, T, H]``."""
    return vector
