"""One class of several: the problem of every packaged task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from promptwise.tasks.labels import label_index, label_name, sorted_names
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.problems.base import Decoding, Problem, balanced

if TYPE_CHECKING:
    from torch import Tensor


class SingleLabel(Problem):
    """What is true of a row is a class index; the loss is cross-entropy."""

    name: ClassVar[str] = "single_label_classification"
    calibrated: ClassVar[bool] = True
    chosen_after: ClassVar[bool] = True
    row_score: ClassVar[str] = "accuracy"
    constant: ClassVar[str] = "majority class"

    def usual_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """See :meth:`Problem.usual_metrics`."""
        return ("accuracy",)

    def names_in(self, values: Iterable[tuple[Any, str]]) -> tuple[str, ...]:
        """See :meth:`Problem.names_in`."""
        return sorted_names({label_name(value, where) for value, where in values})

    def parse(self, labels: Sequence[str], value: Any, where: str, text: str) -> int:
        """See :meth:`Problem.parse`."""
        return label_index(labels, value, where)

    def strata(self, truths: Sequence[int]) -> list[int]:
        """See :meth:`Problem.strata`."""
        return list(truths)

    def target(self, truth: int, labels: Sequence[str], features: Mapping[str, Any]) -> int:
        """See :meth:`Problem.target`."""
        return truth

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, decoding: Decoding) -> Tensor:
        """See :meth:`Problem.loss`."""
        from torch.nn import functional

        if weights is None:
            return functional.cross_entropy(logits, targets)
        # Over rows, not over their weights: in a batch of one row its weight would cancel.
        return functional.cross_entropy(logits, targets, weight=weights, reduction="none").mean()

    def class_weights(self, truths: Sequence[int], classes: int) -> list[float]:
        """See :meth:`Problem.class_weights`."""
        counts = Counter(truths)
        return balanced([counts[label] for label in range(classes)])

    def decode(
        self, logits: Any, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[int]:
        """See :meth:`Problem.decode`."""
        choices: list[int] = logits.argmax(-1).tolist()
        return choices

    def predictions(
        self, logits: Tensor, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Prediction]:
        """See :meth:`Problem.predictions`."""
        shares = (logits / decoding.temperature).softmax(-1).tolist()
        best = logits.argmax(-1).tolist()
        return [Prediction.of(labels, row, one) for row, one in zip(shares, best, strict=True)]

    def row_scores(self, answers: Sequence[int], truths: Sequence[int]) -> list[float]:
        """See :meth:`Problem.row_scores`: 1 for a right answer."""
        return [float(answer == truth) for answer, truth in zip(answers, truths, strict=True)]

    def constant_answers(self, train: Sequence[int], truths: Sequence[int], classes: int) -> list[int]:
        """See :meth:`Problem.constant_answers`: the most frequent class, the first of equal ones."""
        counts = Counter(train)
        return [max(range(classes), key=lambda label: counts[label])] * len(truths)
