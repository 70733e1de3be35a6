"""Metrics over predicted and true class indices.

Sources: accuracy, macro F1 (CB), F1a and EM (MultiRC) as SuperGLUE defines them (Wang et al. 2019,
https://arxiv.org/abs/1905.00537, section 4; F1a and EM: Khashabi et al. 2018,
https://aclanthology.org/N18-1023/). All values lie between 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from promptwise.errors import DataError, UnknownNameError

Groups = Sequence[str | None] | None
MetricFunction = Callable[[Sequence[int], Sequence[int], Groups], float]


@dataclass(frozen=True)
class Metric:
    """A metric: its name, what computes it, and what it needs.

    Attributes:
        name: The name used in task specs and results.
        function: Takes predictions, labels and groups of one length, at least one row; returns a number in
            [0, 1].
        description: One line for help and reports.
        higher_is_better: Whether a checkpoint with the larger value is the better one.
        needs_groups: Whether every row must carry a group.
        two_classes: Whether it is defined for tasks of exactly two classes only.
    """

    name: str
    function: MetricFunction
    description: str
    higher_is_better: bool = True
    needs_groups: bool = False
    two_classes: bool = False


def accuracy(predictions: Sequence[int], labels: Sequence[int], groups: Groups = None) -> float:
    """Share of rows whose prediction is the label."""
    return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels)


def macro_f1(predictions: Sequence[int], labels: Sequence[int], groups: Groups = None) -> float:
    """Mean of the classes' F1, over the classes that occur among labels or predictions.

    This is ``sklearn.metrics.f1_score(average="macro", zero_division=0)``, which SuperGLUE uses for CB.
    """
    classes = sorted(set(labels) | set(predictions))
    return sum(_f1(predictions, labels, positive) for positive in classes) / len(classes)


def f1a(predictions: Sequence[int], labels: Sequence[int], groups: Groups = None) -> float:
    """F1 of class 1 over all answers (SuperGLUE's F1a for MultiRC); 0 where class 1 never occurs."""
    return _f1(predictions, labels, positive=1)


def em(predictions: Sequence[int], labels: Sequence[int], groups: Groups = None) -> float:
    """Share of groups (questions) with every row (answer) right: SuperGLUE's exact match for MultiRC.

    Raises:
        DataError: There are no groups, or a row has none.
    """
    if groups is None or None in groups:
        missing = "the rows carry none" if groups is None else f"row {list(groups).index(None) + 1} has none"
        raise DataError(
            f"The metric 'em' needs the group (question) of every row, and {missing}. "
            "Set 'group' in the task spec, or leave 'em' out of its metrics."
        )
    all_right: dict[str | None, bool] = {}
    for prediction, label, group in zip(predictions, labels, groups, strict=True):
        all_right[group] = all_right.get(group, True) and prediction == label
    return sum(all_right.values()) / len(all_right)


def _f1(predictions: Sequence[int], labels: Sequence[int], positive: int) -> float:
    both = sum(p == y == positive for p, y in zip(predictions, labels, strict=True))
    either = sum(p == positive for p in predictions) + sum(y == positive for y in labels)
    return 2 * both / either if either else 0.0


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", accuracy, "share of rows classified correctly"),
            Metric("macro_f1", macro_f1, "mean of the F1 of the classes"),
            Metric("f1a", f1a, "F1 of class 1 over all answers", two_classes=True),
            Metric("em", em, "share of questions with all answers right", needs_groups=True),
        )
    }
)
"""Every metric by name."""


def get_metric(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        UnknownNameError: There is no such metric.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def compute(
    names: Sequence[str],
    predictions: Sequence[int],
    labels: Sequence[int],
    groups: Groups,
    num_classes: int,
) -> dict[str, float]:
    """Compute metrics by name, in the order of ``names``.

    Args:
        names: Names of metrics.
        predictions: Predicted class index of each row.
        labels: True class index of each row.
        groups: Group of each row, or None; only grouped metrics look at it.
        num_classes: Number of classes of the task; every index must be below it.

    Raises:
        UnknownNameError: A name is not that of a metric.
        DataError: There are no rows, lengths differ, an index is out of range, a grouped metric has no
            groups, or a two-class metric is asked of a task with another number of classes.
    """
    metrics = [get_metric(name) for name in names]
    _check_rows(predictions, labels, groups, num_classes)
    for metric in metrics:
        if metric.two_classes and num_classes != 2:
            raise DataError(
                f"The metric {metric.name!r} is defined for 2 classes, and the task has {num_classes}. "
                "Use 'macro_f1' instead."
            )
    return {metric.name: metric.function(predictions, labels, groups) for metric in metrics}


def majority_accuracy(labels: Sequence[int]) -> float:
    """Accuracy of always predicting the most frequent of ``labels``: the floor to compare a result with.

    Raises:
        DataError: There are no labels.
    """
    if len(labels) == 0:
        raise DataError("The majority accuracy of no labels is undefined: give at least 1 label.")
    return max(Counter(labels).values()) / len(labels)


def _check_rows(predictions: Sequence[int], labels: Sequence[int], groups: Groups, num_classes: int) -> None:
    if len(labels) == 0:
        raise DataError("Metrics of no rows are undefined: give at least 1 row.")
    if len(predictions) != len(labels):
        raise DataError(f"{len(predictions)} predictions for {len(labels)} labels: give one per row.")
    if groups is not None and len(groups) != len(labels):
        raise DataError(f"{len(groups)} groups for {len(labels)} labels: give one per row.")
    for kind, values in (("prediction", predictions), ("label", labels)):
        for row, value in enumerate(values, start=1):
            if not 0 <= value < num_classes:
                raise DataError(f"Row {row}: the {kind} {value} is not a class index from 0 to {num_classes - 1}.")
