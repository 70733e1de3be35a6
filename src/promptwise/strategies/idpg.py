"""IDPG: a generator with few weights makes what the input adds to a task prompt."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import ConfigError
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import IdpgSettings
from promptwise.strategies.text_vectors import text_read, width_read


class HypercomplexLinear(nn.Module):
    """``y = (sum_i A_i (x) B_i) x`` with ``n`` Kronecker products: parameterised hypercomplex multiplication.

    Zhang et al. 2021 (arXiv 2102.08597). ``A_i`` is ``[n, n]`` and ``B_i`` ``[out / n, in / n]``, so the
    map has about one ``n``-th of the weights of a full one. ``A_i`` starts at N(0, 1/n) and ``B_i`` at N(0, 1/in), so
    that the outputs have the spread of the inputs.

    Args:
        size: ``in``.
        output: ``out``.
        factors: ``n``, which divides both.
    """

    def __init__(self, size: int, output: int, factors: int) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(factors, factors, factors) * factors**-0.5)
        self.blocks = nn.Parameter(torch.randn(factors, output // factors, size // factors) * size**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """``[B, out]`` of values ``[B, in]``."""
        # The n parts of the input are mixed first: of the two orders this one keeps n times less.
        parts = values.unflatten(-1, (len(self.mixing), -1))
        mixed = torch.einsum("ipq,bqs->bpis", self.mixing, parts).flatten(2)
        return nn.functional.linear(mixed, self.blocks.transpose(0, 1).flatten(1)).flatten(1)


class HypercomplexPrompt(Strategy):
    """``p = W_2 GELU(W_1 m(x) + b_1) + b_2``, with hypercomplex ``W_1`` and ``W_2``.

    IDPG (Wu et al., arXiv 2204.04497) in its variant of PHM layers. ``m(x)`` ``[R]`` is the text's mean
    (:func:`~.text_vectors.text_read`): of the word embeddings, as their variant with GloVe reads the text, or of the
    states that enter a layer; the paper's main variant reads the last layer's. ``W_1`` is ``[r, R]``, ``W_2``
    ``[K x W, r]``, and ``b_2`` ``[K, W]`` is the task prompt that all texts share. One generator makes the vectors of
    all layers that the base asks for.

    ``W_2`` starts at zero, so that training starts from the task prompt.

    Args:
        shape: What the injector asks for.
        idpg_rank: ``r``.
        phm_factors: ``n``.
        reads_layer: The layer whose incoming states ``[B, T, H]`` are read in place of the frozen word embeddings.

    Raises:
        ConfigError: ``n`` does not divide ``R``, ``r`` and ``K x W``.
    """

    settings: ClassVar[type] = IdpgSettings
    lr_scale: ClassVar[float] = 0.3
    stacks = True
    task_prompt: ClassVar[str | None] = "bias"

    def __init__(
        self,
        shape: PromptShape,
        idpg_rank: int = IdpgSettings.idpg_rank,
        phm_factors: int = IdpgSettings.phm_factors,
        reads_layer: int | None = IdpgSettings.reads_layer,
    ) -> None:
        super().__init__(shape)
        self.reads_layer = reads_layer
        size, output = width_read(shape, reads_layer), shape.length * shape.width
        _check_factors(phm_factors, {"what is read": size, "--idpg-rank": idpg_rank, "the prompt": output})
        self.down = HypercomplexLinear(size, idpg_rank, phm_factors)
        self.down_bias = nn.Parameter(torch.zeros(idpg_rank))
        self.up = HypercomplexLinear(idpg_rank, output, phm_factors)
        nn.init.zeros_(self.up.blocks)
        bias = torch.empty(shape.length, shape.width).uniform_(-shape.init_scale, shape.init_scale)
        self.bias = nn.Parameter(bias)

    def forward(self, instance: Instance) -> Prompt:
        """Vectors ``[B, K, W]``, all of them real."""
        codes = nn.functional.gelu(self.down(text_read(instance, self.reads_layer)) + self.down_bias)
        return Prompt(self.up(codes).unflatten(-1, self.bias.shape) + self.bias)


def _check_factors(factors: int, sizes: dict[str, int]) -> None:
    """Refuse a number of factors that does not divide every size.

    Raises:
        ConfigError: It names those that it does not divide, and the numbers that would.
    """
    odd = [f"{name} ({size} numbers)" for name, size in sizes.items() if size % factors]
    if odd:
        able = [str(one) for one in range(1, 65) if not any(size % one for size in sizes.values())]
        raise ConfigError(
            f"--phm-factors {factors} does not divide {' and '.join(odd)}. Up to 64, {', '.join(able)} would."
        )
