"""A bidirectional LSTM over the tokens of a text."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from promptwise.core.instance import masked_mean
from promptwise.strategies.networks.base import TextNetwork
from promptwise.strategies.networks.recurrence import PaddedLSTM


class BiLSTM(TextNetwork):
    """A bidirectional LSTM over the real tokens alone, averaged over them."""

    hidden: ClassVar[int] = 64

    def __init__(self, embedding_size: int) -> None:
        super().__init__(embedding_size)
        self.lstm = PaddedLSTM(embedding_size, self.hidden)
        self.features = 2 * self.hidden

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """See :class:`TextNetwork`."""
        return masked_mean(self.lstm(tokens, mask), mask)
