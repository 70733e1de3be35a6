"""A convolutional network over the tokens of a text."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from promptwise.strategies.networks.base import TextNetwork


class TextCNN(TextNetwork):
    """Convolutions of several widths with max-over-time pooling (Kim, 2014), after a linear reduction."""

    stacks: ClassVar[bool] = True
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
        widest = max(self.widths)
        # One convolution for all widths, with zeros in front of the narrower kernels: position p ends at token p.
        convolutions = [cast(nn.Conv1d, one) for one in self.convolutions]
        kernels = [
            nn.functional.pad(one.weight, (widest - width, 0))
            for width, one in zip(self.widths, convolutions, strict=True)
        ]
        biases = torch.cat([cast(Tensor, one.bias) for one in convolutions])
        windows = nn.functional.conv1d(reduced, torch.cat(kernels), biases, padding=widest - 1)
        # A window counts when it touches a real token.
        ends = torch.arange(windows.shape[-1], device=mask.device)
        lengths = mask.sum(1)[:, None, None]
        reach = torch.tensor(self.widths, device=mask.device).repeat_interleave(self.filters)[:, None] - 1
        touched = (ends < lengths + reach) & (lengths > 0)
        return torch.relu(windows.masked_fill(~touched, 0.0).amax(-1))
