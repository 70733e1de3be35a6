"""When training stops: decided by the log alone, or by a clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from promptwise.tasks.metrics import get_metric
from promptwise.training.stopping import Stopping


def entries(*scores: float) -> list[dict[str, Any]]:
    """A log with lines of training between the scores."""
    return [line for score in scores for line in ({"loss": 1.0}, {"eval_accuracy": score})]


@pytest.mark.parametrize(
    ("scores", "lost"),
    [((0.5,), False), ((0.5, 0.4), False), ((0.5, 0.4, 0.4), True), ((0.5, 0.5, 0.5), True), ((0.5, 0.4, 0.6), False)],
)
def test_two_epochs_without_a_better_score(scores: tuple[float, ...], lost: bool) -> None:
    """An equal score is no better one, as for the choice of the checkpoint."""
    assert Stopping(get_metric("accuracy"), 2, None).lost_patience(entries(*scores)) is lost
    assert Stopping(get_metric("accuracy"), None, None).lost_patience(entries(*scores)) is False


def test_a_limit_of_time_ends_with_the_step_that_passes_it() -> None:
    """Time before training does not count; the last step of all is no early end."""
    now = 1000.0
    stopping = Stopping(get_metric("accuracy"), None, 1.5, lambda: now)
    control = SimpleNamespace(should_training_stop=False)
    now = 2000.0
    stopping.on_train_begin(None, None, control)
    for seconds, step, stops in ((89, 1, False), (90, 8, False), (90, 2, True)):
        now = 2000.0 + seconds
        stopping.on_step_end(None, SimpleNamespace(global_step=step, max_steps=8), control)
        assert control.should_training_stop is stops
    assert stopping.reason == "max_minutes"
