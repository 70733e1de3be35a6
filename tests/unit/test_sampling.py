"""Batches that hold a number of tokens."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from promptwise.training.sampling import GroupedByLength, TokenBatches


@pytest.mark.parametrize("budget", [1, 50, 128, 10**6])
def test_each_row_once_in_batches_that_keep_to_the_budget(budget: int) -> None:
    """Of 500 rows none is lost or repeated, and padding counts; only a single row may be longer than the budget."""
    lengths = [random.Random(seed).randint(1, 60) for seed in range(500)]
    sampler = TokenBatches(lengths, budget, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(500))
        assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget for batch in batches)
        orders.append(batches)
        assert list(sampler) == batches, "an epoch that is done again has the same batches"
    assert budget == 10**6 or orders[0] != orders[1]


def test_no_batch_has_room_for_the_next_row() -> None:
    """Twelve rows of 10 tokens and two of 30 in batches of 60: two long ones, then six and six."""
    sampler = TokenBatches([10] * 12 + [30, 30], 60, seed=0)
    assert sorted(len(batch) for batch in sampler) == [2, 6, 6]


def test_seeds_give_other_batches() -> None:
    """Two seeds, two orders."""
    assert list(TokenBatches([5] * 40, 20, seed=0)) != list(TokenBatches([5] * 40, 20, seed=1))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(processes: int) -> None:
    """Step by step they have the batches that one process would have in a row; the first ones again at the end."""
    lengths = [random.Random(seed).randint(1, 60) for seed in range(104)]
    samplers = [TokenBatches(lengths, 128, 3, processes, process) for process in range(processes)]
    whole = list(TokenBatches(lengths, 128, 3))
    shared = [batch for step in zip(*samplers, strict=True) for batch in step]
    assert len(whole) % processes != 0, "the case where they do not divide evenly"
    assert shared == whole + whole[: len(shared) - len(whole)]
    assert {len(sampler) for sampler in samplers} == {len(shared) // processes}


@pytest.mark.parametrize(("count", "batch"), [(1, 8), (31, 8), (500, 4), (3000, 8)])
def test_groups_of_like_length_are_those_of_transformers(count: int, batch: int) -> None:
    """To the row, with equal lengths among them, so that no run changes."""
    lengths = [random.Random(seed).randint(1, 20) for seed in range(count)]
    ours = GroupedByLength(batch, np.array(lengths, np.int32))
    for seed in range(5):
        torch.manual_seed(seed)
        expected = list(LengthGroupedSampler(batch, lengths=lengths))
        torch.manual_seed(seed)
        assert list(ours) == expected
    assert len(ours) == count
