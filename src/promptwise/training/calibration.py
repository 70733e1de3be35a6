"""Whether probabilities can be trusted: the temperature, errors of calibration, and what abstaining would gain.

Sources: temperature scaling and the expected calibration error with 15 bins of equal width (Guo et al. 2017,
https://arxiv.org/abs/1706.04599); the Brier score over all classes (Brier 1950). Letters as in ``docs/notation.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptwise.training.run_metrics import TEMPERATURES, CalibrationScores, ReliabilityBins

BINS = 15
"""Bins of equal width, of confidences from 0 to 1."""

COVERAGES = tuple(share / 100 for share in (100, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10))
"""Shares of rows at which the coverage-accuracy curve has its points."""

PRIOR = 4.0
"""How much a temperature of 1 counts against the labels of validation rows, as the rate of a Gamma distribution.

It lets nine of ten temperatures be between 0.44 and 2.0. Of those that runs with 500 validation rows have
(``docs/results/beside-fine-tuning``), 3.5 is the likeliest rate; LOG.md has what it does for few rows.
"""

_HALVINGS = 60


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probabilities ``[N, C]`` of logits ``[N, C]``, which are divided by a temperature; no choice changes by it."""
    return torch.softmax(logits / temperature, dim=-1)


def fit_temperature(logits: Tensor, labels: Sequence[int]) -> float:
    """The likeliest temperature of labels, and a priori of models: few rows move it little from 1.

    Labels alone would say too much where there are few of them: that nothing is ever wrong where all rows are right, or
    that little is sure where one of twelve is wrong. So the inverse of the temperature has a prior, a Gamma
    distribution of rate :data:`PRIOR` whose mode is 1; some hundred rows outweigh it. The sum of both logarithms is
    concave in that inverse, so halving an interval by the sign of the slope finds the greatest.

    Args:
        logits: ``[N, C]`` of held-out rows.
        labels: ``[N]`` true classes.

    Returns:
        A number in the limits of :data:`~promptwise.training.run_metrics.TEMPERATURES`.
    """
    target = torch.tensor(labels).unsqueeze(1)
    exact = logits.double()
    own = exact.gather(1, target).squeeze(1)

    def slope(inverse: float) -> float:
        """The derivative by the inverse temperature of what is to be least: minus both logarithms, summed over rows."""
        shares = torch.softmax(inverse * exact, dim=-1)
        return float(((shares * exact).sum(-1) - own).sum()) + PRIOR * (1 - 1 / inverse)

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return min(max(2 / (low + high), TEMPERATURES[0]), TEMPERATURES[1])


def calibration_scores(shares: Tensor, labels: Sequence[int], bins: bool = False) -> CalibrationScores:
    """How well probabilities fit what is true.

    Args:
        shares: ``[N, C]`` probabilities, at least one row.
        labels: ``[N]`` true classes.
        bins: Whether the bins of the reliability plot are kept.
    """
    shares, target = shares.double(), torch.tensor(labels)
    confidence, choice = shares.max(-1)
    right = (choice == target).double()
    # A confidence of exactly 1 belongs to the last bin.
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    rows = torch.bincount(place, minlength=BINS)
    count = rows.clamp(min=1)
    said = torch.bincount(place, confidence, minlength=BINS) / count
    true = torch.bincount(place, right, minlength=BINS) / count
    one_hot = torch.nn.functional.one_hot(target, shares.shape[1])
    likelihood = shares.gather(1, target.unsqueeze(1)).clamp(min=torch.finfo(torch.float32).tiny)
    return CalibrationScores(
        ece=float(((said - true).abs() * rows).sum() / len(shares)),
        brier=float((shares - one_hot).square().sum(-1).mean()),
        nll=float(-likelihood.log().mean()),
        bins=ReliabilityBins(rows.tolist(), _rounded(said), _rounded(true)) if bins else None,
    )


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


@dataclass(frozen=True)
class CoveragePoint:
    """What comes of abstaining below a probability.

    Attributes:
        coverage: The share of rows that are answered.
        accuracy: The share of these that are right.
        abstain_below: The probability; ``predict --abstain-below`` answers the same rows.
    """

    coverage: float
    accuracy: float
    abstain_below: float


def coverage_curve(shares: Tensor, labels: Sequence[int]) -> list[CoveragePoint]:
    """The accuracy of the rows that are answered when the least certain ones are not, from all rows to a tenth.

    Rows of one probability are answered together, so a point may cover more than was asked for.

    Args:
        shares: ``[N, C]`` probabilities, at least one row.
        labels: ``[N]`` true classes.
    """
    confidence, choice = shares.double().max(-1)
    right = choice == torch.tensor(labels)
    ranked = confidence.sort(descending=True).values.tolist()
    points: dict[float, CoveragePoint] = {}
    for coverage in COVERAGES:
        least = ranked[math.ceil(coverage * len(ranked)) - 1]
        # Four digits downwards, so that who copies the number answers no fewer rows.
        below = 0.0 if coverage == 1 else math.floor(least * 10_000) / 10_000
        answered = confidence >= below
        share = float(answered.double().mean())
        points.setdefault(share, CoveragePoint(share, float(right[answered].double().mean()), below))
    return list(points.values())
