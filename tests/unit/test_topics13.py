"""The embedded data set keeps the promises of its card."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from promptwise.tasks.spec import load_spec

FOLDER = files("promptwise.tasks").joinpath("data/topics13")
SIZES = {"train": 78, "validation": 17, "test": 17}


def rows(split: str) -> list[dict[str, str]]:
    """The rows of a split."""
    return [json.loads(line) for line in FOLDER.joinpath(f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    """Lower-case words; apostrophes stay inside."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def stem(word: str) -> str:
    """A word without the endings that inflections of the topics' names have."""
    return re.sub(r"(ies|es|s|y|ical|ic|al)$", "", word)


ALL = [row for split in SIZES for row in rows(split)]


@pytest.mark.parametrize("split", SIZES)
def test_each_topic_has_its_share_of_each_split(split: str) -> None:
    """70/15/15 of 112 sentences for each of the 13 topics of the paper."""
    assert Counter(row["label"] for row in rows(split)) == dict.fromkeys(load_spec("topics13").labels, SIZES[split])
    assert len(load_spec("topics13").labels) == 13


def test_sentences_have_eight_to_thirty_words() -> None:
    """The length that the card states."""
    assert len(ALL) == 1456
    assert [row["text"] for row in ALL if not 8 <= len(row["text"].split()) <= 30] == []


def test_no_sentence_names_its_topic() -> None:
    """Otherwise the name alone would give the label away."""
    for row in ALL:
        name = {stem(word) for word in row["label"].split() if word not in {"and", "the"}}
        assert not name & {stem(word) for word in words(row["text"])}, row


def test_no_two_sentences_share_more_than_half_of_their_words() -> None:
    """Counted on distinct words against the shorter sentence: no frames with words swapped in."""
    bags = [frozenset(words(row["text"])) for row in ALL]
    alike = [
        (ALL[i]["text"], ALL[j]["text"])
        for i, j in itertools.combinations(range(len(bags)), 2)
        if 2 * len(bags[i] & bags[j]) > min(len(bags[i]), len(bags[j]))
    ]
    assert alike == []


def test_data_has_a_licence_and_a_card() -> None:
    """Both travel with the package."""
    assert "CC0" in FOLDER.joinpath("LICENSE").read_text(encoding="utf-8")
    assert "1,456" in FOLDER.joinpath("README.md").read_text(encoding="utf-8")
