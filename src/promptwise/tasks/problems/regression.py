"""A number: a rating, a similarity, a grade. Ordered grades are numbers too (ordinal regression on their ranks)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from promptwise.errors import DataError
from promptwise.tasks.fields import shorten
from promptwise.tasks.predictions import NumberPrediction, Prediction
from promptwise.tasks.problems.base import Decoding, Problem

if TYPE_CHECKING:
    from torch import Tensor

STRATA = 10
"""Most parts of equal size that numbers are put into, by which rows are spread when some are held out."""


LARGEST = 1e37
"""Numbers beyond it, or differences of them, are infinite in single precision."""

LEAST_SPREAD = 1e-5
"""Numbers that spread less than this part of their mean are not told apart in single precision, which has 7 digits."""


class Regression(Problem):
    """What is true of a row is a number; the loss is the mean squared error.

    The head starts at the mean of the training rows and its errors are divided by their standard deviation, so that
    one learning rate serves numbers of any size. Both are saved with the adapter, and predictions are in the units of
    the file.
    """

    name: ClassVar[str] = "regression"
    has_classes: ClassVar[bool] = False
    row_score: ClassVar[str] = "absolute error, negated, in the units of the labels"
    row_score_in_units: ClassVar[bool] = True
    constant: ClassVar[str] = "mean of train"

    def usual_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """See :meth:`Problem.usual_metrics`."""
        return ("pearson", "spearman", "mae", "mse")

    def spec_problems(self, data: Mapping[str, Any]) -> Iterable[str]:
        """See :meth:`Problem.spec_problems`."""
        if data.get("labels"):
            yield "labels names classes, and a regression has none; leave it out"

    def names_in(self, values: Iterable[tuple[Any, str]]) -> tuple[str, ...]:
        """See :meth:`Problem.names_in`."""
        return ()

    def parse(self, labels: Sequence[str], value: Any, where: str, text: str) -> float:
        """See :meth:`Problem.parse`."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= LARGEST:
            raise DataError(
                f"{where}: a regression needs a finite number as its label, such as 3 or -0.5, of at most {LARGEST:g}; "
                f"found {shorten(value)}. Correct or remove the row, or name another label column or problem."
            )
        return number

    def strata(self, truths: Sequence[float]) -> list[int]:
        """See :meth:`Problem.strata`: parts of equal size by value; equal numbers are in one."""
        parts = max(1, min(STRATA, len(truths) // 4))
        part: dict[float, int] = {}
        for rank, value in enumerate(sorted(truths)):
            part.setdefault(value, rank * parts // len(truths))
        return [part[value] for value in truths]

    def outputs(self, labels: Sequence[str]) -> int:
        """See :meth:`Problem.outputs`."""
        return 1

    def target(self, truth: float, labels: Sequence[str], features: Mapping[str, Any]) -> float:
        """See :meth:`Problem.target`."""
        return truth

    def start(self, truths: Sequence[float]) -> Decoding:
        """See :meth:`Problem.start`: the mean and the spread of the numbers.

        Raises:
            DataError: They are too near to each other for what they are.
        """
        mean = math.fsum(truths) / len(truths)
        spread = math.sqrt(math.fsum((one - mean) ** 2 for one in truths) / len(truths))
        if len(set(truths)) > 1 and spread < LEAST_SPREAD * abs(mean):
            raise DataError(
                f"The labels spread by {spread:.3g} around {mean:.6g}, and the numbers of a model have seven digits: "
                f"their spread must be {LEAST_SPREAD:g} of their mean. Subtract their mean from the label column."
            )
        return Decoding(mean=mean, scale=spread or 1.0)

    def finished(self, scores: Tensor, decoding: Decoding) -> Tensor:
        """See :meth:`Problem.finished`: in the units of the numbers."""
        return scores * decoding.scale + decoding.mean

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, decoding: Decoding) -> Tensor:
        """See :meth:`Problem.loss`: in units of the training rows' variance."""
        errors = (logits.squeeze(-1) - targets.to(logits.dtype)) / decoding.scale
        return errors.square().mean()

    def decode(
        self, logits: Any, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[float]:
        """See :meth:`Problem.decode`."""
        values: list[float] = logits[..., 0].tolist()
        return values

    def predictions(
        self, logits: Tensor, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Prediction]:
        """See :meth:`Problem.predictions`."""
        return [NumberPrediction(f"{value:g}", {}, value) for value in self.decode(logits, rows, labels, decoding)]

    def row_scores(self, answers: Sequence[float], truths: Sequence[float]) -> list[float]:
        """See :meth:`Problem.row_scores`."""
        return [-abs(answer - truth) for answer, truth in zip(answers, truths, strict=True)]

    def constant_answers(self, train: Sequence[float], truths: Sequence[float], classes: int) -> list[float]:
        """See :meth:`Problem.constant_answers`: the mean."""
        return [math.fsum(train) / len(train)] * len(truths)
