"""The attention function that takes keys and values from outside.

transformers calls the attention function that a model's configuration names, and hands keyword arguments of the
model's forward on to it. So prefixes travel as the argument ``prompt_keys_values``; no cache is involved, and
gradient checkpointing keeps them. Models without that interface never call the function, which
:mod:`promptwise.backbones.attention_setup` notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from promptwise.backbones import cpu_attention

PREFIX_ATTENTION = "promptwise_prefix"
"""What a model's configuration calls :func:`prefix_attention`."""


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
    prompt_keys_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    attention_probe: dict[Any, AttentionLayer] | None = None,
    keys_values_taken: dict[int, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over the layer's prefix and the sequence.

    ``query`` is ``[B, heads, S, D]``, ``key`` and ``value`` are ``[B, A, S, D]``; a layer's prefix is
    ``[2, B or 1, A, K, D]``, and ``prompt_keys_mask`` ``[B, K]`` says which of it each row has. Prefix slots are seen
    by every query, without position or bias. ``keys_values_taken`` receives the layer's own keys and values
    ``[2, B, A, S, D]``, by its number.
    """
    if attention_probe is not None and module not in attention_probe:
        module.prompt_layer = len(attention_probe)
        attention_probe[module] = AttentionLayer(key.shape[1], key.shape[3], value.shape[3])
    if keys_values_taken is not None:
        keys_values_taken[module.prompt_layer] = torch.stack([key, value])
    if prompt_keys_values is not None:
        keys, values = prompt_keys_values[module.prompt_layer].to(key.dtype).expand(-1, key.shape[0], -1, -1, -1)
        length = keys.shape[2]
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        attention_mask = _with_prefix_columns(attention_mask, length, prompt_keys_mask)
        if position_bias is not None:
            position_bias = nn.functional.pad(position_bias, (length, 0))
    causal = getattr(module, "is_causal", True) if kwargs.get("is_causal") is None else kwargs["is_causal"]
    # MPNet adds a bias to the mask, which is learnt where the whole model is tuned.
    learnt = attention_mask is not None and attention_mask.requires_grad
    plain = position_bias is None and not learnt and not kwargs.get("dropout")
    plain = plain and not (attention_mask is None and causal)
    if plain and cpu_attention.suits(query, key, value):
        attended = cpu_attention.attention(query, key, value, attention_mask, kwargs.get("scaling"))
        return attended.transpose(1, 2).contiguous(), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, position_bias=position_bias, **kwargs
    )
    return output


def _with_prefix_columns(mask: Tensor | None, length: int, of_rows: Tensor | None) -> Tensor | None:
    """An attention mask ``[B or 1, heads or 1, S, S]`` with the columns of ``length`` prefix slots before the
    others."""
    if mask is None:
        assert of_rows is None, "prefix_mask always makes a mask"
        return None
    if of_rows is None:
        return nn.functional.pad(mask, (length, 0), value=1.0 if mask.dtype == torch.bool else 0.0)
    if mask.dtype != torch.bool:
        of_rows = cpu_attention.additive(of_rows, mask.dtype)
    rows = of_rows.shape[0]
    columns = of_rows[:, None, None, :].expand(rows, mask.shape[1], mask.shape[2], length)
    return torch.cat([columns, mask.expand(rows, -1, -1, -1)], dim=-1)


def prefix_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The boolean mask, never left out: with a prefix the attention is no longer square."""
    kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    return mask
