"""When training stops by itself: no better validation score for some epochs, or a number of minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from promptwise.tasks.metrics import Metric

EPOCHS, PATIENCE, MINUTES = "epochs", "patience", "max_minutes"
"""Why a run stopped: all epochs were done, or what its setting says."""


class Stopping(TrainerCallback):
    """Ends the training of a run early; its best checkpoint is loaded as at any other end.

    What it decides by patience follows from the log alone, which checkpoints hold: a resumed run decides the same.

    Args:
        metric: The metric that chooses the checkpoint.
        patience: Epochs without a better score after which it stops; never without it.
        max_minutes: Minutes of this process's training after which it stops at the end of a step, which is then
            scored on validation like an epoch's; never without it.
        clock: Seconds from any start.

    Attributes:
        reason: Why it stopped: one of ``epochs``, ``patience`` and ``max_minutes``.
    """

    def __init__(
        self,
        metric: Metric,
        patience: int | None,
        max_minutes: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metric, self.patience, self.max_minutes, self.clock = metric, patience, max_minutes, clock
        self.reason = EPOCHS
        self.began = clock()

    def lost_patience(self, log: Sequence[Mapping[str, Any]]) -> bool:
        """Whether as many validation scores as ``patience`` says came after the best one; equal ones are no better."""
        name = f"eval_{self.metric.name}"
        scores = [self.metric.merit(entry[name]) for entry in log if name in entry]
        return self.patience is not None and bool(scores) and len(scores) - scores.index(max(scores)) > self.patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where the time is over; ``Trainer`` ends the epoch here, and so scores and saves."""
        if self.max_minutes is not None and self.clock() - self.began >= 60 * self.max_minutes:
            self._stop(state, control, MINUTES)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where validation has not become better for long enough."""
        if self.lost_patience(state.log_history):
            self._stop(state, control, PATIENCE)

    def _stop(self, state: Any, control: Any, reason: str) -> None:
        if state.global_step < state.max_steps and not control.should_training_stop:
            control.should_training_stop = True
            self.reason = reason
