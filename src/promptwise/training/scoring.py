"""The metrics of a model on labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptwise.tasks.examples import Example, labels_of
from promptwise.tasks.metrics import compute
from promptwise.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from promptwise.models.text_model import TextModel

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def score(
    model: TextModel,
    spec: TaskSpec,
    examples: Sequence[Example],
    batch_size: int = 64,
    progress: str | None = None,
) -> dict[str, float]:
    """The metrics of a task on examples, by name; ``progress`` is the title of a bar for long waits."""
    return score_choices(spec, examples, choose(model, examples, batch_size, progress))


def choose(
    model: TextModel, examples: Sequence[Example], batch_size: int = 64, progress: str | None = None
) -> list[int]:
    """The class that a model predicts for each example."""
    choices: list[int] = model.logits(model.features(examples), batch_size, progress).argmax(-1).tolist()
    return choices


def score_choices(spec: TaskSpec, examples: Sequence[Example], choices: Sequence[int]) -> dict[str, float]:
    """The metrics of a task, by name, of predicted classes."""
    groups = [example.group for example in examples]
    return compute(spec.metrics, list(choices), labels_of(examples), groups, len(spec.labels))


def packed_choices(choices: Sequence[int]) -> str:
    """Predicted classes as one character each; empty where there are too many classes."""
    return "".join(_DIGITS[choice] for choice in choices) if max(choices, default=0) < len(_DIGITS) else ""
