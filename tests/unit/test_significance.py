"""The paired bootstrap against scipy, where both say the same: p-values, intervals and degrees of freedom."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from promptwise.experiments.record import Record
from promptwise.reports.results import ResultCell
from promptwise.reports.significance import (
    REPLICATES,
    Comparison,
    Differences,
    Spread,
    bootstrap,
    compare_cells,
    compare_means,
    compare_with_majority,
    spread_of_seeds,
)

EXAMPLES = 400

# Of 10,000 replicates a share of 0.025 is known to 0.0016, a sixteenth of it.
NEAR = 0.2


def values(mean: float, seed: int = 0, count: int = EXAMPLES) -> np.ndarray:
    """Numbers with this mean, to the last digits, and a spread of one."""
    drawn = np.random.default_rng(seed).standard_normal(count)
    return (drawn - drawn.mean()) / drawn.std(ddof=1) + mean


def of_rows(rows: np.ndarray, variance: float = 0.0, freedom: int = 0) -> Differences:
    """Differences ``[seeds, examples]`` of single examples."""
    return Differences(np.atleast_2d(rows), np.ones(np.atleast_2d(rows).shape[1], dtype=int), variance, freedom)


@pytest.mark.parametrize("errors", [-2.5, -2.0, -1.0, 0.5, 1.5, 2.0, 2.5])
def test_p_is_that_of_a_two_sided_t_test_over_examples(errors: float) -> None:
    """With nothing but examples to draw, 400 of them, the bootstrap is Student's test of one sample."""
    row = values(errors / EXAMPLES**0.5)
    found, theirs = bootstrap([of_rows(row)]), stats.ttest_1samp(row, 0)
    assert found.p == pytest.approx(theirs.pvalue, rel=NEAR)
    interval = theirs.confidence_interval(0.95)
    width = interval.high - interval.low
    assert found.low == pytest.approx(interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(interval.high, abs=0.04 * width)
    assert found.difference == pytest.approx(errors / EXAMPLES**0.5)
    assert found.examples == EXAMPLES


@pytest.mark.parametrize("freedom", [1, 2, 8])
@pytest.mark.parametrize("errors", [-3.0, 2.0])
def test_p_is_that_of_a_t_test_over_seeds(freedom: int, errors: float) -> None:
    """Where examples agree and seeds do not, it is Student's test with the seeds' degrees of freedom."""
    variance = 0.0004
    mean = errors * variance**0.5
    found = bootstrap([of_rows(np.full((3, 50), mean), variance, freedom)])
    assert found.p == pytest.approx(2 * stats.t.sf(abs(errors), freedom), rel=NEAR)
    low, high = stats.t.interval(0.95, freedom, loc=mean, scale=variance**0.5)
    assert found.low == pytest.approx(low, abs=NEAR * (mean - low))
    assert found.high == pytest.approx(high, abs=NEAR * (high - mean))
    assert found.seeds == 3


def test_spreads_of_examples_and_seeds_add_up() -> None:
    """The variance of the replicates is that of the mean over examples and that over seeds."""
    row = values(0.1)
    found = bootstrap([of_rows(np.stack([row, row]), variance=1 / EXAMPLES, freedom=1000)])
    half = stats.norm.ppf(0.975) * (2 / EXAMPLES) ** 0.5
    assert found.low == pytest.approx(0.1 - half, abs=0.05 * half)
    assert found.high == pytest.approx(0.1 + half, abs=0.05 * half)


def test_the_mean_of_two_tasks_is_welchs_test() -> None:
    """Two tasks with seeds of unlike spread: half of Welch's difference, with Satterthwaite's degrees of freedom."""
    one, other = np.array([0.30, 0.10, 0.25]), np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    tasks = [
        of_rows(np.full((len(seeds), 60), seeds.mean()), seeds.var(ddof=1) / len(seeds), len(seeds) - 1)
        for seeds in (one, other)
    ]
    found = bootstrap(tasks)
    theirs = stats.ttest_ind(one, -other, equal_var=False)
    assert found.difference == pytest.approx((one.mean() + other.mean()) / 2)
    assert found.p == pytest.approx(theirs.pvalue, rel=NEAR)
    interval = theirs.confidence_interval(0.95)
    assert found.low == pytest.approx(interval.low / 2, abs=0.15 * (found.difference - interval.low / 2))
    assert found.high == pytest.approx(interval.high / 2, abs=0.15 * (interval.high / 2 - found.difference))
    assert (found.seeds, found.examples) == (3, 120)


def test_tasks_are_drawn_by_themselves() -> None:
    """The mean of two tasks of other sizes is the mean of their means, with half the root of the sum of variances."""
    one, other = values(0.2, 1), values(-0.05, 2, 100)
    found = bootstrap([of_rows(one), of_rows(other)])
    assert found.difference == pytest.approx(0.075)
    half = stats.norm.ppf(0.975) * (1 / 400 + 1 / 100) ** 0.5 / 2
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert (found.seeds, found.examples) == (1, 500)


def test_groups_of_unlike_size_are_drawn_whole() -> None:
    """The standard error is that of a ratio (Cochran 1977, chapter 6): groups are drawn, of unlike weight."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 20, 200)
    sums = generator.normal(0.1, 0.5, 200) * sizes
    found = bootstrap([Differences(sums[None], sizes)])
    ratio = sums.sum() / sizes.sum()
    error = np.std(sums - ratio * sizes, ddof=1) * len(sizes) ** 0.5 / sizes.sum()
    assert found.difference == pytest.approx(ratio)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.examples == sizes.sum()


def test_p_has_a_floor_and_a_ceiling() -> None:
    """No replicate is impossible, and equal methods have a p-value of one, not of two."""
    assert bootstrap([of_rows(np.ones(50))]).p == 1 / REPLICATES
    assert bootstrap([of_rows(np.ones(50))], replicates=200).p == 1 / 200
    same = bootstrap([of_rows(np.zeros(50))])
    assert (same.p, same.low, same.high) == (1.0, 0.0, 0.0)


def test_the_same_test_gives_the_same_numbers() -> None:
    """A report that is written again says the same."""
    assert bootstrap([of_rows(values(0.1), 0.001, 4)]) == bootstrap([of_rows(values(0.1), 0.001, 4)])


def record(seed: int, choices: str, labels: str, **more: Any) -> Record:
    """A finished record of predictions."""
    right = sum(map(str.__eq__, choices, labels)) / len(labels)
    made: dict[str, Any] = {"id": f"{seed}-{choices[:8]}", "status": "finished", "experiment": "trial", "task": "films"}
    made |= {"method": "one", "purpose": "result", "seed": seed, "lr": 0.01, "settings": {}, "labels": labels}
    return Record(**made, metrics={"test": {"accuracy": right}}, choices=choices, **more)


def cell(*records: Record) -> ResultCell:
    """The cell of these records."""
    by_seed = {one.seed: one for one in records}
    return ResultCell("films", "one", tuple(by_seed), (), by_seed, "one", {}, {})


LABELS = "0120" * 25


def wrong_at(*places: int) -> str:
    """Predictions that are right but at these places."""
    return "".join("2" if place in places and label != "2" else label for place, label in enumerate(LABELS))


def test_the_spread_of_seeds_is_the_pooled_variance() -> None:
    """By degrees of freedom, as scipy pools it; a method of one seed says nothing, and without two there is none."""
    first, second = [wrong_at(), wrong_at(0), wrong_at(0, 1, 3)], [wrong_at(0, 1, 3, 4, 5), wrong_at(7)]
    cells = [cell(*(record(seed, choices, LABELS) for seed, choices in enumerate(one))) for one in (first, second)]
    lonely = cell(record(0, wrong_at(*range(50)), LABELS))
    scores = [np.array([1.0, 0.99, 0.97]), np.array([0.95, 0.99])]
    assert [one.scores for one in cells] == [pytest.approx(one) for one in scores]
    pooled = (2 * scores[0].var(ddof=1) + scores[1].var(ddof=1)) / 3
    found = spread_of_seeds([*cells, lonely])
    assert found.variance == pytest.approx(pooled)
    assert found.freedom == 3
    assert spread_of_seeds([lonely]) == spread_of_seeds([]) == Spread(0.0, 0)


def test_the_spread_is_that_of_the_score_that_is_tested() -> None:
    """Of numbers it is that of absolute errors, whatever the metric of the table, so that units do not matter."""

    def compared_in(unit: float) -> Comparison:
        generator = np.random.default_rng(0)
        cells = []
        for level in (1.0, 1.2):
            seeds = [unit * np.abs(level + 0.1 * generator.standard_normal(50) + 0.02 * seed) for seed in range(3)]
            scored = [
                dataclasses.replace(
                    record(seed, "0", "0"),
                    choices="",
                    labels="",
                    scores=[-float(error) for error in errors],
                    metrics={
                        "test": {"pearson": 0.5 + 0.1 * seed},
                        "problem": "regression",
                        "data": {"fingerprint": "numbers"},
                    },
                )
                for seed, errors in enumerate(seeds)
            ]
            cells.append(cell(*scored))
        found = compare_cells(cells[0], cells[1], spread_of_seeds(cells))
        assert found is not None
        return found

    one, large, small = (compared_in(unit) for unit in (1, 1024, 1 / 128))
    assert one.in_units
    assert one.difference == pytest.approx(0.2, abs=0.05)
    assert one.p == large.p == small.p < 0.05
    assert large.low == pytest.approx(1024 * one.low)


EQUAL_SEEDS = Spread(0.0, 4)


def compared(one: Sequence[Record], other: Sequence[Record], spread: Spread = EQUAL_SEEDS) -> Any:
    """The comparison of two cells."""
    return compare_cells(cell(*one), cell(*other), spread)


def test_two_cells_are_compared_seed_by_seed_and_example_by_example() -> None:
    """The difference is the mean over the seeds of both; what one alone has is left out."""
    one = [record(seed, wrong_at(), LABELS) for seed in (0, 1, 2)]
    other = [record(1, wrong_at(0, 1, 3, 4), LABELS), record(0, wrong_at(0, 1), LABELS), record(7, wrong_at(), LABELS)]
    found = compared(one, other)
    assert (found.seeds, found.examples) == (2, 100)
    assert found.difference == pytest.approx((0.02 + 0.04) / 2)
    swapped = compared(other, one)
    assert swapped.difference == pytest.approx(-0.03)
    assert swapped.low < -0.03 < swapped.high


def test_pairs_make_small_differences_plain() -> None:
    """Twelve examples that one method alone has right, of a hundred that both mostly have wrong, are significant."""
    both = [place for place, label in enumerate(LABELS) if label != "2"][:60]
    one = [record(seed, wrong_at(*both[12:]), LABELS) for seed in (0, 1)]
    other = [record(seed, wrong_at(*both), LABELS) for seed in (0, 1)]
    found = compared(one, other)
    assert found.difference == pytest.approx(0.12)
    assert found.p < 0.001
    assert found.significant
    # Two samples of a hundred, of which nobody knows the pairs.
    assert stats.ttest_ind([1] * 52 + [0] * 48, [1] * 40 + [0] * 60).pvalue > 0.05


def test_the_larger_of_two_spreads_counts() -> None:
    """That of the task's methods, twice for a difference, or that of these two, each over the number of seeds."""
    one = [record(seed, wrong_at(), LABELS) for seed in (0, 1)]
    other = [record(0, wrong_at(0, 1), LABELS), record(1, wrong_at(3, 4), LABELS)]
    plain = stats.norm.ppf(0.975) * (0.02 * 0.98 / 100) ** 0.5
    wide = compared(one, other, Spread(0.01, 10_000))
    expected = stats.norm.ppf(0.975) * (2 * 0.01 / 2) ** 0.5
    assert (wide.high - wide.low) / 2 == pytest.approx((expected**2 + plain**2) ** 0.5, rel=0.05)
    # Their own: differences of 2 and of 20 points, a variance of 0.0162 over two seeds.
    far = [record(0, wrong_at(0, 1), LABELS), record(1, wrong_at(*[p for p in range(28) if p % 4 != 2][:20]), LABELS)]
    assert [one.metrics["test"]["accuracy"] for one in far] == [0.98, 0.8]
    own = compared(one, far, Spread(0.001, 10_000))
    expected = stats.norm.ppf(0.975) * (0.0162 / 2) ** 0.5
    assert (own.high - own.low) / 2 == pytest.approx(expected, rel=0.1)


def test_what_cannot_be_paired_is_not_compared() -> None:
    """No seed of both, other labels, no predictions, or no end: there is nothing to test."""
    one = [record(0, wrong_at(), LABELS)]
    assert compared(one, [record(1, wrong_at(), LABELS)]) is None
    assert compared(one, [record(0, wrong_at(), LABELS[::-1])]) is None
    assert compared(one, [record(0, "", LABELS)]) is None
    assert compared([record(0, "", LABELS)], one) is None
    # Of more classes than there are characters, where none of the last ones was predicted.
    unpacked = dataclasses.replace(record(0, wrong_at(), LABELS), labels="")
    assert compared([unpacked], [unpacked]) is None
    assert compare_with_majority(cell(unpacked), Spread()) is None
    assert compared(one, one) is not None
    whole, none = (cell(*one), cell(*one), Spread()), (cell(*one), cell(record(1, wrong_at(), LABELS)), Spread())
    assert compare_means([whole, none]) is None
    assert compare_means([]) is None
    assert compare_means([whole, whole]).examples == 200


def test_groups_come_from_the_records() -> None:
    """The examples of a group, wherever they stand, are summed; without groups each stands for itself."""
    groups = [place % 10 for place in range(100)]
    bad = wrong_at(*range(0, 100, 10))
    apart = compared([record(0, wrong_at(), LABELS)], [record(0, bad, LABELS)])
    together = compared([record(0, wrong_at(), LABELS, groups=groups)], [record(0, bad, LABELS, groups=groups)])
    # Labels at multiples of ten that are "2" stay right.
    count = sum(LABELS[place] != "2" for place in range(0, 100, 10))
    assert apart.difference == together.difference == pytest.approx(count / 100)
    ratio = (together.high - together.low) / (apart.high - apart.low)
    # One group in ten holds all of them: its sum varies as count * sqrt(0.09 * 10), theirs as sqrt(100 p (1 - p)).
    assert ratio > 1.5
    assert together.examples == 100


def test_the_majority_class_is_the_most_frequent_label_of_the_test_split() -> None:
    """A cell is compared with saying it always: here 0, in half of the labels."""
    found = compare_with_majority(cell(*(record(seed, wrong_at(0), LABELS) for seed in (0, 1))), Spread())
    assert found is not None
    assert found.difference == pytest.approx(0.99 - 0.5)
    assert (found.seeds, found.examples) == (2, 100)
    assert found.significant
    constant = compare_with_majority(cell(record(0, "0" * 100, LABELS)), Spread())
    assert constant is not None
    assert (constant.difference, constant.p) == (0.0, 1.0)
    assert compare_with_majority(cell(record(0, "", LABELS)), Spread()) is None
    wide = compare_with_majority(cell(record(0, "0" * 100, LABELS)), Spread(0.0025, 10_000))
    assert wide is not None
    # Always saying one class has no seeds, so the spread of one method counts, not of two.
    assert wide.high == pytest.approx(1.96 * 0.05, rel=0.05)
