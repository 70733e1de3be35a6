"""Whether two methods differ by more than seeds and examples do: a paired bootstrap, with the spread of few seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptwise.experiments.record import Record
from promptwise.reports.results import ResultCell
from promptwise.tasks.problems import PROBLEMS, SINGLE

REPLICATES = 10_000
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods on a task or on the mean of several, in accuracy.

    Of problems other than a single label it is in the score of a row (``row_scores`` of
    :class:`promptwise.tasks.problems.Problem`): the F1 of its labels, the absolute error negated, or the share of its
    words that are right.

    Attributes:
        difference: Mean accuracy of the first less that of the second, over the seeds that both have.
        low: Lower end of the 95% interval.
        high: Its upper end.
        p: Two-sided p-value: twice the share of replicates on the other side of zero.
        seeds: How many seeds both have; on several tasks, at least.
        examples: How many test examples there are.
        in_units: Whether the difference is in the units of the labels, as that of absolute errors is.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int
    examples: int
    in_units: bool = False

    @property
    def significant(self) -> bool:
        """Whether the p-value is below 0.05; never with one seed, whose spread nobody knows."""
        return self.p < LEVEL and self.seeds > 1


@dataclass(frozen=True)
class Spread:
    """How far scores lie apart over seeds: one variance for all methods of a task, as few seeds say little alone.

    Attributes:
        variance: The mean of the methods' variances, by degrees of freedom.
        freedom: Its degrees of freedom; without any there is no method with two seeds.
    """

    variance: float = 0.0
    freedom: int = 0


def spread_of_seeds(cells: Sequence[ResultCell]) -> Spread:
    """The spread of a task's cells, in the score that is tested, which need not be the metric of the table."""
    tested = [[_right(record).mean() for record in cell.finished if _has_rows(record)] for cell in cells]
    scores = [np.asarray(seeds) for seeds in tested if len(seeds) > 1]
    freedom = sum(len(seeds) - 1 for seeds in scores)
    return Spread(sum(seeds.var() * len(seeds) for seeds in scores) / freedom, freedom) if freedom else Spread()


@dataclass(frozen=True)
class Differences:
    """Two methods on a task.

    Attributes:
        sums: Differences of correctness, or of another score, ``[seeds, groups]``, summed over the examples of each
            group. Examples of one paragraph are no independent draws, so they are drawn together.
        sizes: Examples of each group ``[groups]``.
        variance: Of the mean difference, over seeds.
        freedom: Its degrees of freedom.
        in_units: Whether they are in the units of the labels.
    """

    sums: np.ndarray
    sizes: np.ndarray
    variance: float = 0.0
    freedom: int = 0
    in_units: bool = False

    @property
    def mean(self) -> float:
        """The mean difference over seeds and examples."""
        return float(self.sums.mean(0).sum() / self.sizes.sum())


def compare_cells(first: ResultCell, second: ResultCell, spread: Spread) -> Comparison | None:
    """The test of two cells; ``None`` where no seed of both has predictions for the same examples.

    Examples (groups of them, where the task has some) are drawn with replacement, the same for both methods and all
    seeds: the paired bootstrap (Efron and Tibshirani 1993, chapter 16; Koehn 2004). Drawing two to five seeds with
    replacement would understate their spread, so each replicate is moved by the standard error over seeds times a draw
    of Student's t. The variance over seeds is that of the task's methods, or that of these two where it is larger; the
    degrees of freedom are those of the task's. That is exact where all methods' seeds spread alike. Where one of a pair
    spreads three times as far as the others, of equal methods 9 to 16% are called significant from two seeds and 9 to
    14% from three, not 5; with the pair's own degrees of freedom few seeds would find almost nothing.
    """
    differences = _differences(first, second, spread)
    return None if differences is None else bootstrap([differences])


def compare_means(pairs: Sequence[tuple[ResultCell, ResultCell, Spread]]) -> Comparison | None:
    """The same for the means of two methods over tasks, of which each is drawn from by itself; a pair for each task."""
    found = [_differences(first, second, spread) for first, second, spread in pairs]
    differences = [task for task in found if task is not None]
    return bootstrap(differences) if differences and len(differences) == len(pairs) else None


def compare_with_majority(cell: ResultCell, spread: Spread) -> Comparison | None:
    """The same against always saying the most frequent class of the test split, or against the constant answer."""
    rows = []
    for record in cell.finished:
        if record.scores:
            constant = np.asarray(record.metrics["constant"]["test_scores"])
            rows.append((record, _right(record) - constant))
        elif record.choices and record.labels:
            labels = np.frombuffer(record.labels.encode(), dtype=np.uint8)
            classes, counts = np.unique(labels, return_counts=True)
            rows.append((record, _right(record) - (labels == classes[counts.argmax()]).astype(np.int8)))
    return bootstrap([_grouped(rows, spread)]) if rows else None


def _differences(first: ResultCell, second: ResultCell, spread: Spread) -> Differences | None:
    """The differences of two cells, or ``None`` without a seed of both."""
    firsts, seconds = (
        {record.seed: record for record in cell.finished if _has_rows(record)} for cell in (first, second)
    )
    shared = [seed for seed in firsts if seed in seconds and _same_examples(firsts[seed], seconds[seed])]
    if not shared:
        return None
    rows = [(firsts[seed], _right(firsts[seed]) - _right(seconds[seed])) for seed in shared]
    return _grouped(rows, Spread(2 * spread.variance, spread.freedom))


def _grouped(rows: Sequence[tuple[Record, np.ndarray]], spread: Spread) -> Differences:
    """A row of differences ``[examples]`` for each seed's record, summed by the groups of the first record."""
    values = np.stack([differences for _, differences in rows])
    groups = np.asarray(rows[0][0].groups if rows[0][0].groups else range(values.shape[1]))
    sums = np.stack([np.bincount(groups, weights=row) for row in values])
    own = float(values.mean(1).var(ddof=1)) if len(values) > 1 else 0.0
    variance = max(own, spread.variance) / len(values)
    problem = PROBLEMS[rows[0][0].metrics.get("problem") or SINGLE]
    return Differences(sums, np.bincount(groups), variance, spread.freedom, problem.row_score_in_units)


def bootstrap(tasks: Sequence[Differences], replicates: int = REPLICATES) -> Comparison:
    """The comparison of two methods on the mean of tasks, of each of which examples are drawn by themselves."""
    generator = np.random.default_rng(0)
    means = np.mean([_resampled_means(task, replicates, generator) for task in tasks], axis=0)
    variance = sum(task.variance for task in tasks)
    if variance:
        # The degrees of freedom of a sum of variances, as Satterthwaite (1946) approximates them.
        freedom = variance**2 / sum(task.variance**2 / task.freedom for task in tasks if task.freedom)
        means = means + variance**0.5 / len(tasks) * generator.standard_t(freedom, size=replicates)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    below, above = float((means <= 0).mean()), float((means >= 0).mean())
    # No replicate beyond zero among so many shows no more than a p-value below one in their number.
    p = min(1.0, max(2 * min(below, above), 1 / replicates))
    difference = float(np.mean([task.mean for task in tasks]))
    fewest, examples = min(len(task.sums) for task in tasks), int(sum(task.sizes.sum() for task in tasks))
    in_units = any(task.in_units for task in tasks)
    return Comparison(difference, float(low), float(high), p, fewest, examples, in_units)


def _resampled_means(differences: Differences, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """The mean difference over seeds and examples, of as many groups drawn with replacement ``[replicates]``.

    Only how often each kind of group is drawn matters, and those numbers are multinomial.
    """
    kinds, counts = np.unique(np.stack([differences.sums.mean(0), differences.sizes]), axis=1, return_counts=True)
    drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=replicates)
    means: np.ndarray = (drawn @ kinds[0]) / (drawn @ kinds[1])
    return means


def _same_examples(first: Record, second: Record) -> bool:
    """Whether two records are of the same test examples; records with scores hold no labels, but a fingerprint."""
    if first.scores or second.scores:
        prints = [record.metrics["data"]["fingerprint"] for record in (first, second)]
        return len(first.scores) == len(second.scores) and prints[0] == prints[1]
    return first.labels == second.labels


def _has_rows(record: Record) -> bool:
    """Whether a record says what its run answered to each example, without which nothing is tested."""
    return bool((record.choices and record.labels) or record.scores)


def _right(record: Record) -> np.ndarray:
    """The score of each example: 1 where it is right, of a single label."""
    if record.scores:
        return np.asarray(record.scores, dtype=float)
    choices, labels = (np.frombuffer(text.encode(), dtype=np.uint8) for text in (record.choices, record.labels))
    right: np.ndarray = (choices == labels).astype(np.int8)
    return right
