"""Two layers over each token of a text, averaged."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from promptwise.core.instance import masked_mean
from promptwise.strategies.networks.base import TextNetwork


class TokenMLP(TextNetwork):
    """Two layers over each token, averaged over the real ones (a deep averaging network; Iyyer et al., 2015)."""

    stacks: ClassVar[bool] = True
    hidden: ClassVar[int] = 128

    def __init__(self, embedding_size: int) -> None:
        super().__init__(embedding_size)
        self.layers = nn.Sequential(
            nn.Linear(embedding_size, self.hidden), nn.GELU(), nn.Linear(self.hidden, self.hidden), nn.GELU()
        )
        self.features = self.hidden

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """See :class:`TextNetwork`."""
        return masked_mean(self.layers(tokens), mask)
