"""Any number of classes of several, none included."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from promptwise.errors import DataError
from promptwise.tasks.fields import shorten
from promptwise.tasks.labels import label_index, label_name, sorted_names
from promptwise.tasks.predictions import LabelsPrediction, Prediction
from promptwise.tasks.problems.base import Decoding, Problem, as_tensor, rarest

if TYPE_CHECKING:
    from torch import Tensor

SEPARATOR = "|"
"""Between the labels of a text file's cell."""

Labels = tuple[int, ...]


class MultiLabel(Problem):
    """What is true of a row is the sorted tuple of its class indices; the loss is binary cross-entropy for each class.

    A label is given where its probability reaches the label's own threshold, the one under which its F1 on validation
    is highest. Validation scores are measured with thresholds that were chosen on the same rows, so they flatter; those
    of the test split do not.
    """

    name: ClassVar[str] = "multi_label_classification"
    chosen_after: ClassVar[bool] = True
    row_score: ClassVar[str] = "F1 of each row's labels"
    constant: ClassVar[str] = "majority labels"

    def usual_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """See :meth:`Problem.usual_metrics`."""
        return ("micro_f1", "macro_f1", "subset_accuracy")

    def names_in(self, values: Iterable[tuple[Any, str]]) -> tuple[str, ...]:
        """See :meth:`Problem.names_in`."""
        return sorted_names({label_name(one, where) for value, where in values for one in _listed(value, where)})

    def parse(self, labels: Sequence[str], value: Any, where: str, text: str) -> Labels:
        """See :meth:`Problem.parse`."""
        return tuple(sorted({label_index(labels, one, where) for one in _listed(value, where)}))

    def answers_in(self, truths: Sequence[Labels]) -> int:
        """See :meth:`Problem.answers_in`: the labels that any row has."""
        return len({label for row in truths for label in row})

    def strata(self, truths: Sequence[Labels]) -> list[int]:
        """See :meth:`Problem.strata`: the rarest label of a row, so that rare labels are on every side."""
        return rarest(truths)

    def target(self, truth: Labels, labels: Sequence[str], features: Mapping[str, Any]) -> list[float]:
        """See :meth:`Problem.target`: 1 for each label of the row ``[C]``."""
        return [float(label in truth) for label in range(len(labels))]

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, decoding: Decoding) -> Tensor:
        """See :meth:`Problem.loss`."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=weights)

    def class_weights(self, truths: Sequence[Labels], classes: int) -> list[float]:
        """See :meth:`Problem.class_weights`: rows without a label / rows with it, which count alike then.

        A label that all rows or none have counts 1: there is nothing to weigh it against.
        """
        counts, rows = Counter(label for row in truths for label in row), len(truths)
        return [
            (rows - with_it) / with_it if 0 < (with_it := counts[label]) < rows else 1.0 for label in range(classes)
        ]

    def fitted(self, logits: Any, truths: Sequence[Labels], decoding: Decoding) -> Decoding:
        """See :meth:`Problem.fitted`: the threshold of each label."""
        shares = as_tensor(logits).sigmoid().T.tolist()
        thresholds = [
            best_threshold(of_label, [label in row for row in truths]) for label, of_label in enumerate(shares)
        ]
        return Decoding(thresholds=tuple(thresholds))

    def decode(
        self, logits: Any, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Labels]:
        """See :meth:`Problem.decode`."""
        limits = _thresholds(labels, decoding)
        return [_given(shares, limits) for shares in as_tensor(logits).sigmoid().tolist()]

    def predictions(
        self, logits: Tensor, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Prediction]:
        """See :meth:`Problem.predictions`."""
        limits = _thresholds(labels, decoding)
        found: list[Prediction] = []
        for shares, best in zip(logits.sigmoid().tolist(), logits.argmax(-1).tolist(), strict=True):
            given = tuple(labels[label] for label in _given(shares, limits))
            found.append(LabelsPrediction(labels[best], dict(zip(labels, shares, strict=True)), given))
        return found

    def row_scores(self, answers: Sequence[Labels], truths: Sequence[Labels]) -> list[float]:
        """See :meth:`Problem.row_scores`: the F1 of two sets, 1 where both are empty."""
        pairs = [(set(answer), set(truth)) for answer, truth in zip(answers, truths, strict=True)]
        return [2 * len(one & two) / (len(one) + len(two)) if one or two else 1.0 for one, two in pairs]

    def constant_answers(self, train: Sequence[Labels], truths: Sequence[Labels], classes: int) -> list[Labels]:
        """See :meth:`Problem.constant_answers`: labels that half of the rows have, or else the most frequent one."""
        counts = Counter(label for row in train for label in row)
        most = max(range(classes), key=lambda label: counts[label])
        given = tuple(label for label in range(classes) if 2 * counts[label] >= len(train)) or (most,)
        return [given] * len(truths)


def best_threshold(shares: Sequence[float], true: Sequence[bool]) -> float:
    """The threshold with the highest F1: midway between two probabilities, of equally good ones the nearest to 0.5.

    It is 0.5 where no row has the label, for nothing shows then when to give it.

    Args:
        shares: ``[N]`` probabilities of a label.
        true: ``[N]`` whether a row has it.
    """
    positive = sum(true)
    if not positive:
        return 0.5
    ranked = sorted(zip(shares, true, strict=True), reverse=True)
    best, threshold, right = -1.0, 0.5, 0
    for given, (share, is_true) in enumerate(ranked, start=1):
        right += is_true
        following = ranked[given][0] if given < len(ranked) else 0.0
        if following == share:
            continue
        f1, middle = 2 * right / (given + positive), (share + following) / 2
        if f1 > best or (f1 == best and abs(middle - 0.5) < abs(threshold - 0.5)):
            best, threshold = f1, middle
    return threshold


def _thresholds(labels: Sequence[str], decoding: Decoding) -> Sequence[float]:
    """Those of a model; 0.5 for one that was not trained by ``fit``."""
    return decoding.thresholds or [0.5] * len(labels)


def _given(shares: Sequence[float], thresholds: Sequence[float]) -> Labels:
    return tuple(label for label, (share, limit) in enumerate(zip(shares, thresholds, strict=True)) if share >= limit)


def _listed(value: Any, where: str) -> list[Any]:
    """The labels of a row as a list.

    Raises:
        DataError: It is none.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(
                f"{where}: the labels {shorten(value)} are no JSON list. Write the names with {SEPARATOR} between "
                f'them, as in "red{SEPARATOR}blue", or a list such as ["red", "blue"].'
            ) from error
    if isinstance(value, str):
        return [one for one in value.split(SEPARATOR) if one.strip()]
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    raise DataError(
        f"{where}: the labels must be a list of names, or names with {SEPARATOR} between them; found {shorten(value)}. "
        "Write an empty list, or an empty text, where a row has none."
    )
