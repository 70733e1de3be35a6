"""Attention IPT: learnt queries attend over the text, and what they find makes its prompt."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import AttentionSettings
from promptwise.strategies.text_vectors import tokens_read, width_read


class AttentionPrompt(Strategy):
    """``K`` vectors, each from what a learnt query of its own finds in the text.

    ``c_t = D LN(x_t)``, ``a_kt = softmax_t(q_k . c_t / sqrt(r))`` and ``p_k = U GELU(sum_t a_kt c_t) + b_k``, with
    ``D`` ``[r, E]``, queries ``q`` ``[K, r]``, ``U`` ``[W, r]`` and a learnt ``b`` ``[K, W]``. The softmax runs over
    the tokens of the text, as far as the strategy may read them.

    It stands between two published methods. ID-SPAM (arXiv 2506.05629) runs one head of self-attention over the
    embeddings, or the states of a middle layer, averages it over the tokens and makes all ``K`` vectors from that mean
    in a bottleneck; here each vector has a query, and keys and values share one matrix. IAPT (arXiv 2405.18203) has a
    bottleneck, learnt queries and a trained activation in every layer; here one bottleneck, read once, serves every
    layer that the base asks vectors for, and the activation is fixed.

    Reading a layer runs the layers below it without a prompt first. They are not run again where nothing enters below,
    as with ``hidden`` and edits from that layer on.

    Args:
        shape: What the injector asks for.
        attention_rank: ``r``.
        reads_layer: The layer whose incoming states ``[B, T, H]`` are read in place of the frozen word embeddings.
    """

    settings: ClassVar[type] = AttentionSettings
    lr_scale: ClassVar[float] = 0.3
    stacks = True
    task_prompt: ClassVar[str | None] = "bias"

    def __init__(
        self,
        shape: PromptShape,
        attention_rank: int = AttentionSettings.attention_rank,
        reads_layer: int | None = AttentionSettings.reads_layer,
    ) -> None:
        super().__init__(shape)
        self.reads_layer = reads_layer
        size = width_read(shape, reads_layer)
        self.down = nn.Parameter(torch.randn(attention_rank, size) * size**-0.5)
        self.queries = nn.Parameter(torch.randn(shape.length, attention_rank))
        self.output = nn.Linear(attention_rank, shape.width, bias=False)
        bias = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.bias = nn.Parameter(bias)

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real; an empty text gets the bias."""
        codes = self._codes(instance)
        found = self._weights(codes, instance.text) @ codes
        return Prompt(self.output(nn.functional.gelu(found)) + self.bias)

    def weights(self, instance: Instance) -> Tensor:
        """How much each query attends to each token: ``[B, K, T]``, of sum 1 over the text, zeros without a text."""
        return self._weights(self._codes(instance), instance.text)

    def _codes(self, instance: Instance) -> Tensor:
        """``c`` ``[B, T, r]``."""
        return nn.functional.linear(tokens_read(instance, self.reads_layer), self.down)

    def _weights(self, codes: Tensor, text: Tensor) -> Tensor:
        # Not a product with the transposed codes, whose sums run in another order where no gradient is wanted.
        scores = nn.functional.linear(codes, self.queries).transpose(1, 2) * codes.shape[-1] ** -0.5
        text = text.unsqueeze(1)
        # Not minus infinity, of which a row without a text would make NaN; its weights are taken off here.
        weights: Tensor = scores.masked_fill(~text, torch.finfo(scores.dtype).min).softmax(-1) * text
        return weights
