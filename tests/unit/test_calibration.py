"""Temperature, errors of calibration and abstaining: by hand, and on labels that are drawn from known probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Gamma

from promptwise.training.calibration import (
    BINS,
    PRIOR,
    calibration_scores,
    coverage_curve,
    fit_temperature,
    probabilities,
)
from promptwise.training.run_metrics import TEMPERATURES


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Logits, and labels that are drawn from their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1).tolist()


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_factor(factor: float) -> None:
    """Logits that are too large by a factor are divided by it, and are calibrated then."""
    logits, labels = drawn(20_000, 4)
    found = fit_temperature(factor * logits, labels)
    assert found == pytest.approx(factor, rel=0.03)
    assert calibration_scores(probabilities(factor * logits, found), labels).ece < 0.01
    if factor != 1.0:
        before, after = (calibration_scores(probabilities(factor * logits, one), labels) for one in (1.0, found))
        assert before.ece > 0.05
        assert after.nll < before.nll
        assert after.brier < before.brier


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(2, 30))
def test_no_temperature_is_likelier_and_no_choice_changes(seed: int, factor: float, rows: int) -> None:
    """The likeliest one within the limits, a priori and of the labels; the best class stays the best."""
    logits, labels = drawn(rows, 3, seed)
    logits = factor * logits
    found = fit_temperature(logits, labels)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]

    def loss(temperature: float) -> float:
        likelihood = torch.nn.functional.cross_entropy(
            logits.double() / temperature, torch.tensor(labels), reduction="sum"
        )
        return float(likelihood) - Gamma(PRIOR + 1, PRIOR).log_prob(torch.tensor(1 / temperature).double()).item()

    for other in (*TEMPERATURES, 1.0, 0.9 * found, 1.1 * found):
        assert loss(found) <= loss(min(max(other, TEMPERATURES[0]), TEMPERATURES[1])) + 1e-9
    choices = logits.argmax(-1)
    shares = probabilities(logits, found)
    assert shares.gather(1, choices.unsqueeze(1)).squeeze(1).equal(shares.max(-1).values)


@pytest.mark.parametrize("gap", [1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0])
def test_few_rows_make_nothing_much_surer(gap: float) -> None:
    """Of twenty rows all are right, or all but one by a hair: the labels alone would take the least temperature."""
    logits = torch.zeros(20, 2)
    logits[:, 0] = gap
    assert 0.4 < fit_temperature(logits, [0] * 20) <= 1.0
    logits[0, 0] = -1e-4
    assert 0.4 < fit_temperature(logits, [0] * 20) <= 1.0 + 1e-4


def test_few_rows_flatten_little_and_many_rows_decide() -> None:
    """A row that is wrong and sure counts for less among few rows than the share that it is says."""
    logits, labels = torch.tensor([[6.0, 0.0]] * 10), [1] + [0] * 9
    # The temperature at which the confidence of each row is the share of right ones.
    exact = 6 / math.log(9)
    few, many = (fit_temperature(logits.repeat(times, 1), labels * times) for times in (1, 1000))
    assert 1.0 < few < 0.9 * exact
    assert many == pytest.approx(exact, rel=1e-3)


def test_one_row_and_rows_without_a_preference_leave_probabilities_nearly_as_they_are() -> None:
    """Equal logits say nothing of a temperature, and one row says little."""
    assert fit_temperature(torch.zeros(5, 3), [0, 1, 2, 0, 1]) == pytest.approx(1.0)
    for label in (0, 1):
        assert 0.7 < fit_temperature(torch.tensor([[2.0, 0.0]]), [label]) < 1.6


def test_errors_by_hand() -> None:
    """Four rows in three of fifteen bins; the Brier score sums over classes."""
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [1.0, 0.0]])
    scores = calibration_scores(shares, [0, 1, 1, 0], bins=True)
    assert scores.ece == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1) + 0) / 4)
    assert scores.brier == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.16 + 0) / 4)
    assert scores.nll == pytest.approx(-torch.tensor([0.9, 0.1, 0.6, 1.0]).log().mean().item(), rel=1e-5)
    assert scores.bins is not None
    filled = {place: rows for place, rows in enumerate(scores.bins.rows) if rows}
    assert filled == {13: 2, 9: 1, BINS - 1: 1}
    assert (scores.bins.confidence[13], scores.bins.accuracy[13]) == (0.9, 0.5)
    assert calibration_scores(shares, [0, 1, 1, 0]).bins is None


def test_abstaining_by_hand() -> None:
    """Ten rows, the least certain of which are wrong; rows of one probability are answered together."""
    confidence = [0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.9, 0.9, 0.6, 0.55]
    shares = torch.tensor([[value, 1 - value] for value in confidence])
    curve = coverage_curve(shares, [0] * 7 + [1] * 3)
    by_share = {round(point.coverage, 9): point for point in curve}
    assert [*by_share] == [1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert by_share[1.0].accuracy == 0.7
    assert by_share[1.0].abstain_below == 0
    assert by_share[0.8].accuracy == 7 / 8
    assert by_share[0.8].abstain_below == pytest.approx(0.9, abs=1.1e-4)
    assert by_share[0.5].accuracy == 1
    for point in curve:
        assert point.coverage == sum(value >= point.abstain_below for value in confidence) / 10
