"""Progress bars of training."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback


class ProgressBar(TrainerCallback):
    """One bar over all steps, with what was logged last; printed by the main process alone.

    Args:
        shown: Keys of ``Trainer``'s log and how the bar names them.
    """

    def __init__(self, shown: dict[str, str]) -> None:
        self.names = shown
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def open_bar(self, state: Any) -> Any:
        """The bar, where training starts or resumes."""
        return tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def place(self, state: Any) -> int:
        """How far training is, in the unit of the bar."""
        return int(state.global_step)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self.bar = self.open_bar(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.place(state) - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show what was logged."""
        self.shown.update({label: f"{logs[key]:.3f}" for key, label in self.names.items() if logs and key in logs})
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Stop drawing the bar; what it shows stays on the screen."""
        if self.bar is not None:
            self.bar.close()
