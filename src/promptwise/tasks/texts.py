"""Streaming unlabelled texts for prediction, from a data file, a plain text file, or standard input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from promptwise.errors import ConfigError, DataError
from promptwise.tasks.fields import column_field, parse_format
from promptwise.tasks.problems import problem_of
from promptwise.tasks.readers import (
    ROW_SUFFIXES,
    TEXT_SUFFIXES,
    decode_lines,
    location,
    read_lines,
    read_rows,
    require_file,
    suffix_of,
)
from promptwise.tasks.spec import TaskSpec

TextPair = tuple[str, str | None]


def iter_texts(
    source: Path | str | TextIO,
    spec: TaskSpec | None = None,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    each_row: Callable[[Mapping[str, Any], str], None] | None = None,
) -> Iterator[TextPair]:
    """Stream the texts, and second texts, of a source. Labels are not looked at.

    Args:
        source: A file that `read_rows` takes, a ``.txt`` or ``.txt.gz`` file, or an open stream. Of plain
            text, every line is one text, blank lines included.
        spec: Says which columns to read, unless ``text_column`` does.
        text_column: Column of the text, in place of the spec's.
        text_pair_column: Column of the second text, in place of the spec's.
        each_row: Called with each row of a data file and the words that name it, before its texts are given.

    Raises:
        ConfigError: At once: the columns of a data file are not given, or given by halves.
        DataError: At once: the file is missing or of an unknown kind, or the task needs two texts and plain
            lines give one. While reading: the source is empty or broken, or a column is missing.
    """
    if text_column is None and text_pair_column is not None:
        raise ConfigError(f"The text pair column {text_pair_column!r} needs a text column beside it. Name both.")
    half = text_column is not None and text_pair_column is None
    if half and spec is not None and spec.text_pair is not None:
        raise ConfigError(
            f"The task {spec.name!r} reads two texts; beside the text column {text_column!r}, name a text pair column."
        )
    if isinstance(source, str):
        source = Path(source)
    if not isinstance(source, Path):
        return _plain_texts(_stream_lines(source), "standard input", spec)
    kind = suffix_of(source, (*ROW_SUFFIXES, *TEXT_SUFFIXES))
    if kind is None:
        raise DataError(
            f"{source}: no reader for files named so. Supported endings: "
            f"{', '.join((*ROW_SUFFIXES, *TEXT_SUFFIXES))}. Rename or convert the file."
        )
    if kind in TEXT_SUFFIXES:
        return _plain_texts(read_lines(require_file(source)), str(source), spec)
    if text_column is not None:
        pair = None if text_pair_column is None else column_field(text_pair_column)
        words = spec is not None and problem_of(spec).per_token
        return _row_texts(require_file(source), column_field(text_column), pair, words, each_row)
    if spec is None:
        raise ConfigError(f"{source}: name the column that holds the text, or give a task.")
    return _row_texts(require_file(source), spec.text, spec.text_pair, problem_of(spec).per_token, each_row)


def _row_texts(
    path: Path,
    text: str,
    text_pair: str | None,
    words: bool,
    each_row: Callable[[Mapping[str, Any], str], None] | None,
) -> Iterator[TextPair]:
    text_format = parse_format(text)
    pair_format = None if text_pair is None else parse_format(text_pair)
    for number, row in read_rows(path):
        where = location(path, number)
        if each_row is not None:
            each_row(row, where)
        yield text_format.render(row, where, words), pair_format.render(row, where) if pair_format else None


def _plain_texts(lines: Iterable[tuple[int, str]], name: str, spec: TaskSpec | None) -> Iterator[TextPair]:
    if spec is not None and spec.text_pair is not None:
        raise DataError(
            f"{name}: the task {spec.name!r} reads two texts, and plain lines hold one each. Give "
            f"a .jsonl or .csv file with the columns {', '.join(spec.columns)}."
        )
    return _stripped(lines, name)


def _stripped(lines: Iterable[tuple[int, str]], name: str) -> Iterator[TextPair]:
    empty = True
    for _, line in lines:
        empty = False
        yield line.rstrip("\r\n"), None
    if empty:
        raise DataError(f"{name} holds no lines. Give at least one text.")


def _stream_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    # The bytes below a text stream are always read as UTF-8, whatever the locale says; io.StringIO has none.
    raw = getattr(stream, "buffer", None)
    if raw is not None:
        return decode_lines(raw, "standard input")
    return enumerate(stream, start=1)
