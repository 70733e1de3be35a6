"""Batches that hold a number of tokens."""

from __future__ import annotations

import random

import pytest

from promptwise.training.sampling import TokenBatches


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
