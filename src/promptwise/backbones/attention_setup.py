"""Making a backbone call attention that takes keys and values from outside, and counting the layers that do."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from promptwise.backbones import own_attention
from promptwise.backbones.attention import PREFIX_ATTENTION, AttentionLayer, prefix_attention, prefix_mask
from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError


def use_own_attention(backbone: Backbone) -> list[AttentionLayer]:
    """Make the backbone call :func:`prefix_attention`, plain attention without a prefix, and number its layers; once is
    enough.

    Returns:
        The self-attention layers of the prompted stack that call it, in order. Where there are none the backbone is as
        it was before: some models look at the name of their attention instead of calling it.
    """
    if backbone.attention_layers is None or not _still_there(backbone):
        backbone.attention_layers = tuple(_install(backbone))
    return list(backbone.attention_layers)


def _still_there(backbone: Backbone) -> bool:
    """Whether nobody has chosen another attention since; what was found to have none needs no second look."""
    by_name = not backbone.family.has_own_attention and bool(backbone.attention_layers)
    config: Any = backbone.stack.config
    return not by_name or config._attn_implementation == PREFIX_ATTENTION


def _install(backbone: Backbone) -> list[AttentionLayer]:
    if backbone.family.has_own_attention:
        return own_attention.INSTALL[backbone.family.prefix](backbone)
    if not getattr(backbone.model, "_supports_sdpa", False):
        return []
    AttentionInterface.register(PREFIX_ATTENTION, prefix_attention)
    AttentionMaskInterface.register(PREFIX_ATTENTION, prefix_mask)
    # T5's two stacks have copies of the configuration.
    configs = [module.config for module in backbone.model.modules() if hasattr(module, "config")]
    before = [config._attn_implementation for config in configs]
    layers: list[AttentionLayer] = []
    try:
        for config in configs:
            config._attn_implementation = PREFIX_ATTENTION
        layers = _probe(backbone)
    finally:
        if not layers:
            for config, implementation in zip(configs, before, strict=True):
                config._attn_implementation = implementation
    return layers


def use_prefix_attention(backbone: Backbone) -> list[AttentionLayer]:
    """As :func:`use_own_attention`, for layers that will be given prefixes.

    Raises:
        BackboneError: The model's attention cannot take keys and values from outside, or its layers differ in size.
    """

    def refusal(why: str) -> BackboneError:
        name = f"{backbone.model_type} ({backbone.name})"
        return BackboneError(f"Prefix tuning cannot serve {name}: its {why}. Use --base prompt.")

    layers = [] if backbone.family.prefix == "none" else use_own_attention(backbone)
    if not layers:
        raise refusal(backbone.family.why_no_prefix)
    if len(set(layers)) > 1 or layers[0].head_size != layers[0].value_size:
        raise refusal("layers differ in the size of their keys and values")
    return layers


def _probe(backbone: Backbone) -> list[AttentionLayer]:
    """The layers that call the attention function when one token runs through the prompted stack."""
    probe: dict[Any, AttentionLayer] = {}
    embeddings = backbone.embed(torch.zeros(1, 1, dtype=torch.long, device=backbone.device))
    mask = torch.ones(1, 1, dtype=torch.bool, device=backbone.device)
    with torch.no_grad(), backbone.autocast():
        backbone.last_state(backbone.stack, embeddings, mask, None, {"attention_probe": probe})
    return list(probe.values())
