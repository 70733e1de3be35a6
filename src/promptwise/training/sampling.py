"""Batches of a given number of tokens instead of a given number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TokenBatches(Sampler[list[int]]):
    """Batches of rows of like length, as many as a number of tokens holds, in an order that changes each epoch.

    Rows are sorted by length, equal ones in random order, and cut where the next row would make the batch, padding
    included, larger than the budget. A row that is longer than the budget is a batch of its own. The cuts depend on
    lengths alone, so every epoch has as many batches.

    Args:
        lengths: Tokens of each row.
        budget: Most tokens of a batch.
        seed: Seed of the orders.
    """

    def __init__(self, lengths: Sequence[int], budget: int, seed: int) -> None:
        self.lengths, self.seed, self.epoch = torch.tensor(lengths), seed, 0
        self._sizes = list(_sizes(sorted(lengths, reverse=True), budget))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, which a resumed run has again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[torch.argsort(self.lengths[order], descending=True, stable=True)]
        batches = order.split(self._sizes)
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index].tolist()


def _sizes(lengths: Sequence[int], budget: int) -> Iterator[int]:
    """Rows of each batch, for lengths in descending order."""
    start = 0
    while start < len(lengths):
        size = max(1, budget // max(1, lengths[start]))
        yield min(size, len(lengths) - start)
        start += size
