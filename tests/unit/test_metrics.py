"""Tests of the metrics against values computed by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from promptwise.errors import DataError, UnknownNameError
from promptwise.tasks.data import TaskData
from promptwise.tasks.entities import entities
from promptwise.tasks.examples import Example
from promptwise.tasks.metrics import METRICS, compute, get_metric, majority_accuracy
from promptwise.tasks.problems import SINGLE
from promptwise.tasks.spec import TaskSpec
from promptwise.training.scoring import majority_score


def test_accuracy_is_share_of_hits() -> None:
    """Three of four right is 0.75."""
    assert compute(["accuracy"], [0, 1, 1, 2], [0, 1, 2, 2], None, 3) == {"accuracy": 0.75}


def test_macro_f1_by_hand() -> None:
    """Classes 0, 1, 2 have F1 of 4/5, 1/2 and 0; the mean is 13/30."""
    labels = [0, 0, 0, 1, 1, 2]
    predictions = [0, 0, 1, 1, 2, 1]
    # class 0: 2 hits, 2 predicted, 3 true; class 1: 1 hit, 3 predicted, 2 true; class 2: none.
    expected = (4 / 5 + 2 / 5 + 0) / 3
    assert compute(["macro_f1"], predictions, labels, None, 3)["macro_f1"] == pytest.approx(expected)


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    """A class in neither labels nor predictions does not lower the mean, one that is only predicted does."""
    assert compute(["macro_f1"], [0, 1], [0, 1], None, 3)["macro_f1"] == 1.0
    # class 0: 1 hit, 1 predicted, 2 true -> 2/3; class 2: predicted once, never true -> 0.
    assert compute(["macro_f1"], [0, 2], [0, 0], None, 3)["macro_f1"] == pytest.approx(1 / 3)


def test_f1a_takes_class_1_as_positive() -> None:
    """Two hits, three predicted, four true: F1 = 4/7; with the classes swapped it differs."""
    labels = [1, 1, 1, 1, 0, 0]
    predictions = [1, 1, 0, 0, 1, 0]
    assert compute(["f1a"], predictions, labels, None, 2)["f1a"] == pytest.approx(4 / 7)
    swapped = compute(["f1a"], [1 - p for p in predictions], [1 - y for y in labels], None, 2)
    assert swapped["f1a"] == pytest.approx(2 / 5)


def test_f1a_without_positives_is_zero() -> None:
    """No true and no predicted positive gives 0, no division by zero."""
    assert compute(["f1a"], [0, 0], [0, 0], None, 2) == {"f1a": 0.0}


def test_em_counts_groups_with_every_answer_right() -> None:
    """Of three questions, one has a wrong answer: 2/3, even where its rows are not adjacent."""
    groups = ["a", "b", "a", "c", "b"]
    assert compute(["em"], [1, 0, 0, 1, 1], [1, 0, 1, 1, 1], groups, 2)["em"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("groups", [None, ["a", None]])
def test_em_needs_every_group(groups: list[str | None] | None) -> None:
    """Without groups, or with a row that has none, EM is refused rather than guessed."""
    with pytest.raises(DataError, match="needs the group"):
        compute(["em"], [0, 1], [0, 1], groups, 2)


def test_compute_keeps_the_order_of_names() -> None:
    """The first metric selects checkpoints, so the order matters."""
    assert list(compute(["em", "accuracy", "f1a"], [1], [1], ["q"], 2)) == ["em", "accuracy", "f1a"]


@pytest.mark.parametrize(
    ("predictions", "labels", "groups", "match"),
    [
        ([], [], None, "no rows"),
        ([0], [0, 1], None, "1 predictions for 2 labels"),
        ([0, 1], [0, 1], ["a"], "1 groups for 2 labels"),
        ([0, 2], [0, 1], None, "Row 2: the prediction 2 is not a class index from 0 to 1"),
        ([0, 1], [0, -1], None, "Row 2: the label -1"),
    ],
)
def test_compute_refuses_rows_that_do_not_fit(
    predictions: list[int], labels: list[int], groups: list[str | None] | None, match: str
) -> None:
    """Empty input, unequal lengths and indices out of range are errors."""
    with pytest.raises(DataError, match=match):
        compute(["accuracy"], predictions, labels, groups, 2)


def test_f1a_refuses_three_classes() -> None:
    """F1a of a task with three classes would be a number without meaning."""
    with pytest.raises(DataError, match="2 classes, and the task has 3"):
        compute(["f1a"], [0], [0], None, 3)


def test_unknown_metric_names_near_match() -> None:
    """A slip in the name is answered with the right one."""
    with pytest.raises(UnknownNameError, match="'macro_f1'"):
        get_metric("macro-f1")


def test_registry_holds_metrics_by_their_names() -> None:
    """Every metric is found under its own name; errors alone are better when lower."""
    assert {name for name, one in METRICS.items() if SINGLE in one.problems} == {"accuracy", "macro_f1", "f1a", "em"}
    assert all(METRICS[name].name == name for name in METRICS)
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"mae", "mse"}


def test_the_majority_is_scored_by_the_first_metric() -> None:
    """Nine of ten are one class: an accuracy of 0.9, and a macro F1 of half of 18/19."""
    rows = [Example(f"text {place}", None, int(place == 0)) for place in range(10)]
    spec = TaskSpec("t", "", "{text}", "label", ("a", "b"))
    assert majority_score(spec, rows) == 0.9
    by_f1 = TaskSpec("t", "", "{text}", "label", ("a", "b"), metrics=("macro_f1", "accuracy"))
    assert majority_score(by_f1, rows) == pytest.approx(9 / 19)


def test_majority_accuracy() -> None:
    """The share of the most frequent label; of nothing, an error."""
    assert majority_accuracy([0, 1, 1, 2, 1]) == 0.6
    with pytest.raises(DataError, match="no labels"):
        majority_accuracy([])


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_sets_are_those_of_scikit_learn(seed: int) -> None:
    """Micro and macro F1 and subset accuracy of random sets of four labels."""
    sklearn = pytest.importorskip("sklearn.metrics")
    drawn = random.Random(seed)
    rows = [[tuple(one for one in range(4) if drawn.random() < 0.4) for _ in range(30)] for _ in range(2)]
    found = compute(["micro_f1", "macro_f1", "subset_accuracy"], rows[0], rows[1], None, 4)
    said, true = ([[int(one in row) for one in range(4)] for row in part] for part in rows)
    assert found["micro_f1"] == pytest.approx(sklearn.f1_score(true, said, average="micro"))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(true, said, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(sklearn.accuracy_score(true, said))


def test_metrics_of_numbers_are_those_of_scipy() -> None:
    """Both correlations, ties included, and both errors; a constant answer has correlation 0 and not NaN."""
    stats = pytest.importorskip("scipy.stats")
    drawn = random.Random(0)
    labels = [float(drawn.randint(0, 5)) for _ in range(50)]
    said = [label + drawn.gauss(0, 2) // 1 for label in labels]
    found = compute(["pearson", "spearman", "mae", "mse"], said, labels, None, 0)
    assert found["pearson"] == pytest.approx(stats.pearsonr(said, labels).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(said, labels).statistic)
    assert found["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(said, labels, strict=True)) / 50)
    assert found["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(said, labels, strict=True)) / 50)
    constant = compute(["pearson", "spearman"], [0.1] * 50, labels, None, 0)
    assert constant == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("tags", ["O B-A I-A B-B I-B", "O B-A I-A E-A S-A B-B E-B S-B I-B", "O I-A I-B B-A"])
def test_entities_are_those_of_seqeval(tags: str) -> None:
    """Random tags in any order, valid or not, mark the entities that seqeval sees, and so have its F1."""
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    drawn = random.Random(1)
    lengths = [drawn.randint(1, 9) for _ in range(200)]
    rows = [[drawn.choices(tags.split(), k=length) for length in lengths] for _ in range(2)]
    for row in rows[0]:
        assert [(kind, start, stop - 1) for kind, start, stop in entities(row)] == labeling.get_entities(row)
    found = compute(["entity_f1", "entity_precision", "entity_recall"], rows[0], rows[1], None, 5)
    assert found["entity_f1"] == pytest.approx(labeling.f1_score(rows[1], rows[0]))
    assert found["entity_precision"] == pytest.approx(labeling.precision_score(rows[1], rows[0]))
    assert found["entity_recall"] == pytest.approx(labeling.recall_score(rows[1], rows[0]))


@pytest.mark.parametrize(
    ("metrics", "problem", "truths", "chosen"),
    [
        (("pearson", "mse"), "regression", (2.0, 2.0), "mse"),
        (("pearson", "mse"), "regression", (2.0, 3.0), "pearson"),
        (("pearson", "spearman"), "regression", (2.0,), "pearson"),
        (("entity_f1", "word_accuracy"), "token_classification", ((0, 0), (0,)), "word_accuracy"),
        (("entity_f1", "word_accuracy"), "token_classification", ((0, 1), (0,)), "entity_f1"),
        (("micro_f1", "subset_accuracy"), "multi_label_classification", ((), ()), "subset_accuracy"),
        (("f1a", "accuracy"), SINGLE, (0, 0), "accuracy"),
    ],
)
def test_a_checkpoint_is_chosen_by_a_metric_that_can_tell(
    metrics: tuple[str, ...], problem: str, truths: tuple[Any, ...], chosen: str
) -> None:
    """A correlation with one number for all rows is 0 whatever the answers, and the first checkpoint would win."""
    labels = () if problem == "regression" else ("O", "B-PER")
    spec = TaskSpec("toy", "toy", text="{text}", label="label", labels=labels, metrics=metrics, problem=problem)
    rows = [Example("text", None, truth) for truth in truths]
    assert TaskData(spec, rows, rows, rows, "none", "made up").choosing_metric().name == chosen
