"""Tells a listener the validation score of each epoch while a run trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class EpochScores(TrainerCallback):
    """Calls a listener after each epoch, which may end the training with an error of its own.

    Args:
        key: The metric, as ``Trainer`` names it.
        listener: Gets the number of the epoch, from 1, and the score.
    """

    def __init__(self, key: str, listener: Callable[[int, float], None]) -> None:
        self.key, self.listener = key, listener
        self.told = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of the epochs that a run to resume has behind it."""
        for entry in state.log_history:
            if self.key in entry:
                self._tell(entry[self.key])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Tell of the epoch that ended."""
        if metrics is not None:
            self._tell(metrics[self.key])

    def _tell(self, score: float) -> None:
        self.told += 1
        self.listener(self.told, float(score))
