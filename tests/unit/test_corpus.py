"""The corpus: paragraphs, each once, and a held-out part that depends on the texts alone."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from promptwise.errors import DataError
from promptwise.pretraining.corpus import MIN_WORDS, paragraphs, read_corpus

LINES = [f"This is paragraph number {number} of a corpus with several words." for number in range(60)]


def write(path: Path, lines: list[str]) -> str:
    """Write lines, gzipped where the name says so."""
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def test_line_breaks_part_paragraphs_and_short_ones_are_left_out() -> None:
    """Breaks of text and of HTML part paragraphs; headings fall away; runs of spaces become one."""
    long = "one two  three four five six seven eight"
    text = f"Heading\n{long}<br /><br>{long} nine\n\n{' '.join(['word'] * (MIN_WORDS - 1))}"
    assert list(paragraphs(text)) == [" ".join(long.split()), " ".join(f"{long} nine".split())]


def test_the_held_out_part_depends_on_the_texts_alone(tmp_path: Path) -> None:
    """Another order, another split over files and repeated lines hold out the same paragraphs."""
    whole = read_corpus([write(tmp_path / "all.txt", LINES)], held_out=7)
    mixed = random.Random(0).sample(LINES, len(LINES))
    parts = [write(tmp_path / "a.txt", mixed[:20]), write(tmp_path / "b.txt.gz", mixed[20:] + mixed[:5])]
    other = read_corpus(parts, held_out=7)
    assert other.held_out == whole.held_out
    assert sorted(other.train) == sorted(whole.train)
    assert len(whole.held_out) == 7
    assert set(whole.held_out).isdisjoint(whole.train)
    assert {*whole.held_out, *whole.train} == set(LINES)
    assert whole.held_out != sorted(LINES)[:7]


def test_more_text_moves_few_paragraphs(tmp_path: Path) -> None:
    """A paragraph that is held out of a larger corpus is held out of every part of it."""
    part = read_corpus([write(tmp_path / "part.txt", LINES[:30])], held_out=10)
    whole = read_corpus([write(tmp_path / "all.txt", LINES)], held_out=10)
    assert {line for line in whole.held_out if line in LINES[:30]} <= set(part.held_out)


def test_the_fingerprint_tells_corpora_apart(tmp_path: Path) -> None:
    """The same texts and split have the same fingerprint; a word or another split changes it."""
    name = write(tmp_path / "all.txt", LINES)
    first = read_corpus([name], held_out=7).fingerprint
    assert read_corpus([name], held_out=7).fingerprint == first
    assert read_corpus([name], held_out=8).fingerprint != first
    changed = write(tmp_path / "other.txt", [*LINES[:-1], LINES[-1] + " more"])
    assert read_corpus([changed], held_out=7).fingerprint != first


def test_columns_of_rows(tmp_path: Path) -> None:
    """Rows are read by their text column; a missing one is answered with those that are there."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps({"body": line, "n": 1}) + "\n" for line in LINES).encode()))
    assert len(read_corpus([str(path)], "body", 5).train) == len(LINES) - 5
    with pytest.raises(DataError, match=r"line 1: the text column 'text'.*body, n.*--text-column"):
        read_corpus([str(path)], held_out=5)
    with pytest.raises(DataError, match=r"'n' holds int"):
        read_corpus([str(path)], "n", 5)


def test_a_dataset_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no file is a dataset; configuration and split are parted by colons."""
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, config, split))
        return [{"text": line} for line in LINES]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for name in ("org/name", "org/name:validation", "org/name:small:test", "name:train[:1%]"):
        assert len(read_corpus([name], held_out=5).train) == len(LINES) - 5
    assert asked == [
        ("org/name", None, "train"),
        ("org/name", None, "validation"),
        ("org/name", "small", "test"),
        ("name", None, "train[:1%]"),
    ]
    for name in ("a:b:c:d", "C:\\corpus"):
        with pytest.raises(DataError, match="is no file, and no dataset"):
            read_corpus([name])


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    """JSON may hold what is no text; it does not stop a corpus of millions of rows."""
    rows = [{"text": f"{LINES[0]} \ud83d"}, *({"text": line} for line in LINES)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert f"{LINES[0]} ?" in read_corpus([str(path)], held_out=1).train


def test_a_corpus_without_enough_paragraphs(tmp_path: Path) -> None:
    """An empty corpus, or one that would be held out whole, is refused with the numbers."""
    with pytest.raises(DataError, match=r"has 0 paragraphs of at least 8 words.*1,000"):
        read_corpus([write(tmp_path / "empty.txt", [])])
    with pytest.raises(DataError, match=r"60 paragraphs.*--held-out"):
        read_corpus([write(tmp_path / "all.txt", LINES)], held_out=60)
    with pytest.raises(DataError, match=r"No file 'al\.txt'.*all\.txt"):
        read_corpus([str(tmp_path / "al.txt")])
