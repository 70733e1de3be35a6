"""The attention function that takes keys and values from outside.

transformers calls the attention function that a model's configuration names, and hands keyword arguments of the
model's forward on to it. So prefixes travel as the argument ``prompt_keys_values``; no cache is involved, and
gradient checkpointing keeps them. Models without that interface never call the function, which
:func:`use_prefix_attention` notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from promptwise.backbones import cpu_attention
from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError

NAME = "promptwise_prefix"


@dataclass(frozen=True)
class AttentionLayer:
    """One self-attention layer that asked for keys and values: ``heads`` of ``head_size`` each."""

    heads: int
    head_size: int
    value_size: int


def prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prompt_keys_values: tuple[Tensor, ...] | None = None,
    position_bias: Tensor | None = None,
    attention_probe: dict[Any, AttentionLayer] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over the layer's prefix and the sequence.

    ``query`` is ``[B, heads, S, D]``, ``key`` and ``value`` are ``[B, A, S, D]``; a layer's prefix is
    ``[2, B or 1, A, K, D]``. Prefix slots are seen by every query, without position or bias.
    """
    if attention_probe is not None and module not in attention_probe:
        module.prompt_layer = len(attention_probe)
        attention_probe[module] = AttentionLayer(key.shape[1], key.shape[3], value.shape[3])
    if prompt_keys_values is not None:
        keys, values = prompt_keys_values[module.prompt_layer].to(key.dtype).expand(-1, key.shape[0], -1, -1, -1)
        length = keys.shape[2]
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        if attention_mask is not None:
            visible = 1.0 if attention_mask.dtype == torch.bool else 0.0
            attention_mask = nn.functional.pad(attention_mask, (length, 0), value=visible)
        if position_bias is not None:
            position_bias = nn.functional.pad(position_bias, (length, 0))
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    plain = position_bias is None and not kwargs.get("dropout") and not (attention_mask is None and causal)
    if plain and cpu_attention.suits(query, key, value):
        attended = cpu_attention.attention(query, key, value, attention_mask, kwargs.get("scaling"))
        return attended.transpose(1, 2).contiguous(), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, position_bias=position_bias, **kwargs
    )
    return output


def prefix_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The boolean mask, never left out: with a prefix the attention is no longer square."""
    kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


def use_own_attention(backbone: Backbone) -> list[AttentionLayer]:
    """Make the backbone call :func:`prefix_attention`, plain attention without a prefix, and number its layers.

    Returns:
        The self-attention layers of the prompted stack that call it, in order. Where there are none the backbone is as
        it was before: some models look at the name of their attention instead of calling it.
    """
    if not getattr(backbone.model, "_supports_sdpa", False):
        return []
    AttentionInterface.register(NAME, prefix_attention)
    AttentionMaskInterface.register(NAME, prefix_mask)
    # T5's two stacks have copies of the configuration.
    configs = [module.config for module in backbone.model.modules() if hasattr(module, "config")]
    before = [config._attn_implementation for config in configs]
    layers: list[AttentionLayer] = []
    try:
        for config in configs:
            config._attn_implementation = NAME
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

    layers = use_own_attention(backbone)
    if not layers:
        raise refusal("attention takes no keys and values from outside")
    if len(set(layers)) > 1 or layers[0].head_size != layers[0].value_size:
        raise refusal("layers differ in the size of their keys and values")
    return layers


def _probe(backbone: Backbone) -> list[AttentionLayer]:
    """The layers that call the attention function when one token runs through the prompted stack."""
    stack = backbone.base.get_encoder() if backbone.kind == "encoder-decoder" else backbone.base
    probe: dict[Any, AttentionLayer] = {}
    embeddings = backbone.embed(torch.zeros(1, 1, dtype=torch.long, device=backbone.device))
    with torch.no_grad(), backbone.autocast():
        stack(inputs_embeds=embeddings, attention_probe=probe)
    return list(probe.values())
