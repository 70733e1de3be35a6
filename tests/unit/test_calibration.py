"""Temperature, errors of calibration and abstaining: by hand, and on labels that are drawn from known probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptwise.training.calibration import (
    BINS,
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
    """The least negative log-likelihood within the limits; the best class stays the best."""
    logits, labels = drawn(rows, 3, seed)
    logits = factor * logits
    found = fit_temperature(logits, labels)
    assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
    choices = logits.argmax(-1)
    if choices.tolist() == labels:
        assert found == 1.0
        return

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / temperature, torch.tensor(labels)))

    for other in (*TEMPERATURES, 1.0, 0.9 * found, 1.1 * found):
        assert loss(found) <= loss(min(max(other, TEMPERATURES[0]), TEMPERATURES[1])) + 1e-9
    shares = probabilities(logits, found)
    assert shares.gather(1, choices.unsqueeze(1)).squeeze(1).equal(shares.max(-1).values)


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
