"""Corpora with topics: specs of the package, mapped labels, shares, and what a wrong spec is told."""

from __future__ import annotations

import csv
from collections import Counter
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from promptwise.errors import ConfigError, DataError, PromptwiseError, UnknownNameError
from promptwise.pretraining.topic_corpus import corpus_names, load_topic_corpus, read_topic_corpus
from promptwise.tasks.spec import load_spec

TOPICS = ["food", "sport"]


def rows(count: int) -> list[dict[str, Any]]:
    """Rows of three teams."""
    return [
        {"subject": f"text {one}", "body": "of words", "team": ("cook", "ball", "other")[one % 3]}
        for one in range(count)
    ]


@pytest.fixture
def make_corpus(tmp_path: Path) -> Any:
    """Write a corpus file beside its data file; what is given wins over the keys of its source."""

    def make(count: int = 120, **source: Any) -> str:
        with (tmp_path / "mail.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["subject", "body", "team"])
            table.writeheader()
            table.writerows(rows(count))
        given = {"file": "mail", "text": "{subject} {body}", "label": "team", "map": {"cook": "food", "ball": "sport"}}
        given = {key: value for key, value in {**given, **source}.items() if value is not None}
        corpus = {"name": "mine", "description": "Mail", "topics": TOPICS, "sources": [given]}
        (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(corpus), encoding="utf-8")
        return str(tmp_path / "corpus.yaml")

    return make


def test_labels_are_mapped_and_other_rows_left_out(make_corpus: Any) -> None:
    """Two of three teams are topics; a twentieth each is held out, and texts follow the format."""
    data = load_topic_corpus(make_corpus())
    assert data.spec.labels == tuple(TOPICS)
    assert (len(data.train), len(data.validation), len(data.test)) == (72, 4, 4)
    assert {example.text for example in data.train + data.validation + data.test} == {
        f"text {one} of words" for one in range(120) if one % 3 < 2
    }
    assert Counter(example.label for example in data.train) == {0: 36, 1: 36}
    assert {int(example.text.split()[1]) % 3 for example in data.train if example.label == 1} == {1}


def test_rows_are_capped_by_hash_and_a_part_stays_whole(make_corpus: Any) -> None:
    """``rows`` takes the same texts each time; a source that is a part of its own is not split."""
    few = load_topic_corpus(make_corpus(rows=40))
    assert len(few.train) + len(few.validation) + len(few.test) == 40
    assert load_topic_corpus(make_corpus(rows=40)).fingerprint == few.fingerprint
    whole = load_topic_corpus(make_corpus(part="train"))
    assert (len(whole.train), len(whole.validation), len(whole.test)) == (80, 0, 0)


def test_a_topic_without_texts_is_an_error(make_corpus: Any) -> None:
    """The topic is named."""
    with pytest.raises(DataError, match="'sport'"):
        load_topic_corpus(make_corpus(topic="food", label=None, map=None))


def test_any_task_is_a_corpus() -> None:
    """The embedded task has the 13 topics."""
    data = load_topic_corpus("topics13")
    assert len(data.spec.labels) == 13
    assert len(data.train) == 13 * 78


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"map": {"cook": "foot"}}, ["'foot' is no topic", "did you mean 'food'"]),
        ({"topic": "food"}, ["needs either label or topic"]),
        ({"dataset": "some/set"}, ["needs either file or dataset"]),
        ({"part": "dev"}, ["part is 'dev'", "validation"]),
        ({"lable": "team"}, ["unknown key 'lable'", "'label'"]),
        ({"text": None}, ["text is missing"]),
        ({"file": "nowhere"}, ["'nowhere'", "--data-dir"]),
        ({"rows": 0}, ["rows is 0", "least is 1"]),
        ({"topic": "food", "label": None}, ["map would change nothing beside topic"]),
        ({"split": "test"}, ["split are of a dataset", "part"]),
        ({"label": "nothing"}, ["'nothing'", "subject"]),
        ({"map": None}, ["unknown label 'cook'", "'food'"]),
    ],
    ids=str,
)
def test_wrong_specs_are_told_what_is_wrong(make_corpus: Any, change: dict[str, Any], says: list[str]) -> None:
    """Each message names the value and what would do."""
    file = make_corpus(**change)
    with pytest.raises(PromptwiseError) as caught:
        load_topic_corpus(file)
    for words in says:
        assert words in str(caught.value)


def test_unknown_names(tmp_path: Path) -> None:
    """A near match is named, and a file that is not there."""
    with pytest.raises(UnknownNameError, match="wiki_topic13"):
        load_topic_corpus("wiki_topics13")
    with pytest.raises(ConfigError, match="does not exist"):
        load_topic_corpus(str(tmp_path / "no.yaml"))


@pytest.mark.parametrize("name", corpus_names())
def test_the_corpora_of_the_package_have_the_right_form(name: str) -> None:
    """They can be read, and every one of the 13 topics has a source."""
    text = files("promptwise.pretraining").joinpath("corpora", f"{name}.yaml").read_text(encoding="utf-8")
    corpus = read_topic_corpus(text, name)
    assert corpus.name == name
    assert corpus.topics == load_spec("topics13").labels
    plain = any(source.label is not None and not source.map for source in corpus.sources)
    named = {topic for source in corpus.sources for topic in (source.topic, *source.map.values()) if topic}
    assert plain or named == set(corpus.topics)


def test_the_hub_corpus_names_datasets_alone() -> None:
    """No local file is needed."""
    text = files("promptwise.pretraining").joinpath("corpora", "hub_topics13.yaml").read_text(encoding="utf-8")
    sources = read_topic_corpus(text, "hub").sources
    assert len(sources) >= 5
    assert all(source.dataset and not source.file for source in sources)


def test_a_text_of_two_sources_is_in_one_split(tmp_path: Path) -> None:
    """What one source holds out, another does not bring to training; a text may be in a file twice."""
    for name, first, last in (("old", 0, 400), ("new", 200, 600), ("exam", 300, 350)):
        lines = "".join(f'{{"text": "text {one}", "label": "{TOPICS[one % 2]}"}}\n' for one in range(first, last))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    shared = [{"file": name, "text": "{text}", "label": "label"} for name in ("old", "new")]
    corpus = {
        "name": "two",
        "description": "Two dumps",
        "topics": TOPICS,
        "sources": [*shared, {"file": "exam", "text": "{text}", "label": "label", "part": "test"}],
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(corpus), encoding="utf-8")
    data = load_topic_corpus(str(tmp_path / "two.yaml"))
    splits = [{example.text for example in split} for split in (data.train, data.validation, data.test)]
    assert not any(one & other for one, other in combinations(splits, 2))
    assert set.union(*splits) == {f"text {one}" for one in range(600)}
    assert {f"text {one}" for one in range(300, 350)} <= splits[2]


def test_labels_of_a_map_are_read_as_those_of_a_task(make_corpus: Any, tmp_path: Path) -> None:
    """Spaces around a cell, and whole numbers that Parquet keeps as floats, are the same label."""
    table = [{"text": f"words {one}", "code": float(one % 2)} for one in range(60)]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "floats.parquet")
    spaced = make_corpus(map={" cook ": "food", "ball": "sport"})
    assert len(load_topic_corpus(spaced).train) > 60
    floats = make_corpus(file="floats", text="{text}", label="code", map={0: "food", 1: "sport"})
    data = load_topic_corpus(floats)
    assert len(data.train) + len(data.validation) + len(data.test) == 60


def test_a_map_that_no_row_fits_is_named(make_corpus: Any) -> None:
    """A source whose rows were all left out would be missing without a word."""
    with pytest.raises(DataError, match=r"no row.*\['kook'\].*'team' has \['ball', 'cook', 'other'\]"):
        load_topic_corpus(make_corpus(map={"kook": "food"}))
