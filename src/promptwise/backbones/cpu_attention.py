"""Attention whose backward pass is fast on CPUs.

torch's fused attention has a backward pass for CPUs that takes several times as long as the matrix products it is made
of (LOG.md). So the forward pass is torch's, which keeps no ``[S, S]`` matrix, and the backward pass makes the
probabilities again with plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether gradients are wanted on a CPU."""
    wanted = query.requires_grad or key.requires_grad or value.requires_grad
    return query.device.type == "cpu" and torch.is_grad_enabled() and wanted


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Scaled dot-product attention ``[B, heads, S, D]``.

    Args:
        query: ``[B, heads, S, D]``.
        key: ``[B, A, S', D]``; ``A`` divides the heads.
        value: As ``key``.
        mask: Boolean (``True`` = visible) or additive, broadcast to ``[B, heads, S, S']``.
        scale: Factor of the products; ``D ** -0.5`` without it.
    """
    if torch.is_autocast_enabled("cpu"):
        # The backward pass runs outside autocast, and rotary positions leave queries and keys in float32.
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if mask is not None and mask.dtype == torch.bool:
        mask = additive(mask, query.dtype)
    output: Tensor = _Attention.apply(query, key, value, mask, scale)
    return output


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as what is added to products: 0 where it is ``True``."""
    # Not -inf: a row that sees nothing, which only padding has, would be NaN.
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


class _Attention(torch.autograd.Function):
    """Attention that makes its probabilities again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        """The fused forward pass."""
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of query, key and value; ``P`` are the probabilities, ``dP`` their gradients."""
        query, key, value, mask = ctx.saved_tensors
        (outer,) = gradients
        scale = query.shape[-1] ** -0.5 if ctx.scale is None else ctx.scale
        scores = torch.matmul(query * scale, key.transpose(-2, -1))
        if mask is not None:
            scores += mask
        probabilities = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
        of_value = torch.matmul(probabilities.transpose(-2, -1), outer) if ctx.needs_input_grad[2] else None
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, of_value, None, None
        of_scores = torch._softmax_backward_data(
            torch.matmul(outer, value.transpose(-2, -1)), probabilities, -1, query.dtype
        )
        of_query = torch.matmul(of_scores, key) * scale if ctx.needs_input_grad[0] else None
        of_key = torch.matmul(of_scores.transpose(-2, -1), query) * scale if ctx.needs_input_grad[1] else None
        return of_query, of_key, of_value, None, None
