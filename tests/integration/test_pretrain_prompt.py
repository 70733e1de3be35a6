"""``promptwise pretrain prompt`` and ``train --start-from``: pairs of sentences, and prompts that start from others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptwise.errors import DataError
from promptwise.pretraining.sentence_pairs import SPEC, sentence_pairs, split_sentences
from tests.integration.command import contents, fails, ok, read_json, train_flags
from tests.tiny import SENTENCES

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a paragraph of five sentences a line."""
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    lines = [" ".join(SENTENCES[place : place + 5]) for place in range(len(SENTENCES) - 5)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-trained prompt."""
    folder = tmp_path_factory.mktemp("runs") / "ppt"
    flags = ("--model", tiny, "--out", folder, "--pairs", 60, "--held-out", 30, "--length", 4, "--dtype", "fp32")
    printed = ok("pretrain", "prompt", "--corpus", corpus, *flags, "--threads", 1, "--lr", 0.1).out
    assert "accuracy" in printed
    return folder


def test_sentences_are_split_at_their_ends() -> None:
    """Abbreviations before small letters do not part a sentence, and short pieces fall away."""
    text = (
        'The film was shown in 1990 (cf. the first one). It was "good." Yes. Did many people see it then? They did so.'
    )
    assert split_sentences(text) == [
        (0, "The film was shown in 1990 (cf. the first one)."),
        (3, "Did many people see it then?"),
    ]


def test_a_pair_that_is_next_has_no_sentence_between_that_was_left_out() -> None:
    """Short sentences are in no pair, but they part those around them."""
    paragraphs = [
        f"It rained all day in {text}. Nobody came. We closed the shop in {text}. Then we went home to {text}."
        for text in range(30)
    ]
    following = [pair for pair in sentence_pairs(paragraphs, 90) if pair.label == SPEC.labels.index("next")]
    assert len(following) == 30
    assert {(pair.text.split()[0], str(pair.text_pair).split()[0]) for pair in following} == {("We", "Then")}
    apart = [text.replace("Then we went", "Well. Then we went") for text in paragraphs]
    with pytest.raises(DataError, match="two of them next to each other"):
        sentence_pairs(apart, 90)


def test_pairs_are_what_their_label_says() -> None:
    """A third of each kind; the second sentence is the next one, a later one, or of another paragraph."""
    paragraphs = [" ".join(f"Sentence {part} of paragraph number {text}." for part in range(5)) for text in range(30)]
    pairs = sentence_pairs(paragraphs, 300)
    assert sentence_pairs(paragraphs, 300) == pairs
    assert Counter(pair.label for pair in pairs) == {0: 100, 1: 100, 2: 100}

    def place(sentence: str | None) -> tuple[int, int]:
        words = str(sentence).rstrip(".").split()
        return int(words[1]), int(words[5])

    for pair in pairs:
        (first, text), (second, other) = place(pair.text), place(pair.text_pair)
        if pair.label == 0:
            assert (second - first, text) == (1, other)
        elif pair.label == 1:
            assert second - first >= 2
            assert text == other
        else:
            assert text != other
    with pytest.raises(DataError, match="raise --held-out"):
        sentence_pairs(paragraphs[:9], 300)


def test_a_run_makes_an_adapter(pretrained: Path, corpus: Path) -> None:
    """It is an adapter like any other, of the prompt base and the cloze head, and its card says what it learnt."""
    config = read_json(pretrained / "adapter_config.json")
    assert config["prompt"]["base"] == "prompt"
    assert config["prompt"]["head"] == "cloze"
    assert config["task"]["name"] == SPEC.name
    metrics = read_json(pretrained / "metrics.json")
    assert metrics["data"]["rows"] == {"train": 60, "validation": 15, "test": 15}
    assert metrics["data"]["origin"] == str(corpus)
    assert sorted(contents(pretrained)) == [
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "metrics.json",
        "train_config.json",
    ]


@pytest.mark.parametrize("head", ["classifier", "cloze"])
def test_a_task_starts_from_it(head: str, pretrained: Path, tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Without a step the prompt is the pre-trained one to the bit; the head is the task's own."""
    method = ("--base", "prompt", "--strategy", "shared", "--head", head, "--template", "{text} It was {mask}.")
    ok(*train_flags(tickets, tiny, tmp_path / "run", *method, "--start-from", pretrained, "--lr", 0))
    ours, theirs = load_file(tmp_path / "run" / WEIGHTS), load_file(pretrained / WEIGHTS)
    assert torch.equal(ours["strategy.vectors"], theirs["strategy.vectors"])
    ok(*train_flags(tickets, tiny, tmp_path / "plain", *method, "--lr", 0))
    plain = load_file(tmp_path / "plain" / WEIGHTS)
    assert not torch.equal(plain["strategy.vectors"], theirs["strategy.vectors"])
    assert all(torch.equal(plain[key], ours[key]) for key in plain if key.startswith("head."))


def test_tables_start_from_tables(tickets: Path, tiny: Path, tmp_path: Path) -> None:
    """Any strategy can start from an adapter of its kind: rows of known tokens, and the shared prefix."""
    method = ("--base", "prefix", "--strategy", "random")
    ok(*train_flags(tickets, tiny, tmp_path / "one", *method))
    ok(*train_flags(tickets, tiny, tmp_path / "two", *method, "--start-from", tmp_path / "one", "--lr", 0, "--seed", 1))
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    assert torch.equal(one["strategy.table.rows"], two["strategy.table.rows"])
    assert torch.equal(one["injector.prefix"], two["injector.prefix"])


def test_messages(pretrained: Path, corpus: Path, tickets: Path, tiny: Path, other_tiny: Path, tmp_path: Path) -> None:
    """Another length, another backbone, no adapter, too short a corpus: each message says what would do."""
    shared = ("--base", "prompt", "--strategy", "shared", "--start-from", pretrained)
    out = tmp_path / "no"
    fails(1, *train_flags(tickets, tiny, out, *shared, "--length", 5), says=["--length 4", "the same"])
    fails(1, *train_flags(tickets, other_tiny, out, *shared), says=["was made for", "fingerprint"])
    fails(1, *train_flags(tickets, tiny, out, *shared, "--start-from", tmp_path), says=["is no saved adapter"])
    assert not out.exists()
    fails(2, "pretrain", "prompt", "--model", tiny, "--out", out, says=["--corpus is missing"])
