"""Metrics over predictions and what is true, in the form that :mod:`promptwise.tasks.problems` gives both.

Sources: accuracy, macro F1 (CB), F1a and EM (MultiRC) as SuperGLUE defines them (Wang et al. 2019,
https://arxiv.org/abs/1905.00537, section 4; F1a and EM: Khashabi et al. 2018,
https://aclanthology.org/N18-1023/); those of sets of labels, of numbers and of entities as scikit-learn, SciPy and
seqeval compute them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from promptwise.errors import DataError, UnknownNameError
from promptwise.tasks.entities import entities, entity_scores

Groups = Sequence[str | None] | None
MetricFunction = Callable[[Sequence[Any], Sequence[Any], Groups], float]

_SINGLE = "single_label_classification"
_MULTI = "multi_label_classification"
_NUMBER = "regression"
_TOKENS = "token_classification"


@dataclass(frozen=True)
class Metric:
    """A metric: its name, what computes it, and what it needs.

    Attributes:
        name: The name used in task specs and results.
        function: Takes predictions, labels and groups of one length, at least one row; returns a number, in [0, 1]
            for all but those of a regression.
        description: One line for help and reports.
        higher_is_better: Whether a checkpoint with the larger value is the better one.
        in_units: Whether it is in the units of the labels; the others are shares of one, which tables print in percent.
        needs_groups: Whether every row must carry a group.
        two_classes: Whether it is defined for tasks of exactly two classes only.
        problems: The kinds of problems that it is for.
        defined: Says of what is true of some rows whether it can tell answers to them apart; it always can without it.
    """

    name: str
    function: MetricFunction
    description: str
    higher_is_better: bool = True
    in_units: bool = False
    needs_groups: bool = False
    two_classes: bool = False
    problems: tuple[str, ...] = (_SINGLE,)
    defined: Callable[[Sequence[Any]], bool] | None = None

    def merit(self, value: float) -> float:
        """A value so that more is better: itself, or of an error its negative."""
        return value if self.higher_is_better else -value

    @property
    def scale(self) -> int:
        """What tables and figures multiply a value by: 100 for percent, 1 for one in the units of the labels."""
        return 1 if self.in_units else 100

    def text(self, value: float) -> str:
        """A value, or a difference of two, as tables print it."""
        return f"{value:.4g}" if self.in_units else f"{100 * value:.1f}"


def accuracy(predictions: Sequence[int], labels: Sequence[int], groups: Groups = None) -> float:
    """Share of rows whose prediction is the label."""
    return sum(p == y for p, y in zip(predictions, labels, strict=True)) / len(labels)


def macro_f1(predictions: Sequence[Any], labels: Sequence[Any], groups: Groups = None) -> float:
    """Mean of the classes' F1, over the classes that occur among labels or predictions.

    This is ``sklearn.metrics.f1_score(average="macro", zero_division=0)``, which SuperGLUE uses for CB. Rows may be
    sets of classes; scikit-learn counts classes that never occur as 0 there, and they are left out here too.
    """
    if not isinstance(labels[0], int):
        occurring = sorted({label for row in (*labels, *predictions) for label in row})
        return sum(_f1_of_sets(predictions, labels, one) for one in occurring) / len(occurring) if occurring else 0.0
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


def _f1_of_sets(predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], positive: int) -> float:
    return _f1([positive in row for row in predictions], [positive in row for row in labels], positive=True)


def micro_f1(predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], groups: Groups = None) -> float:
    """F1 over all pairs of a row and a class: ``sklearn.metrics.f1_score(average="micro")``; 0 where there are none."""
    both = sum(len(set(p) & set(y)) for p, y in zip(predictions, labels, strict=True))
    either = sum(map(len, predictions)) + sum(map(len, labels))
    return 2 * both / either if either else 0.0


def subset_accuracy(
    predictions: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], groups: Groups = None
) -> float:
    """Share of rows whose set of classes is exactly right."""
    return sum(set(p) == set(y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def pearson(predictions: Sequence[float], labels: Sequence[float], groups: Groups = None) -> float:
    """Pearson's correlation; 0 where predictions or labels are all the same, for which it is not defined."""
    first, second = (_centred(values) for values in (predictions, labels))
    length = math.sqrt(math.fsum(one * one for one in first)) * math.sqrt(math.fsum(one * one for one in second))
    return math.fsum(one * other for one, other in zip(first, second, strict=True)) / length if length else 0.0


def spearman(predictions: Sequence[float], labels: Sequence[float], groups: Groups = None) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values at the mean of their ranks; 0 as there."""
    return pearson(_ranks(predictions), _ranks(labels))


def mae(predictions: Sequence[float], labels: Sequence[float], groups: Groups = None) -> float:
    """Mean absolute error, in the units of the labels."""
    return math.fsum(abs(p - y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def mse(predictions: Sequence[float], labels: Sequence[float], groups: Groups = None) -> float:
    """Mean squared error, in squares of these units."""
    return math.fsum((p - y) ** 2 for p, y in zip(predictions, labels, strict=True)) / len(labels)


def _centred(values: Sequence[float]) -> list[float]:
    if all(value == values[0] for value in values):
        # Their mean may be off by a rounding, which would pass for a spread.
        return [0.0] * len(values)
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    counts = Counter(values)
    rank: dict[float, float] = {}
    below = 0
    for value in sorted(counts):
        rank[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank[value] for value in values]


def entity_f1(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], groups: Groups = None) -> float:
    """F1 of entities over all texts together, as seqeval's ``f1_score`` gives it."""
    return entity_scores(predictions, labels)[2]


def entity_precision(
    predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], groups: Groups = None
) -> float:
    """Share of predicted entities that are right."""
    return entity_scores(predictions, labels)[0]


def entity_recall(
    predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], groups: Groups = None
) -> float:
    """Share of entities that are found."""
    return entity_scores(predictions, labels)[1]


def word_accuracy(
    predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], groups: Groups = None
) -> float:
    """Share of words whose tag is right; 0 where there are no words."""
    pairs = [pair for p, y in zip(predictions, labels, strict=True) for pair in zip(p, y, strict=True)]
    return sum(p == y for p, y in pairs) / len(pairs) if pairs else 0.0


def _differ(labels: Sequence[float]) -> bool:
    return len(set(labels)) > 1


def _has_entities(labels: Sequence[Sequence[str]]) -> bool:
    return any(entities(tags) for tags in labels)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", accuracy, "share of rows classified correctly"),
            Metric("macro_f1", macro_f1, "mean of the F1 of the classes", problems=(_SINGLE, _MULTI)),
            Metric("f1a", f1a, "F1 of class 1 over all answers", two_classes=True, defined=lambda labels: 1 in labels),
            Metric("em", em, "share of questions with all answers right", needs_groups=True),
            Metric("micro_f1", micro_f1, "F1 over all rows and labels together", problems=(_MULTI,), defined=any),
            Metric("subset_accuracy", subset_accuracy, "share of rows with all labels right", problems=(_MULTI,)),
            Metric("pearson", pearson, "Pearson's correlation", problems=(_NUMBER,), defined=_differ),
            Metric("spearman", spearman, "Spearman's rank correlation", problems=(_NUMBER,), defined=_differ),
            Metric("mae", mae, "mean absolute error", higher_is_better=False, in_units=True, problems=(_NUMBER,)),
            Metric("mse", mse, "mean squared error", higher_is_better=False, in_units=True, problems=(_NUMBER,)),
            Metric(
                "entity_f1",
                entity_f1,
                "F1 of entities, as seqeval computes it",
                problems=(_TOKENS,),
                defined=_has_entities,
            ),
            Metric(
                "entity_precision",
                entity_precision,
                "share of found entities that are right",
                problems=(_TOKENS,),
                defined=_has_entities,
            ),
            Metric(
                "entity_recall",
                entity_recall,
                "share of entities that are found",
                problems=(_TOKENS,),
                defined=_has_entities,
            ),
            Metric("word_accuracy", word_accuracy, "share of words whose tag is right", problems=(_TOKENS,)),
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
    predictions: Sequence[Any],
    labels: Sequence[Any],
    groups: Groups,
    num_classes: int,
) -> dict[str, float]:
    """Compute metrics by name, in the order of ``names``.

    Args:
        names: Names of metrics.
        predictions: Predicted class index of each row; a tuple of them, a number, or a list of tags for other problems.
        labels: True class index of each row, likewise.
        groups: Group of each row, or None; only grouped metrics look at it.
        num_classes: Number of classes of the task; every class index must be below it.

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


def _check_rows(predictions: Sequence[Any], labels: Sequence[Any], groups: Groups, num_classes: int) -> None:
    if len(labels) == 0:
        raise DataError("Metrics of no rows are undefined: give at least 1 row.")
    if len(predictions) != len(labels):
        raise DataError(f"{len(predictions)} predictions for {len(labels)} labels: give one per row.")
    if groups is not None and len(groups) != len(labels):
        raise DataError(f"{len(groups)} groups for {len(labels)} labels: give one per row.")
    for kind, values in (("prediction", predictions), ("label", labels)):
        for row, value in enumerate(values, start=1):
            if isinstance(value, int) and not 0 <= value < num_classes:
                raise DataError(f"Row {row}: the {kind} {value} is not a class index from 0 to {num_classes - 1}.")
