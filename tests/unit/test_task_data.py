"""Tests of loading tasks: folders, labels, held-out parts, single files, the embedded task and the Hub."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promptwise.errors import ConfigError, DataError, UnknownNameError
from promptwise.tasks import (
    Example,
    TaskData,
    TaskSpec,
    data,
    examples_from_rows,
    load_spec,
    load_task,
    task_from_file,
)
from promptwise.tasks.data import task_data
from promptwise.tasks.splits import hold_out

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data in {SHARED}")

Row = dict[str, Any]


def write_rows(path: Path, rows: list[Row]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentences(count: int, start: int = 0) -> list[Row]:
    """Return rows of SST-2, labels in turn."""
    return [{"sentence": f"sentence {start + i}", "label": i % 2} for i in range(count)]


def sst2_folder(folder: Path, **files: list[Row]) -> Path:
    """Write a folder of SST-2 with 20 rows of train and 6 of test, or the given files."""
    for stem, rows in ({"train": sentences(20), "validation": sentences(6, 100)} | files).items():
        write_rows(folder / f"{stem}.jsonl", rows)
    return folder


def texts(examples: list[Example]) -> set[str]:
    """Return the texts of examples."""
    return {example.text for example in examples}


def test_folder_and_its_parent_are_the_same(tmp_path: Path) -> None:
    """The files may lie in the folder itself, or in one named like the task; other formats do as well."""
    inner = sst2_folder(tmp_path / "sst2")
    outer = load_task("sst2", tmp_path)
    assert outer == load_task("sst2", inner)
    assert outer.origin == str(inner)
    assert (len(outer.train), len(outer.validation), len(outer.test)) == (18, 2, 6)
    rows = "sentence,label\n" + "".join(f"{row['sentence']},{row['label']}\n" for row in sentences(20))
    (inner / "train.csv").write_text(rows)
    (inner / "train.jsonl").unlink()
    assert load_task("sst2", tmp_path).fingerprint == outer.fingerprint


def test_held_out_part_is_stratified_disjoint_and_repeatable(tmp_path: Path) -> None:
    """Train and validation share no text, each class gives its share, and the order is that of the file."""
    rows = [{"sentence": f"s{i}", "label": int(i % 4 == 0)} for i in range(200)]
    folder = sst2_folder(tmp_path, train=rows)
    task = load_task("sst2", folder, validation_fraction=0.2)
    assert Counter(example.label for example in task.validation) == {0: 30, 1: 10}
    assert not texts(task.train) & texts(task.validation)
    assert texts(task.train) | texts(task.validation) == {row["sentence"] for row in rows}
    order = [int(example.text[1:]) for example in task.validation]
    assert order == sorted(order)
    assert order != list(range(order[0], order[0] + 40))
    assert load_task("sst2", folder, validation_fraction=0.2) == task


def test_held_out_part_does_not_depend_on_what_else_is_loaded(tmp_path: Path) -> None:
    """Train is the same whether or not validation is asked for; what is not asked for is empty."""
    folder = sst2_folder(tmp_path)
    whole = load_task("sst2", folder)
    train = load_task("sst2", folder, splits=("train",))
    validation = load_task("sst2", folder, splits=("validation",))
    assert (train.train, train.validation, train.test) == (whole.train, [], [])
    assert (validation.train, validation.validation, validation.test) == ([], whole.validation, [])


def test_only_the_files_of_the_splits_are_read(tmp_path: Path) -> None:
    """Test alone needs no train file, and train alone no test file."""
    folder = sst2_folder(tmp_path)
    (folder / "train.jsonl").unlink()
    assert len(load_task("sst2", folder, splits=("test",)).test) == 6
    sst2_folder(tmp_path)
    (folder / "validation.jsonl").unlink()
    assert len(load_task("sst2", folder, splits=("train", "validation")).train) == 18


def test_test_file_is_never_used_for_validation(tmp_path: Path) -> None:
    """SST-2's validation file is the test: validation comes from train."""
    task = load_task("sst2", sst2_folder(tmp_path))
    assert texts(task.validation) < {f"sentence {i}" for i in range(20)}
    assert texts(task.test) == {f"sentence {i}" for i in range(100, 106)}


def test_a_validation_file_of_its_own_is_used(tmp_path: Path) -> None:
    """IMDB's test is the test file, so a validation file beside it is taken, and train stays whole."""
    for stem, count in (("train", 10), ("validation", 3), ("test", 4)):
        rows = [{"text": f"{stem} {i}", "label": i % 2} for i in range(count)]
        write_rows(tmp_path / f"{stem}.jsonl", rows)
    task = load_task("imdb", tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 3, 4)
    assert texts(task.validation) == {"validation 0", "validation 1", "validation 2"}


def test_missing_file_lists_what_was_looked_for_and_found(tmp_path: Path) -> None:
    """The name of the Hub's split, the endings, and what is there."""
    write_rows(tmp_path / "train.jsonl", sentences(20))
    write_rows(tmp_path / "dev.jsonl", sentences(4))
    with pytest.raises(DataError) as caught:
        load_task("sst2", tmp_path)
    message = str(caught.value)
    assert "test split: looked for 'validation'" in message
    assert "Found there: dev.jsonl, train.jsonl." in message


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    """Which of them counts must not depend on the order of a listing."""
    folder = sst2_folder(tmp_path)
    (folder / "train.csv").write_text("sentence,label\nx,0\n")
    with pytest.raises(DataError, match=r"2 files for the train split: train.csv, train.jsonl"):
        load_task("sst2", folder)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    """The folder is named."""
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_task("sst2", tmp_path / "nowhere")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_validation_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    """Nothing or everything cannot be held out."""
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        load_task("sst2", tmp_path, validation_fraction=fraction)


def test_unknown_names_of_task_and_split(tmp_path: Path) -> None:
    """Both are refused before any file is looked at."""
    with pytest.raises(UnknownNameError, match="'sst2'"):
        load_task("sst-2", tmp_path)
    with pytest.raises(ConfigError, match="found 'dev'"):
        load_task("sst2", tmp_path, splits=("train", "dev"))


def test_train_of_one_class_is_refused(tmp_path: Path) -> None:
    """There is nothing to learn from it."""
    folder = sst2_folder(tmp_path, train=[{"sentence": f"s{i}", "label": 1} for i in range(5)])
    with pytest.raises(DataError, match=r"5 training examples of 'sst2' are all of one class \('positive'\)"):
        load_task("sst2", folder)


@pytest.mark.parametrize(
    ("value", "index"),
    [
        ("no", 0),
        ("yes", 1),
        (" yes ", 1),
        (1, 1),
        ("0", 0),
        (True, 1),
        (False, 0),
        ("True", 1),
        ("false", 0),
        (1.0, 1),
    ],
)
def test_label_values(value: object, index: int) -> None:
    """A name, an index, its digits, or a truth value."""
    rows = [(1, {"question": "q", "passage": "p", "label": value})]
    assert examples_from_rows(load_spec("boolq"), rows, "f") == [Example("q", "p", index)]


@pytest.mark.parametrize("value", ["maybe", 2, -2, "2", None, 0.5, float("nan"), float("inf"), "", [1], "²", {"a": 1}])
def test_label_values_that_are_refused(value: object) -> None:
    """File, line and the value are named."""
    rows = [(7, {"question": "q", "passage": "p", "label": value})]
    with pytest.raises(DataError) as caught:
        examples_from_rows(load_spec("boolq"), rows, Path("d/f.jsonl"))
    assert str(Path("d/f.jsonl")) + ", line 7: " in str(caught.value)
    assert repr(value) in str(caught.value)


def test_unknown_label_lists_the_allowed_ones() -> None:
    """Names and the range of indices."""
    rows = [(1, {"premise": "p", "hypothesis": "h", "label": "True"})]
    with pytest.raises(DataError, match="'entailment', 'contradiction', 'neutral', or an index from 0 to 2"):
        examples_from_rows(load_spec("cb"), rows, "f")


def test_hidden_label_is_explained(tmp_path: Path) -> None:
    """-1 is how the Hub's test split looks."""
    folder = sst2_folder(tmp_path, validation=[{"sentence": "s", "label": -1}])
    with pytest.raises(DataError, match=r"validation.jsonl, line 1: label -1 marks a hidden label"):
        load_task("sst2", folder)


def test_number_is_a_name_where_class_names_are_numbers() -> None:
    """With classes 1, 2, 3 the number 1 is the first class, not the second, and 0 is none."""
    spec = TaskSpec("t", "", "{x}", "y", ("1", "2", "3"))
    rows = [(1, {"x": "a", "y": 1}), (2, {"x": "b", "y": "3"}), (3, {"x": "c", "y": 2.0})]
    assert [example.label for example in examples_from_rows(spec, rows, "f")] == [0, 2, 1]
    with pytest.raises(DataError, match=r"unknown label 0. Allowed: '1', '2', '3'\."):
        examples_from_rows(spec, [(1, {"x": "a", "y": 0})], "f")


def test_decimal_class_names_make_numbers_names_too() -> None:
    """With classes 0.5 and 1.5 the number 1 is no index."""
    spec = TaskSpec("t", "", "{x}", "y", ("0.5", "1.5"))
    assert examples_from_rows(spec, [(1, {"x": "a", "y": 1.5})], "f")[0].label == 1
    with pytest.raises(DataError, match="unknown label 1"):
        examples_from_rows(spec, [(1, {"x": "a", "y": 1})], "f")


def test_missing_label_column_and_missing_text() -> None:
    """Both are named with their line; an empty text is fine."""
    spec = load_spec("sst2")
    with pytest.raises(DataError, match=r"line 1: no column 'label'.*Did you mean 'labels'"):
        examples_from_rows(spec, [(1, {"sentence": "s", "labels": 0})], "f.csv")
    with pytest.raises(DataError, match="line 2: column 'sentence' holds no value"):
        examples_from_rows(spec, [(2, {"sentence": None, "label": 0})], "f.csv")
    assert examples_from_rows(spec, [(1, {"sentence": "", "label": 0})], "f.csv") == [Example("", None, 0)]


def test_fingerprint_sees_every_part(tmp_path: Path) -> None:
    """It changes with a text, a label and the order, and is the same for the same data elsewhere."""
    rows = sentences(20)
    base = load_task("sst2", sst2_folder(tmp_path / "a")).fingerprint
    assert len(base) == 64
    assert load_task("sst2", sst2_folder(tmp_path / "b")).fingerprint == base
    relabelled = [rows[0] | {"label": 1}, *rows[1:]]
    changed = [rows[0] | {"sentence": "other"}, *rows[1:]]
    variants = [relabelled, changed, rows[::-1]]
    found = {load_task("sst2", sst2_folder(tmp_path / str(i), train=one)).fingerprint for i, one in enumerate(variants)}
    assert len(found | {base}) == 4


def fingerprint_of(examples: list[Example]) -> str:
    """The fingerprint of a task with these examples for its test."""
    return task_data(load_spec("multirc"), {"train": [], "validation": [], "test": examples}, "made up").fingerprint


def test_fingerprint_sees_groups() -> None:
    """The question and the paragraph of an answer count, as exact match and the test of a difference stand on them."""
    answers = [("0-0", "0"), ("0-0", "0"), ("0-1", "0"), ("1-0", "1")]
    regrouped = [("0-0", "0"), ("0-1", "0"), ("0-1", "0"), ("1-0", "1")]
    other_paragraph = [("0-0", "0"), ("0-0", "0"), ("0-1", "0"), ("1-0", "0")]
    found = {
        fingerprint_of([Example("t", "p", 0, group, split_group) for group, split_group in groups])
        for groups in (answers, regrouped, other_paragraph)
    }
    assert len(found) == 3


def test_fingerprint_of_a_task_without_groups_stays() -> None:
    """It is what it was before groups counted, so that records of such tasks keep their ids."""
    line = json.dumps(["test", "t", "p", 1]).encode() + b"\n"
    assert fingerprint_of([Example("t", "p", 1)]) == hashlib.sha256(line).hexdigest()


def test_fingerprints_of_committed_records_stay() -> None:
    """Grouped data of which docs/results has records keeps the fingerprint that their ids were made of."""
    used = set()
    for file in (Path(__file__).parents[2] / "docs" / "results").glob("*/records/*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.get("groups"):
            used.add(record["metrics"]["data"]["fingerprint"])
    assert used
    assert used <= set(data._WITHOUT_GROUPS.values())


def test_only_data_in_the_same_groups_keeps_its_old_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same texts in other groups are other data, whose runs are done anew."""
    same, other = [Example("t", "p", 0, "0-0", "0")], [Example("t", "p", 0, "0-1", "0")]
    monkeypatch.setattr(data, "_WITHOUT_GROUPS", {fingerprint_of(same): "old"})
    assert fingerprint_of(same) == "old"
    assert fingerprint_of(other) != "old"


def test_hold_out_keeps_groups_and_equal_texts_together() -> None:
    """No group and no text is on both sides."""
    grouped = [Example(f"t{i}", None, i % 2, split_group=str(i // 5)) for i in range(100)]
    rest, held = hold_out(grouped, 20, salt="validation", origin="f")
    assert 10 <= len(held) <= 20
    assert not {one.split_group for one in rest} & {one.split_group for one in held}
    repeated = [Example(f"t{i // 4}", None, (i // 4) % 2) for i in range(200)]
    rest, held = hold_out(repeated, 20, salt="validation", origin="f")
    assert len(held) == 16
    assert not texts(rest) & texts(held)


def test_hold_out_depends_on_content_not_on_place() -> None:
    """Shuffled rows give the same part; another salt gives another."""
    examples = [Example(f"t{i}", None, i % 2) for i in range(100)]
    _, held = hold_out(examples, 10, salt="validation", origin="f")
    _, again = hold_out(examples[::-1], 10, salt="validation", origin="f")
    _, other = hold_out(examples, 10, salt="test", origin="f")
    assert texts(held) == texts(again)
    assert texts(held) != texts(other)


def test_hold_out_of_few_rows_takes_one_and_empties_no_class() -> None:
    """One example at least; a class of one example stays in the rest."""
    few = [Example("a", None, 0), Example("b", None, 0), Example("c", None, 1)]
    rest, held = hold_out(few, 0, salt="validation", origin="f")
    assert [one.label for one in held] == [0]
    assert {one.label for one in rest} == {0, 1}
    with pytest.raises(DataError, match="f: no validation part can be held out of 2 examples in 2 classes"):
        hold_out(few[1:], 1, salt="validation", origin="f")


def test_hold_out_with_large_groups_takes_the_smallest() -> None:
    """Where no group fits the target, the smallest is held out rather than none."""
    sizes = [("a", 6), ("b", 4), ("c", 8)]
    examples = [Example(f"{g}{i}", None, i % 2, split_group=g) for g, size in sizes for i in range(size)]
    _, held = hold_out(examples, 1, salt="validation", origin="f")
    assert {one.split_group for one in held} == {"b"}


def labelled_file(folder: Path, rows: int = 50, labels: tuple[object, ...] = ("b", "a", "c_d")) -> Path:
    """Write a file with columns of odd names."""
    data = [
        {"my {text}": f"text {i}", "a [pair]": f"pair {i}", "the label": labels[i % len(labels)]} for i in range(rows)
    ]
    return write_rows(folder / "my data.jsonl", data)


def file_task(path: Path, **options: Any) -> TaskData:
    """Make a task of `labelled_file`."""
    return task_from_file(path, **({"text_column": "my {text}", "label_column": "the label"} | options))


def test_task_from_file(tmp_path: Path) -> None:
    """Classes are sorted, rows split 80/10/10 without overlap, names and words have defaults."""
    path = labelled_file(tmp_path)
    task = file_task(path)
    assert task.spec.labels == ("a", "b", "c_d")
    assert task.spec.label_words["c_d"] == ("c d",)
    assert task.spec.template == "{text} It is about {mask}."
    assert (task.spec.name, task.origin) == ("my data", str(path))
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 5, 5)
    assert len(texts(task.train) | texts(task.validation) | texts(task.test)) == 50
    assert {len({e.label for e in part}) for part in (task.validation, task.test)} == {3}
    assert file_task(path) == task


def test_task_from_file_with_pair_and_words(tmp_path: Path) -> None:
    """A spec of a file survives JSON and reads the same columns again."""
    words = {"a": ["first"], "b": ["second"], "c_d": ["third"]}
    path = labelled_file(tmp_path)
    task = file_task(path, text_pair_column="a [pair]", name="mine", label_words=words)
    assert task.spec.template == "{text} {text_pair} It is about {mask}."
    assert task.spec.label_words["c_d"] == ("third",)
    assert task.train[0].text_pair == task.train[0].text.replace("text", "pair")
    spec = TaskSpec.from_dict(json.loads(json.dumps(task.spec.to_dict())))
    assert spec == task.spec
    row = {"my {text}": "t", "a [pair]": "p", "the label": "b"}
    assert examples_from_rows(spec, [(1, row)], "f") == [Example("t", "p", 1)]


def test_task_from_file_sorts_numbers_by_value(tmp_path: Path) -> None:
    """Ten comes after two, and a number in the file is the class of that name."""
    task = file_task(labelled_file(tmp_path, labels=(10, 2, 1)))
    assert task.spec.labels == ("1", "2", "10")
    by_text = {e.text: e.label for e in task.train + task.validation + task.test}
    assert [by_text[f"text {i}"] for i in range(3)] == [2, 1, 0]


def test_task_from_ten_rows(tmp_path: Path) -> None:
    """The smallest file has one example each to validate and to test on."""
    task = file_task(labelled_file(tmp_path, rows=10, labels=("a", "b")))
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 1, 1)


@pytest.mark.parametrize(
    ("rows", "labels", "match"),
    [(9, ("a", "b"), "9 rows with 2 distinct"), (30, ("a",), "30 rows with 1 distinct")],
)
def test_task_from_too_small_a_file(tmp_path: Path, rows: int, labels: tuple[str, ...], match: str) -> None:
    """The message says what was found and how much is needed."""
    with pytest.raises(DataError, match=match + ".*at least 10 rows and 2 labels"):
        file_task(labelled_file(tmp_path, rows, labels))


def test_task_from_file_where_every_row_is_a_class(tmp_path: Path) -> None:
    """An id column taken for the label is refused."""
    with pytest.raises(DataError, match="no test part can be held out of 20 examples in 20 classes"):
        file_task(labelled_file(tmp_path, 20, tuple(f"id{i}" for i in range(20))))


def test_task_from_file_with_wrong_columns(tmp_path: Path) -> None:
    """A missing column is named with those there are; one column cannot serve twice."""
    path = labelled_file(tmp_path)
    with pytest.raises(DataError, match=r"line 1: no column 'my text'.*Did you mean"):
        file_task(path, text_column="my text")
    with pytest.raises(DataError, match="no column 'label'"):
        file_task(path, label_column="label")
    with pytest.raises(ConfigError, match="columns of their own"):
        file_task(path, label_column="my {text}")


def test_task_from_file_checks_words_and_template(tmp_path: Path) -> None:
    """Words for some classes only, or a template without its mask, are refused."""
    path = labelled_file(tmp_path)
    with pytest.raises(ConfigError, match="no word for the label 'b'"):
        file_task(path, label_words={"a": ["x"]})
    with pytest.raises(ConfigError, match=r"exactly one {mask}"):
        file_task(path, template="{text}")


def test_embedded_task_needs_no_folder() -> None:
    """The 13 topics are in the package, in three files, with all classes in each."""
    if not (Path(sys.modules["promptwise.tasks"].__path__[0]) / "data" / "topics13").is_dir():
        pytest.skip("the embedded data is not there yet")
    task = load_task("topics13")
    assert task.origin == "embedded"
    for part in (task.train, task.validation, task.test):
        assert {example.label for example in part} == set(range(13))


def test_task_without_any_place(tmp_path: Path) -> None:
    """A spec that is neither embedded nor on the Hub asks for a folder, and reads one by our split names."""
    spec = TaskSpec("mine", "", "{sentence}", "label", ("a", "b"))
    with pytest.raises(DataError, match=r"'mine' is neither embedded .* --data-dir"):
        load_task(spec)
    for stem in ("train", "validation", "test"):
        write_rows(tmp_path / f"{stem}.jsonl", sentences(4))
    assert len(load_task(spec, tmp_path).train) == 4


def test_hub_is_asked_for_its_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dataset, configuration and split names are the spec's; validation is held out of train."""
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> list[Row]:
        asked.append((name, config, split))
        return sentences(20) if split == "train" else sentences(6, 100)

    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_HUB_OFFLINE=False)),
    )
    task = load_task("sst2")
    assert asked == [("nyu-mll/glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]
    assert (len(task.train), len(task.validation), len(task.test)) == (18, 2, 6)
    assert task.origin == "Hub: nyu-mll/glue (sst2)"


def test_unreachable_hub_points_to_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the dataset, the cause, and the way out."""

    def load_dataset(name: str, config: str | None, *, split: str) -> list[Row]:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_HUB_OFFLINE=False)),
    )
    with pytest.raises(DataError) as caught:
        load_task("rte")
    message = str(caught.value)
    for part in ("aps/super_glue (rte), split train", "ConnectionError: no route to host)", "--data-dir"):
        assert part in message


@needs_shared
@pytest.mark.parametrize(
    ("name", "folder", "train", "test"),
    [
        ("boolq", "boolq", 9427, 3270),
        ("cb", "cb", 250, 56),
        ("rte", "", 2490, 277),
        ("multirc", "", 27243, 4848),
        ("sst2", "sst2_sentence", 6920, 872),
    ],
)
def test_shared_data_row_counts(name: str, folder: str, train: int, test: int) -> None:
    """Train and validation together are the official train; test is complete; a tenth is held out."""
    task = load_task(name, SHARED / folder)
    assert len(task.train) + len(task.validation) == train
    assert len(task.test) == test
    assert train * 0.099 - 1 <= len(task.validation) <= train * 0.1


@needs_shared
def test_shared_label_counts_are_those_of_the_paper() -> None:
    """Majority shares on the test sets: BoolQ 62.2, CB 50.0, RTE 52.7, MultiRC 57.2."""
    expected = {"boolq": 62.2, "cb": 50.0, "rte": 52.7, "multirc": 57.2}
    for name, share in expected.items():
        test = load_task(name, SHARED, splits=("test",)).test
        counts = Counter(example.label for example in test)
        assert round(100 * max(counts.values()) / len(test), 1) == share


@needs_shared
def test_shared_multirc_keeps_paragraphs_apart() -> None:
    """No paragraph is in both train and validation, by id and by text; questions are groups."""
    task = load_task("multirc", SHARED, splits=("train", "validation"))
    assert not texts(task.train) & texts(task.validation)
    ids = [{example.split_group for example in part} for part in (task.train, task.validation)]
    assert not ids[0] & ids[1]
    assert len(ids[0]) + len(ids[1]) == 456
    assert len({example.group for example in task.train + task.validation}) == 5131
    assert {example.label for example in task.validation} == {0, 1}


@needs_shared
def test_shared_topics_fit_the_embedded_spec() -> None:
    """The Wikipedia topics have the same 13 labels in the same order, by name as by index."""
    rows = [json.loads(line) for line in _lines(SHARED / "wiki_topic13" / "validation.jsonl.gz")]
    spec = load_spec("topics13")
    assert all(spec.labels[row["label"]] == row["label_name"] for row in rows)
    task = load_task("topics13", SHARED / "wiki_topic13", splits=("validation", "test"))
    assert (len(task.validation), len(task.test)) == (746, 749)


def _lines(path: Path) -> list[str]:
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return list(stream)
