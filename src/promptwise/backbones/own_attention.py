"""The attention of families whose own takes no keys and values from outside, written with a prefix.

Each function stands in for the forward of a self-attention module and computes the same from the same weights; where
the run that is going on has a prefix, its keys and values come before those of the sequence, without position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from promptwise.backbones.attention import AttentionLayer, prefix_attention
from promptwise.backbones.backbone import Backbone
from promptwise.backbones.cpu_attention import additive
from promptwise.backbones.current_run import CurrentRun


def mpnet_attention(
    module: Any,
    current: CurrentRun,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor]:
    """``MPNetSelfAttention.forward``: scaled dot products with a bias for each distance of two tokens."""
    heads = (*hidden_states.shape[:-1], -1, module.attention_head_size)
    query, key, value = (
        projection(hidden_states).view(heads).transpose(1, 2) for projection in (module.q, module.k, module.v)
    )
    # Mask and bias are one matrix, so that the attention which is fast on CPUs can take it.
    added = position_bias
    if attention_mask is not None:
        mask = attention_mask
        if mask.dtype == torch.bool:
            mask = additive(mask, query.dtype)
        added = mask if added is None else added + mask
    if added is not None:
        added = added.to(query.dtype)
    attended, _ = prefix_attention(
        module,
        query,
        key,
        value,
        added,
        dropout=module.dropout.p if module.training else 0.0,
        scaling=module.attention_head_size**-0.5,
        is_causal=False,
        **_prefix(current),
    )
    return (module.o(attended.flatten(2)),)


def _prefix(current: CurrentRun) -> dict[str, Any]:
    if current.run is None:
        return {}
    injection = current.run.injection
    taken = {} if current.run.taken is None else {"keys_values_taken": current.run.taken}
    if injection.prefix is None:
        return taken
    return {**taken, "prompt_keys_values": injection.prefix, "prompt_keys_mask": injection.prefix_mask}


def deberta_attention(
    module: Any,
    current: CurrentRun,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, None]:
    """``DisentangledSelfAttention.forward``: products of contents and of contents with relative positions."""
    asking = hidden_states if query_states is None else query_states
    heads = module.num_attention_heads
    query, key, value = (
        module.transpose_for_scores(projection(states), heads)
        for projection, states in (
            (module.query_proj, asking),
            (module.key_proj, hidden_states),
            (module.value_proj, hidden_states),
        )
    )
    factor = 1 + ("c2p" in module.pos_att_type) + ("p2c" in module.pos_att_type)
    # A tensor of the products' dtype, as transformers divides: a number would round elsewhere.
    scale = torch.tensor(query.shape[-1] * factor, dtype=torch.float32).sqrt().to(query.dtype)
    scores = torch.bmm(query, key.transpose(-1, -2) / scale)
    if module.relative_attention:
        positions = module.pos_dropout(rel_embeddings)
        scores = scores + module.disentangled_attention_bias(query, key, relative_pos, positions, factor)
    scores = scores.unflatten(0, (-1, heads))
    lowest = torch.finfo(query.dtype).min
    scores = scores.masked_fill(~attention_mask.bool(), lowest)
    value = value.unflatten(0, (-1, heads))
    prefix = _prefix(current)
    if "keys_values_taken" in prefix:
        heads_of_key = key.unflatten(0, (-1, heads))
        prefix["keys_values_taken"][module.prompt_layer] = torch.stack([heads_of_key, value])
    if "prompt_keys_values" in prefix:
        layer = prefix["prompt_keys_values"][module.prompt_layer].to(key.dtype)
        keys, values = layer.expand(-1, scores.shape[0], -1, -1, -1)
        before = query.unflatten(0, (-1, heads)) @ (keys.transpose(-1, -2) / scale)
        if prefix["prompt_keys_mask"] is not None:
            before = before.masked_fill(~prefix["prompt_keys_mask"][:, None, None, :], lowest)
        scores, value = torch.cat([before, scores], dim=-1), torch.cat([values, value], dim=2)
    attended = module.dropout(scores.softmax(dim=-1)) @ value
    return attended.transpose(1, 2).flatten(2), None


def _install_mpnet(backbone: Backbone) -> list[AttentionLayer]:
    modules = [layer.get_submodule("attention.attn") for layer in backbone.layers]
    return _install(backbone, modules, mpnet_attention)


def _install_deberta(backbone: Backbone) -> list[AttentionLayer]:
    modules = [layer.get_submodule("attention.self") for layer in backbone.layers]
    return _install(backbone, modules, deberta_attention)


def _install(backbone: Backbone, modules: list[nn.Module], forward: Callable[..., Any]) -> list[AttentionLayer]:
    for index, module in enumerate(modules):
        own: Any = module
        own.prompt_layer = index
        own.forward = partial(forward, module, backbone.current)
    first: Any = modules[0]
    layer = AttentionLayer(first.num_attention_heads, first.attention_head_size, first.attention_head_size)
    return [layer] * len(modules)


INSTALL: dict[str, Callable[[Backbone], list[AttentionLayer]]] = {
    "mpnet": _install_mpnet,
    "deberta": _install_deberta,
}
"""By the route of a family's prefixes, see :class:`promptwise.backbones.families.Family`."""
