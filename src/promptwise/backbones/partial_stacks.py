"""A part of a model's layers as a model of its own: those below a layer, or those from it upwards.

Parts share every weight with the whole. They are shallow copies of it in which the list of layers is shorter, and
what makes the first layer's input, or comes after the last layer, is passed by.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from promptwise.backbones.backbone import Backbone


class PartialStacks:
    """The parts of one backbone's prompted stack, made when they are first asked for; those of a tuned one, each time.

    This is no module, so that no weight of the backbone has a second name.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._known: dict[tuple[str, int, str], nn.Module] = {}

    def lower(self, layer: int) -> nn.Module:
        """The layers below ``layer``: from embeddings ``[B, S, E]`` to what enters it ``[B, S, H]``."""
        return self._part("lower", layer)

    def upper(self, layer: int) -> nn.Module:
        """The layers from ``layer`` upwards: from what enters it ``[B, S, H]`` to the last hidden state."""
        return self._part("upper", layer)

    def _part(self, which: str, layer: int) -> nn.Module:
        if self._backbone.trainable:
            # It changes between training and test, which a copy that was made before would not hear of.
            return self._make(which, layer)
        # The attention that a configuration names decides what masks a stack makes; it may change once.
        stack: Any = self._backbone.stack
        key = (which, layer, str(stack.config._attn_implementation))
        if key not in self._known:
            self._known[key] = self._make(which, layer)
        return self._known[key]

    def _make(self, which: str, layer: int) -> nn.Module:
        family, whole = self._backbone.family, self._backbone.stack
        layers = list(self._backbone.layers)
        assert family.layers is not None, "the backbone has found its layers there"
        passed: tuple[str, ...]
        if which == "lower":
            kept, passed, chosen = layers[:layer], family.final, slice(None, layer)
            if not kept and family.layers_give_pairs:
                # DeBERTa's encoder fails without any layer.
                kept = [UnchangedPair()]
        else:
            kept, passed, chosen = layers[layer:], family.entry, slice(layer, None)
            if family.first_layer_makes_bias:
                kept[0] = WithFirstBias(layers[0], kept[0])
        part = _copied(whole)
        part.config = _config_of_part(whole.config, chosen)
        _put(part, family.layers, nn.ModuleList(kept))
        for path in passed:
            if hasattr(part, path):
                _put(part, path, PassedBy())
        if which == "upper" or layer == 0:
            for path in family.after_first:
                _put(part, path, None)
        if which == "upper":
            for path in family.added:
                _put(part, path, Zero())
        return part


class PassedBy(nn.Module):
    """In place of a module that makes or follows hidden states: they stay as they are."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Any:
        """The states that come in, under that name or as the first argument that there is."""
        return inputs_embeds if inputs_embeds is not None else next(value for value in args if value is not None)


class UnchangedPair(nn.Module):
    """A layer that does nothing, for encoders that want a pair of each layer."""

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """The states that come in."""
        return states, None


class Zero(nn.Module):
    """In place of a module whose output is added to the states: there is nothing to add above layer 0."""

    def forward(self, like: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Zero."""
        return torch.zeros((), device=like.device)


class WithFirstBias(nn.Module):
    """A layer that is the first of a part, with the position bias that the first layer of the whole makes for all (T5).

    Args:
        first: The first layer of the whole.
        layer: The first layer of the part.
    """

    def __init__(self, first: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer = first, layer

    def forward(
        self, hidden: Tensor, mask: Tensor | None, position_bias: Tensor | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As the layer's own forward."""
        if position_bias is None:
            attention: Any = self.first.get_submodule("layer.0.SelfAttention")
            position_bias = attention.compute_bias(hidden.shape[1], hidden.shape[1], device=hidden.device)
        return self.layer(hidden, mask, position_bias, *args, **kwargs)


def _copied(module: nn.Module) -> nn.Module:
    """The same module with a list of parts of its own."""
    new = copy.copy(module)
    new._modules = dict(module._modules)
    return new


def _put(root: nn.Module, path: str, module: nn.Module | None) -> None:
    """Put a module, or none, at a path below ``root``.

    What lies on the way is copied first, so that the whole keeps its own.
    """
    *way, name = path.split(".")
    place = root
    for step in way:
        place._modules[step] = _copied(place.get_submodule(step))
        place = place.get_submodule(step)
    place._modules[name] = module


def _config_of_part(config: Any, chosen: slice) -> Any:
    """The configuration with the layers of a part: models look up in it what kind each layer is."""
    part = copy.copy(config)
    if vars(part).get("layer_types") is not None:
        vars(part)["layer_types"] = list(vars(part)["layer_types"])[chosen]
    if "num_hidden_layers" in vars(part):
        vars(part)["num_hidden_layers"] = len(range(vars(config)["num_hidden_layers"])[chosen])
    return part
