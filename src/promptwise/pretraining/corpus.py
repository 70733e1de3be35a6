"""Text to pretrain on: paragraphs from files or Hub datasets, of which some are held out by their hash."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.errors import DataError
from promptwise.tasks.readers import (
    ROW_SUFFIXES,
    TEXT_SUFFIXES,
    location,
    read_lines,
    read_rows,
    require_file,
    suffix_of,
)
from promptwise.tasks.sources import HubDataset
from promptwise.tasks.spec import HubSource

MIN_WORDS = 8
"""Paragraphs with fewer words are left out: most are headings and remains of markup."""

_DATASET = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))??(?::(?P<split>[\w.+-]+(?:\[[^\]]*\])?))?"
)
_BREAKS = re.compile(r"\n|<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True)
class Corpus:
    """Paragraphs, each once.

    Attributes:
        train: Those to train on, in the order of the sources.
        held_out: Those that are never trained on.
        fingerprint: sha256 over all of them and the split.
    """

    train: list[str]
    held_out: list[str]
    fingerprint: str


def read_corpus(sources: Iterable[str], text_column: str = "text", held_out: int = 1000) -> Corpus:
    """Read paragraphs and hold out those with the smallest sha256: the same ones in whatever order they come.

    Args:
        sources: Files, plain text or rows with a text column, or Hub datasets as ``NAME``, ``NAME:SPLIT`` or
            ``NAME:CONFIG:SPLIT``.
        text_column: Column of the text in files and datasets with columns.
        held_out: How many paragraphs to hold out.

    Raises:
        DataError: A source cannot be read, or there are not enough paragraphs.
    """
    names = list(sources)
    digests: dict[bytes, str] = {}
    for name in names:
        for text in _texts(name, text_column):
            for paragraph in paragraphs(text):
                digests.setdefault(hashlib.sha256(paragraph.encode()).digest(), paragraph)
    if len(digests) <= held_out:
        raise DataError(
            f"The corpus ({', '.join(names)}) has {len(digests):,} paragraphs of at least {MIN_WORDS} words; it takes "
            f"more than the {held_out:,} that are held out. Add text, or lower --held-out."
        )
    chosen = set(heapq.nsmallest(held_out, digests))
    whole = hashlib.sha256(f"{held_out}\n".encode())
    for digest in digests:
        whole.update(digest)
    return Corpus(
        [text for digest, text in digests.items() if digest not in chosen],
        [digests[digest] for digest in sorted(chosen)],
        whole.hexdigest(),
    )


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text of at least :data:`MIN_WORDS` words; line breaks and ``<br>`` separate them."""
    for part in _BREAKS.split(text):
        words = part.split()
        if len(words) >= MIN_WORDS:
            # JSON can hold halves of surrogate pairs, which no tokenizer takes.
            yield " ".join(words).encode("utf-8", "replace").decode("utf-8")


def _texts(name: str, column: str) -> Iterator[str]:
    path = Path(name)
    if suffix_of(path, TEXT_SUFFIXES):
        yield from (line for _, line in read_lines(require_file(path)))
        return
    if suffix_of(path, ROW_SUFFIXES) or path.exists():
        rows: Iterator[tuple[int, Mapping[str, Any]]] = read_rows(path)
    else:
        rows = _dataset_rows(name)
    for number, row in rows:
        text = row.get(column)
        if not isinstance(text, str):
            found = "has no such column" if column not in row else f"holds {type(text).__name__}"
            raise DataError(
                f"{location(name, number)}: the text column {column!r} {found}; there are {', '.join(row)}. "
                "Name the column with --text-column."
            )
        yield text


def _dataset_rows(name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a Hub dataset."""
    parts = _DATASET.fullmatch(name)
    if parts is None:
        raise DataError(
            f"--corpus {name} is no file, and no dataset as NAME, NAME:SPLIT or NAME:CONFIG:SPLIT. Files end in "
            f"{', '.join((*TEXT_SUFFIXES, *ROW_SUFFIXES))}."
        )
    split = parts["split"] or "train"
    source = HubSource(parts["name"], parts["config"], {"train": split})
    return HubDataset(source, "name its file with --corpus").rows(split)
