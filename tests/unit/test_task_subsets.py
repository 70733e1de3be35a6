"""Parts of the training data: the same for every method, and the test untouched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from promptwise.errors import ConfigError, DataError
from promptwise.tasks.data import TaskData, load_task, task_data
from promptwise.tasks.examples import Example
from promptwise.tasks.spec import load_spec
from promptwise.tasks.subsets import with_files, with_rows, with_shots


def texts(examples: list[Example]) -> set[str]:
    """The texts of examples."""
    return {example.text for example in examples}


@pytest.mark.parametrize("rows", [100, 400])
def test_fewer_training_rows(rows: int) -> None:
    """A part of train has the asked-for rows in their order and nearly the shares of the classes; the rest is whole."""
    whole = load_task("topics13")
    part = with_rows(whole, rows)
    assert rows <= len(part.train) < rows + 13
    assert [example for example in whole.train if example in part.train] == part.train
    counts = Counter(example.label for example in part.train)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == 13
    assert (part.validation, part.test) == (whole.validation, whole.test)
    assert part.fingerprint != whole.fingerprint
    assert with_rows(whole, rows) == part
    assert texts(with_rows(whole, rows // 2).train) <= texts(part.train)


def test_a_rare_class_stays_in_fewer_training_rows() -> None:
    """A class with one row keeps it, however few rows are asked for."""
    whole = load_task("topics13")
    lone = next(example for example in whole.train if example.label == 12)
    data = replace(whole, train=[example for example in whole.train if example.label < 2] + [lone])
    counts = Counter(example.label for example in with_rows(data, 20).train)
    assert set(counts) == {0, 1, 12}


def test_more_training_rows_than_there_are() -> None:
    """Asking for more is an error that names both numbers; asking for all changes nothing."""
    whole = load_task("topics13")
    assert with_rows(whole, len(whole.train)) is whole
    with pytest.raises(ConfigError, match=r"--train-rows is 5,000; topics13 \(embedded\) has 1,014"):
        with_rows(whole, 5000)


def test_fewer_rows_of_each_split() -> None:
    """Splits are cut apart from each other, and the rest stays whole."""
    whole = load_task("topics13")
    part = with_rows(whole, validation=30, test=60)
    assert part.train == whole.train
    assert 30 <= len(part.validation) < 43
    assert 60 <= len(part.test) < 73
    assert with_rows(whole, test=60).test == part.test
    assert "validation rows" in part.origin
    with pytest.raises(ConfigError, match="--test-rows is 999"):
        with_rows(whole, test=999)


def test_shots_are_drawn_by_the_seed() -> None:
    """n rows of each class to train on and n others to choose on; another seed draws others, the same seed the same."""
    whole = load_task("topics13")
    few = with_shots(whole, 4, seed=0)
    for part in (few.train, few.validation):
        assert Counter(example.label for example in part) == dict.fromkeys(range(13), 4)
        assert texts(part) <= texts(whole.train)
    assert not texts(few.train) & texts(few.validation)
    assert few.test == whole.test
    assert with_shots(whole, 4, seed=0) == few
    other = with_shots(whole, 4, seed=1)
    assert texts(other.train) != texts(few.train)
    assert other.fingerprint != few.fingerprint


@pytest.fixture
def paragraphs() -> TaskData:
    """40 paragraphs with 2 to 9 questions of 3 answers each, as in MultiRC."""
    rows = [
        Example(
            f"Paragraph {one}.", f"Question {two}? Answer {three}.", (one + two * three) % 2, f"{one}-{two}", str(one)
        )
        for one in range(40)
        for two in range(2 + one % 8)
        for three in range(3)
    ]
    spec = replace(load_spec("multirc"), metrics=("accuracy",))
    return task_data(spec, {"train": rows, "validation": rows[:60], "test": rows[60:90]}, "made up")


def test_rows_that_belong_together_are_picked_from_many_paragraphs(paragraphs: TaskData) -> None:
    """Questions stay whole, and as many paragraphs as there can be take part instead of a few large ones."""
    whole = Counter(example.group for example in paragraphs.train)
    part = with_rows(paragraphs, 90).train
    assert 80 <= len(part) <= 90
    assert {group: whole[group] for group in {one.group for one in part}} == Counter(one.group for one in part)
    assert len({one.split_group for one in part}) == len({one.group for one in part}) >= 27
    shares = [sum(one.label for one in rows) / len(rows) for rows in (part, paragraphs.train)]
    assert abs(shares[0] - shares[1]) < 0.05


def test_shots_of_one_paragraph_are_on_one_side(paragraphs: TaskData) -> None:
    """What is chosen on says nothing of the paragraphs that are learnt from."""
    for seed in range(5):
        few = with_shots(paragraphs, 16, seed)
        for part in (few.train, few.validation):
            assert Counter(one.label for one in part) == {0: 16, 1: 16}
            assert len({one.split_group for one in part}) >= 6
        assert not {one.split_group for one in few.train} & {one.split_group for one in few.validation}


def test_more_shots_than_rows() -> None:
    """A class with too few rows is named with its number."""
    with pytest.raises(DataError, match=r"--shots 40 takes 80 training rows of each class.*topics13.*has 78 of"):
        with_shots(load_task("topics13"), 40, seed=0)


def test_splits_from_files(tmp_path: Path) -> None:
    """Training and validation rows come from files in the format of the task; the test stays the task's."""
    whole = load_task("topics13")
    rows = [{"text": f"A sentence with the number {number}.", "label": number % 13} for number in range(26)]
    files = []
    for name, part in (("train", rows[:20]), ("dev", rows[20:])):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")

    def check(data: TaskData, train: int, validation: int) -> None:
        assert (len(data.train), len(data.validation)) == (train, validation)
        assert data.test == whole.test

    check(with_files(whole, str(files[0]), str(files[1])), 20, 6)
    check(with_files(whole, str(files[0]), None), 20, len(whole.validation))
    check(with_files(whole, None, str(files[1])), len(whole.train), 6)
    assert str(files[0]) in with_files(whole, str(files[0]), None).origin


def test_a_training_file_is_not_chosen_on(tmp_path: Path) -> None:
    """Rows of validation whose texts are trained on are left out of it; a file that has them all is refused."""
    whole = load_task("topics13")

    def written(texts: list[str]) -> str:
        file = tmp_path / "train.jsonl"
        file.write_text("".join(json.dumps({"text": text, "label": 0}) + "\n" for text in texts), encoding="utf-8")
        return str(file)

    shared = [example.text for example in whole.validation[:7]]
    found = with_files(whole, written([*shared, whole.train[0].text]), None)
    assert list(found.validation) == list(whole.validation[7:])
    assert [example.text for example in found.train[:7]] == shared
    everything = written([example.text for example in whole.validation])
    with pytest.raises(DataError, match=rf"validation split of topics13 has {len(whole.validation)} rows, and .*train"):
        with_files(whole, everything, None)


def test_rows_of_files_are_in_one_split(tmp_path: Path) -> None:
    """What is validated on is not trained on, whichever split comes from a file, and nothing of the test split is."""
    whole = load_task("topics13")

    def written(name: str, rows: Sequence[Example]) -> str:
        file = tmp_path / name
        lines = (json.dumps({"text": row.text, "label": whole.spec.labels[row.label]}) + "\n" for row in rows)
        file.write_text("".join(lines), encoding="utf-8")
        return str(file)

    dev = written("dev.jsonl", [*whole.train[:3], *whole.validation[:2]])
    alone = with_files(whole, None, dev)
    assert len(alone.validation) == 5
    assert list(alone.train) == list(whole.train[3:])
    both = with_files(whole, written("train.jsonl", [*whole.train[:9], *whole.test[:4]]), dev)
    assert list(both.train) == list(whole.train[3:9])
    assert both.origin.endswith("without 7 rows that another split has")
    with pytest.raises(DataError, match=r"dev\.jsonl has 5 rows, and .*dev\.jsonl has the texts of all"):
        with_files(whole, dev, dev)
    with pytest.raises(DataError, match="the test split of topics13 has the texts of all"):
        with_files(whole, written("test.jsonl", whole.test), None)
