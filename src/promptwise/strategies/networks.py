"""Small networks that read the tokens of a text and make one feature vector of it.

``[B, T, E]`` token vectors and their mask ``[B, T]`` (real tokens first) go in, ``[B, F]`` features come out.
Padding never reaches a feature, and a text without tokens has features of zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from promptwise.instance import masked_mean


class TextNetwork(nn.Module, ABC):
    """The interface: ``features`` is ``F``."""

    features: int

    @abstractmethod
    def __init__(self, embedding_size: int) -> None:
        """Build the network for token vectors of width ``embedding_size``."""
        super().__init__()

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Features ``[B, F]`` of tokens ``[B, T, E]``."""


class TextCNN(TextNetwork):
    """Convolutions of several widths with max-over-time pooling (Kim, 2014), after a linear reduction."""

    widths: ClassVar[tuple[int, ...]] = (2, 3, 4, 5)
    filters: ClassVar[int] = 64
    reduced: ClassVar[int] = 64

    def __init__(self, embedding_size: int) -> None:
        super().__init__(embedding_size)
        self.reduce = nn.Linear(embedding_size, self.reduced, bias=False)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(self.reduced, self.filters, width, padding=width - 1) for width in self.widths
        )
        self.features = self.filters * len(self.widths)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """See :class:`TextNetwork`."""
        reduced = (self.reduce(tokens) * mask.unsqueeze(-1)).transpose(1, 2)
        pooled = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            # A window counts when it touches a real token; position p of the output ends at token p.
            touched = nn.functional.pad(mask, (0, width - 1))
            for shift in range(1, width):
                touched = touched | nn.functional.pad(mask, (shift, width - 1 - shift))
            activations = torch.relu(convolution(reduced)).masked_fill(~touched.unsqueeze(1), 0.0)
            pooled.append(activations.amax(-1))
        return torch.cat(pooled, dim=-1)


class BiLSTM(TextNetwork):
    """A bidirectional LSTM over the real tokens alone, averaged over them."""

    hidden: ClassVar[int] = 64

    def __init__(self, embedding_size: int) -> None:
        super().__init__(embedding_size)
        self.lstm = nn.LSTM(embedding_size, self.hidden, batch_first=True, bidirectional=True)
        self.features = 2 * self.hidden

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """See :class:`TextNetwork`."""
        # An empty text is read as one padding token, which the mean then leaves out.
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return masked_mean(states, mask)


class TokenMLP(TextNetwork):
    """Two layers over each token, averaged over the real ones (a deep averaging network; Iyyer et al., 2015)."""

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
