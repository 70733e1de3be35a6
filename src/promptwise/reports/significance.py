"""Whether two methods differ by more than seeds and examples do: a paired bootstrap over both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from promptwise.experiments.record import Record
from promptwise.reports.results import ResultCell

REPLICATES = 10_000
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods on a task, in accuracy.

    Attributes:
        difference: Mean accuracy of the first less that of the second, over the seeds that both have.
        low: Lower end of the 95% interval.
        high: Its upper end.
        p: Two-sided p-value: twice the share of replicates on the other side of zero.
        seeds: How many seeds both have.
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
    firsts = {record.seed: record for record in one.finished if record.choices}
    seconds = {record.seed: record for record in other.finished if record.choices}
    shared = [seed for seed in firsts if seed in seconds and firsts[seed].labels == seconds[seed].labels]
    if not shared:
        return None
    rows = [_right(firsts[seed]) - _right(seconds[seed]) for seed in shared]
    return bootstrap(np.stack(rows))


def compare_with_majority(cell: ResultCell) -> Comparison | None:
    """The same against always saying the most frequent class of the test split."""
    rows = []
    for record in cell.finished:
        if record.choices:
            labels = np.frombuffer(record.labels.encode(), dtype=np.uint8)
            classes, counts = np.unique(labels, return_counts=True)
            rows.append(_right(record) - (labels == classes[counts.argmax()]).astype(np.int8))
    return bootstrap(np.stack(rows)) if rows else None


def bootstrap(differences: np.ndarray, replicates: int = REPLICATES) -> Comparison:
    """The comparison from differences of correctness ``[seeds, examples]``, each -1, 0 or 1."""
    generator = np.random.default_rng(0)
    seeds, examples = differences.shape
    means = np.empty(replicates)
    # Only examples on which the methods differ move the mean; how many of each are drawn is multinomial.
    for index in range(replicates):
        chosen = differences[generator.integers(seeds, size=seeds)].mean(0)
        means[index] = _resampled_mean(chosen, generator)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    below, above = float((means <= 0).mean()), float((means >= 0).mean())
    # A replicate is never impossible, so the p-value is not below one part in their number.
    p = min(1.0, max(2 * min(below, above), 1 / replicates))
    return Comparison(float(differences.mean()), float(low), float(high), p, seeds, examples)


def _resampled_mean(values: np.ndarray, generator: np.random.Generator) -> float:
    """The mean of as many draws with replacement, through the counts of the distinct values."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values))
    return float(drawn @ distinct / len(values))


def _right(record: Record) -> np.ndarray:
    choices, labels = (np.frombuffer(text.encode(), dtype=np.uint8) for text in (record.choices, record.labels))
    right: np.ndarray = (choices == labels).astype(np.int8)
    return right
