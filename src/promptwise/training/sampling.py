"""Orders of the rows of an epoch: batches of like length, and batches of a number of tokens instead of rows.

Both keep a few bytes for each row and no Python object, so that tens of millions of rows are ordered in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

_MEGA_BATCHES = 50
"""Batches that are sorted together, as transformers has it."""


class GroupedByLength(LengthGroupedSampler):
    """The order of transformers' ``LengthGroupedSampler``, to the row, made one part after the other.

    Args:
        batch_size: Rows of a batch.
        lengths: ``[N]`` tokens of each row.
    """

    def __init__(self, batch_size: int, lengths: np.ndarray[Any, Any]) -> None:
        super().__init__(batch_size, lengths=lengths)

    def __iter__(self) -> Iterator[int]:
        """Rows in random order, each 50 batches of them sorted by length, the longest row of all first."""
        count = len(self.lengths)
        size = self.batch_size * max(1, min(count // (self.batch_size * 4), _MEGA_BATCHES))
        # Half the memory of the usual int64, and the same numbers.
        order = torch.randperm(count, generator=self.generator, dtype=torch.int32).numpy()
        starts = range(0, count, size)
        longest = torch.tensor([int(self.lengths[order[start : start + size]].max()) for start in starts])
        largest = int(torch.argmax(longest))
        # The first row and the longest of another part change places.
        first = int(self._sorted(order[:size])[0])
        front = int(self._sorted(order[largest * size : (largest + 1) * size])[0])
        for number, start in enumerate(starts):
            rows = self._sorted(order[start : start + size]).tolist()
            if number == largest:
                rows[0] = first
            if number == 0:
                rows[0] = front
            yield from rows

    def _sorted(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rows by length, the longest first, equal ones in their order."""
        grouped: np.ndarray[Any, Any] = rows[_descending(self.lengths[rows])]
        return grouped


class TokenBatches(Sampler[list[int]]):
    """Batches of rows of like length, as many as a number of tokens holds, in an order that changes each epoch.

    Rows are sorted by length, equal ones in random order, and cut where the next row would make the batch, padding
    included, larger than the budget. A row that is longer than the budget is a batch of its own. The cuts depend on
    lengths alone, so every epoch has as many batches.

    Of several processes that train one model each gets every so many-th batch. All get as many: the last ones get
    batches from the epoch's beginning again where they do not divide evenly.

    Args:
        lengths: Tokens of each row.
        budget: Most tokens of a batch.
        seed: Seed of the orders.
        processes: How many processes share the batches out.
        process: The number of this one, from 0.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray[Any, Any],
        budget: int,
        seed: int,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.lengths, self.seed, self.epoch = np.asarray(lengths), seed, 0
        self.processes, self.process = processes, process
        self._sizes = list(_sizes(self.lengths[_descending(self.lengths)], budget))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, which a resumed run has again."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._sizes) // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator, dtype=torch.int32).numpy()
        order = order[_descending(self.lengths[order])]
        ends = np.cumsum(self._sizes)
        turns = torch.randperm(len(self._sizes), generator=generator).tolist()
        for turn in range(self.process, len(self) * self.processes, self.processes):
            batch = turns[turn % len(turns)]
            yield order[ends[batch] - self._sizes[batch] : ends[batch]].tolist()


def _descending(lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The places of lengths from the largest to the smallest, equal ones in their order."""
    return np.argsort(-lengths, kind="stable")


def _sizes(lengths: np.ndarray[Any, Any], budget: int) -> Iterator[int]:
    """Rows of each batch, for lengths in descending order."""
    start = 0
    while start < len(lengths):
        size = max(1, budget // max(1, int(lengths[start])))
        yield min(size, len(lengths) - start)
        start += size
