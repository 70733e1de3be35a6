"""The metrics of a model on labelled examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptwise.tasks.examples import Example, labels_of
from promptwise.tasks.problems import problem_of
from promptwise.tasks.problems.base import Label
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
    return score_choices(spec, examples, answers_of(model, examples, batch_size, progress))


def answers_of(
    model: TextModel, examples: Sequence[Example], batch_size: int = 64, progress: str | None = None
) -> list[Label]:
    """What a model answers to each example: the class, or what the task's problem has in its place."""
    rows = model.features(examples)
    answers: list[Label] = model.problem.decode(
        model.logits(rows, batch_size, progress), rows, model.spec.labels, model.decoding
    )
    return answers


def score_choices(spec: TaskSpec, examples: Sequence[Example], answers: Sequence[Label]) -> dict[str, float]:
    """The metrics of a task, by name, of answers."""
    groups = [example.group for example in examples]
    return problem_of(spec).scores(spec.metrics, list(answers), labels_of(examples), spec.labels, groups)


def majority_score(spec: TaskSpec, examples: Sequence[Example]) -> float:
    """A task's first metric of always saying the class that is most frequent among examples: the floor of a result."""
    labels = labels_of(examples)
    counts = Counter(labels)
    most = min(counts, key=lambda label: (-counts[label], label))
    return next(iter(score_choices(spec, examples, [most] * len(labels)).values()))


def packed_choices(choices: Sequence[int], labels: Sequence[int]) -> tuple[str, str]:
    """Predicted and true classes as one character each; both are empty where either has one beyond the 36th."""
    if max((*choices, *labels), default=0) >= len(_DIGITS):
        return "", ""
    chosen, true = ("".join(_DIGITS[one] for one in classes) for classes in (choices, labels))
    return chosen, true
