"""Whether two methods differ by more than seeds and examples do: a paired bootstrap over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptwise.experiments.record import Record
from promptwise.reports.results import ResultCell

REPLICATES = 10_000
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods on a task or on the mean of several, in accuracy.

    Attributes:
        difference: Mean accuracy of the first less that of the second, over the seeds that both have.
        low: Lower end of the 95% interval.
        high: Its upper end.
        p: Two-sided p-value: twice the share of replicates on the other side of zero.
        seeds: How many seeds both have; on several tasks, at least.
        examples: How many test examples there are.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int
    examples: int

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 0.05; with one seed the spread of seeds is not in it."""
        return self.p < LEVEL


def compare_cells(one: ResultCell, other: ResultCell) -> Comparison | None:
    """The paired bootstrap of two cells; ``None`` where no seed of both has predictions for the same examples.

    Seeds and examples are drawn with replacement, the same for both methods (Efron and Tibshirani 1993, chapter 16;
    Koehn 2004 for examples), from the matrix of differences of correctness ``[seeds, examples]``.
    """
    differences = _differences(one, other)
    return None if differences is None else bootstrap([differences])


def compare_means(pairs: Sequence[tuple[ResultCell, ResultCell]]) -> Comparison | None:
    """The same for the means of two methods over tasks, of which each is drawn from by itself; a pair for each task."""
    found = [_differences(one, other) for one, other in pairs]
    differences = [one for one in found if one is not None]
    return bootstrap(differences) if differences and len(differences) == len(pairs) else None


def _differences(one: ResultCell, other: ResultCell) -> np.ndarray | None:
    """The matrix of differences of correctness ``[seeds, examples]``, or ``None`` without a seed of both."""
    firsts = {record.seed: record for record in one.finished if record.choices}
    seconds = {record.seed: record for record in other.finished if record.choices}
    shared = [seed for seed in firsts if seed in seconds and firsts[seed].labels == seconds[seed].labels]
    if not shared:
        return None
    return np.stack([_right(firsts[seed]) - _right(seconds[seed]) for seed in shared])


def compare_with_majority(cell: ResultCell) -> Comparison | None:
    """The same against always saying the most frequent class of the test split."""
    rows = []
    for record in cell.finished:
        if record.choices:
            labels = np.frombuffer(record.labels.encode(), dtype=np.uint8)
            classes, counts = np.unique(labels, return_counts=True)
            rows.append(_right(record) - (labels == classes[counts.argmax()]).astype(np.int8))
    return bootstrap([np.stack(rows)]) if rows else None


def bootstrap(tasks: Sequence[np.ndarray], replicates: int = REPLICATES) -> Comparison:
    """The comparison from differences of correctness ``[seeds, examples]`` of each task, each -1, 0 or 1."""
    generator = np.random.default_rng(0)
    means = np.zeros(replicates)
    # Only examples on which the methods differ move the mean; how many of each are drawn is multinomial.
    for differences in tasks:
        seeds = len(differences)
        for index in range(replicates):
            chosen = differences[generator.integers(seeds, size=seeds)].mean(0)
            means[index] += _resampled_mean(chosen, generator) / len(tasks)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    below, above = float((means <= 0).mean()), float((means >= 0).mean())
    # A replicate is never impossible, so the p-value is not below one part in their number.
    p = min(1.0, max(2 * min(below, above), 1 / replicates))
    difference = float(np.mean([one.mean() for one in tasks]))
    fewest, examples = min(len(one) for one in tasks), sum(one.shape[1] for one in tasks)
    return Comparison(difference, float(low), float(high), p, fewest, examples)


def _resampled_mean(values: np.ndarray, generator: np.random.Generator) -> float:
    """The mean of as many draws with replacement, through the counts of the distinct values."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values))
    return float(drawn @ distinct / len(values))


def _right(record: Record) -> np.ndarray:
    choices, labels = (np.frombuffer(text.encode(), dtype=np.uint8) for text in (record.choices, record.labels))
    right: np.ndarray = (choices == labels).astype(np.int8)
    return right
