"""What a strategy reads of a text: a vector of each token, and one of the whole text.

They are the frozen word embeddings ``[B, T, E]`` or, where a strategy reads a layer, the hidden states ``[B, T, H]``
that enter it. ``R`` stands for either width.
"""

from __future__ import annotations

from torch import Tensor, nn

from promptwise.core.instance import Instance, masked_mean
from promptwise.core.prompt import PromptShape


def normalised(values: Tensor) -> Tensor:
    """``LN`` of values ``[..., W]`` without weights, in float32."""
    return nn.functional.layer_norm(values.float(), values.shape[-1:])


def width_read(shape: PromptShape, reads_layer: int | None) -> int:
    """``R``."""
    return shape.embedding_size if reads_layer is None else shape.hidden_size


def tokens_read(instance: Instance, reads_layer: int | None) -> Tensor:
    """``LN(x_t)`` of each token, ``[B, T, R]``; also of those that are no text."""
    if reads_layer is None:
        return normalised(instance.embeddings)
    assert instance.states is not None
    return normalised(instance.states)


def text_read(instance: Instance, reads_layer: int | None) -> Tensor:
    """``LN(mean_t LN(x_t))`` over the tokens of the text, ``[B, R]``; zeros for a text without any."""
    return normalised(masked_mean(tokens_read(instance, reads_layer), instance.text))
