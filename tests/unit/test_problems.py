"""Kinds of problems: what files show, what labels fit, and what is chosen and said without a model."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from promptwise.config.choices import PROBLEMS as NAMES
from promptwise.errors import ConfigError, DataError
from promptwise.tasks import PROBLEMS, TaskSpec, load_spec, task_from_file
from promptwise.tasks.examples import labels_of
from promptwise.tasks.labels import sorted_names
from promptwise.tasks.problems.base import Decoding
from promptwise.tasks.problems.multi_label import best_threshold
from promptwise.tasks.readers import read_rows
from promptwise.tasks.splits import hold_out
from promptwise.tasks.template import word_starts


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as CSV, JSON lines or Parquet."""
    if file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def loaded(file: Path, **options: Any) -> Any:
    """A task of a file with the usual columns."""
    return task_from_file(file, text_column="text", label_column="label", **options)


def test_settings_know_every_problem() -> None:
    """The names that the settings accept, without importing the problems, are all that there are."""
    assert tuple(PROBLEMS) == NAMES


SETS = [["red"], [], ["red", "blue"], ["blue"], ["green", "blue"]] * 6
NUMBERS = [index + 0.25 for index in range(30)]
WORDS = [words for n in range(15) for words in (["Ada", f"met{n}", "Bob", "Ray"], ["all", "of", "it", f"works{n}"])]
TAGS = [["B-P", "O", "B-P", "I-P"], ["O"] * 4] * 15


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_several_labels_are_read(suffix: str, tmp_path: Path) -> None:
    """Lists, or names with | between them in CSV, where the problem has to be named; a row may have none."""
    labels: list[Any] = ["|".join(one) for one in SETS] if suffix == ".csv" else SETS
    file = write(tmp_path / f"rows{suffix}", [{"text": f"t {n}", "label": one} for n, one in enumerate(labels)])
    data = loaded(file, **({"problem": "multi_label_classification"} if suffix == ".csv" else {}))
    assert data.spec.problem == "multi_label_classification"
    assert data.spec.labels == ("blue", "green", "red")
    assert data.spec.metrics == ("micro_f1", "macro_f1", "subset_accuracy")
    found = {one.text: one.label for one in (*data.train, *data.validation, *data.test)}
    assert found == {f"t {n}": tuple(sorted(data.spec.labels.index(x) for x in one)) for n, one in enumerate(SETS)}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_numbers_are_read(suffix: str, tmp_path: Path) -> None:
    """Numbers with decimals of many values are a regression; few of them are classes, as they always were."""
    file = write(tmp_path / f"rows{suffix}", [{"text": f"t {n}", "label": one} for n, one in enumerate(NUMBERS)])
    data = loaded(file)
    assert (data.spec.problem, data.spec.labels) == ("regression", ())
    assert {one.text: one.label for one in data.train}.items() <= {f"t {n}": v for n, v in enumerate(NUMBERS)}.items()
    few = write(tmp_path / f"few{suffix}", [{"text": f"t {n}", "label": n % 4 / 2} for n in range(40)])
    assert loaded(few).spec.labels == ("0", "0.5", "1", "1.5") if suffix != ".csv" else True
    assert loaded(few).spec.problem == "single_label_classification"
    assert set(labels_of(loaded(few, problem="regression").train)) == {0.0, 0.5, 1.0, 1.5}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".conll", ".iob"])
def test_words_with_tags_are_read(suffix: str, tmp_path: Path) -> None:
    """Lists of words and of tags, in CSV with spaces between them, and a word a line in CoNLL's files."""
    file = tmp_path / f"rows{suffix}"
    if suffix in (".conll", ".iob"):
        sentences = [
            "\n".join(f"{w} X {t}" for w, t in zip(*one, strict=True)) for one in zip(WORDS, TAGS, strict=True)
        ]
        file.write_text("-DOCSTART- X O\n\n" + "\n\n".join(sentences), encoding="utf-8")
    else:
        joined = suffix == ".csv"
        write(
            file,
            [
                {"text": " ".join(w) if joined else w, "label": " ".join(t) if joined else t}
                for w, t in zip(WORDS, TAGS, strict=True)
            ],
        )
    data = loaded(file, **({"problem": "token_classification"} if suffix == ".csv" else {}))
    assert (data.spec.problem, data.spec.labels) == ("token_classification", ("O", "B-P", "I-P"))
    assert data.spec.metrics == ("entity_f1", "word_accuracy")
    every = [*data.train, *data.validation, *data.test]
    expected = {" ".join(w): tuple(data.spec.labels.index(one) for one in t) for w, t in zip(WORDS, TAGS, strict=True)}
    assert {one.text: one.label for one in every} == expected
    assert Counter(one.label for one in data.validation) == {(1, 0, 1, 2): 2, (0, 0, 0, 0): 1}


@pytest.mark.parametrize(
    ("problem", "rows", "says"),
    [
        ("multi_label_classification", [{"text": "a", "label": None}], "the labels must be a list of names"),
        ("multi_label_classification", [{"text": "a", "label": {"red": 1}}], "the labels must be a list of names"),
        ("multi_label_classification", [{"text": "a", "label": "[red"}], "are no JSON list"),
        ("regression", [{"text": "a", "label": "three"}], "needs a finite number as its label"),
        ("regression", [{"text": "a", "label": "nan"}], "needs a finite number as its label"),
        ("regression", [{"text": "a", "label": True}], "found True"),
        ("token_classification", [{"text": ["a", "b"], "label": ["O"]}], "1 tags for 2 words"),
        ("token_classification", [{"text": ["a b"], "label": ["O"]}], "holds a space"),
        ("token_classification", [{"text": ["a", ""], "label": ["O", "O"]}], "word 2 of column 'text' is empty"),
        ("token_classification", [{"text": ["a"], "label": 3}], "the tags must be a list"),
        ("single_label_classification", [{"text": "a", "label": ["red"]}], "the label must be a text or a number"),
    ],
)
def test_labels_that_do_not_fit_are_named(problem: str, rows: list[dict[str, Any]], says: str, tmp_path: Path) -> None:
    """The error has the file, the line and what would fit."""
    good = {
        "multi_label_classification": [{"text": "t", "label": one} for one in SETS],
        "regression": [{"text": "t", "label": one} for one in NUMBERS],
        "token_classification": [{"text": w, "label": t} for w, t in zip(WORDS, TAGS, strict=True)],
        "single_label_classification": [{"text": "t", "label": str(n % 2)} for n in range(20)],
    }[problem]
    file = write(tmp_path / "rows.jsonl", [*good, *rows])
    with pytest.raises(DataError, match=says) as error:
        loaded(file, problem=problem)
    assert f"rows.jsonl, line {len(good) + 1}" in str(error.value)


def test_a_broken_conll_file_is_named(tmp_path: Path) -> None:
    """A line of other columns than those before is no word."""
    file = tmp_path / "rows.conll"
    file.write_text("a O\nb B-X\nlost\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3: 1 column \('lost'\); each line needs 2"):
        list(read_rows(file))


def test_the_spec_of_a_single_label_is_as_before() -> None:
    """Run ids and adapters are made of it: no key came to it, and what it means did not change."""
    assert "problem" not in load_spec("boolq").to_dict()
    spec = TaskSpec("n", "d", "{t}", "y", problem="regression")
    assert spec.to_dict()["problem"] == "regression"
    assert TaskSpec.from_dict(spec.to_dict()) == spec
    assert TaskSpec("n", "d", "{t}", "y", ("a", "b")).metrics == ("accuracy",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problem": "ranking"}, "problem is 'ranking'; known: single_label"),
        ({"problem": "regression", "labels": ["a", "b"]}, "a regression has none"),
        ({"problem": "multi_label_classification", "labels": ["a"]}, "at least 2 classes, found 1"),
        (
            {"problem": "multi_label_classification", "labels": ["a", "b"], "metrics": ["accuracy"]},
            "'accuracy', which is",
        ),
        ({"problem": "token_classification", "labels": ["O", "B-X"], "text_pair": "{b}"}, "has one alone"),
        ({"problem": "single_label_classification"}, "labels is missing"),
    ],
)
def test_specs_that_do_not_fit_are_refused(changes: dict[str, Any], says: str) -> None:
    """Labels, metrics and texts are those of the problem."""
    with pytest.raises(ConfigError, match=says):
        TaskSpec.from_dict({"name": "n", "description": "d", "text": "{t}", "label": "y", **changes})


def test_strata_spread_what_is_held_out() -> None:
    """A tenth that is held out has a tenth of the rare label's rows, and numbers from low to high."""
    from promptwise.tasks.examples import Example

    sets = [(0, 1) if n % 20 == 0 else (0,) for n in range(400)]
    held = hold_out(
        [Example(f"t {n}", None, one) for n, one in enumerate(sets)],
        40, salt="s", origin="o", problem="multi_label_classification",
    )[1]  # fmt: skip
    assert sum(1 in one.label for one in held) == 2
    numbers = [Example(f"t {n}", None, float(n)) for n in range(100)]
    values = sorted(one.label for one in hold_out(numbers, 10, salt="s", origin="o", problem="regression")[1])
    assert [int(value // 10) for value in values] == list(range(10))


def test_a_threshold_is_the_best_there_is() -> None:
    """No other threshold has a higher F1 on the rows that it was chosen on; without a true row it is one half."""
    drawn = random.Random(0)

    def f1(shares: list[float], true: list[bool], limit: float) -> float:
        both = sum(share >= limit and one for share, one in zip(shares, true, strict=True))
        return 2 * both / (sum(share >= limit for share in shares) + sum(true))

    for _ in range(50):
        shares = [drawn.random() ** 2 for _ in range(25)]
        true = [drawn.random() < 0.2 + share / 2 for share in shares]
        if any(true):
            chosen = best_threshold(shares, true)
            assert f1(shares, true, chosen) == max(f1(shares, true, limit) for limit in shares)
    assert best_threshold([0.1, 0.9], [False, False]) == 0.5
    assert best_threshold([0.2, 0.4], [False, True]) == pytest.approx(0.3)


@pytest.mark.parametrize("small", [1e-5, -2.5e-7, 1e22])
def test_numbers_with_exponents_are_numbers(small: float, tmp_path: Path) -> None:
    """One of them among other numbers makes no classes of all; as class names they are in the order of their values."""
    rows = [{"text": f"t{place}", "label": value} for place, value in enumerate([small, *(n / 8 for n in range(40))])]
    data = loaded(write(tmp_path / "rows.jsonl", rows))
    assert data.spec.problem == "regression"
    assert small in labels_of([*data.train, *data.validation, *data.test])
    names = sorted_names({"0.5", "1e-05", "-2", "1E3"})
    assert names == ("-2", "1e-05", "0.5", "1E3")


def test_a_gap_is_no_class(tmp_path: Path) -> None:
    """pandas writes a missing label as NaN, which would be learnt as a class of that name."""
    rows = [{"text": f"t{place}", "label": place % 2 + 0.5} for place in range(20)]
    file = write(tmp_path / "rows.jsonl", [*rows, {"text": "t", "label": float("nan")}])
    with pytest.raises(DataError, match="line 21: the label must be a text or a number, found nan"):
        loaded(file)


def test_a_label_of_all_rows_is_learnt_too() -> None:
    """There is nothing to weigh it against; with a weight of 0 nothing would teach it."""
    weights = PROBLEMS["multi_label_classification"].class_weights([(0, 1), (0,), (0,), (0, 1, 2)], 4)
    assert weights == [1.0, 1.0, 3.0, 1.0]


def test_words_are_found_among_tokens() -> None:
    """The first token that starts in a word is the word's; one that was cut off has none."""
    text = "Ada  met Bob"
    spans = [(0, 0), (0, 2), (2, 3), (4, 8), (9, 10), (0, 0)]
    own = [False, True, True, True, True, False]
    assert word_starts(text, spans, own) == [1, 3, 4]
    assert word_starts(text, spans[:4], own[:4]) == [1, 3, -1]


def test_constant_answers_look_at_no_text() -> None:
    """The mean, the most frequent tag, and labels of half of the rows or else the most frequent one."""
    assert PROBLEMS["regression"].constant_answers([1.0, 2.0, 6.0], [0.0, 0.0], 0) == [3.0, 3.0]
    assert PROBLEMS["token_classification"].constant_answers([(1, 0, 0)], [(1, 1), ()], 2) == [(0, 0), ()]
    multi = PROBLEMS["multi_label_classification"]
    assert multi.constant_answers([(0, 1), (1,), (1, 2), (0,)], [()], 3) == [(0, 1)]
    assert multi.constant_answers([(0,), (), (), ()], [()], 3) == [(0,)]
    assert multi.row_scores([(0, 1), ()], [(1,), ()]) == [pytest.approx(2 / 3), 1.0]


@pytest.mark.parametrize("problem", ["single_label_classification", "token_classification"])
def test_weights_of_classes_count_in_batches_of_one(problem: str) -> None:
    """The mean loss of single rows is that of the rows together; a weight over the batch's weights would cancel."""
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 1, 3), torch.tensor([[0], [0], [0], [0], [1], [2]])
    weights = torch.tensor([0.5, 2.0, 3.0])
    if problem == "single_label_classification":
        logits, targets = logits[:, 0], targets[:, 0]
    loss = PROBLEMS[problem].loss
    alone = [loss(logits[row : row + 1], targets[row : row + 1], weights, Decoding()) for row in range(6)]
    assert float(loss(logits, targets, weights, Decoding())) == pytest.approx(float(torch.stack(alone).mean()))
    assert float(alone[4]) == pytest.approx(2 * float(loss(logits[4:5], targets[4:5], None, Decoding())))


def test_numbers_beyond_single_precision_are_refused() -> None:
    """Labels that the model's own numbers cannot hold or tell apart, such as seconds since 1970, are named."""
    regression = PROBLEMS["regression"]
    with pytest.raises(DataError, match=r"row 3: .*of at most 1e\+37; found 1e\+300"):
        regression.parse((), 1e300, "row 3", "text")
    with pytest.raises(DataError, match=r"spread by 11.5 around 1.7e\+09.*Subtract"):
        regression.start([1.7e9 + one for one in range(40)])
    assert regression.start([7.0, 7.0]).scale == 1.0
    assert regression.start([100_000.0, 100_010.0]).mean == 100_005


def test_numbers_without_a_leading_digit_are_numbers(tmp_path: Path) -> None:
    """``.25`` is what R and Stata write."""
    file = write(tmp_path / "rows.csv", [{"text": f"text {one}", "label": f".{one + 10}"} for one in range(40)])
    assert task_from_file(file, text_column="text", label_column="label").spec.problem == "regression"
