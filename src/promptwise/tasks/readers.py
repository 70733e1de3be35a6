"""Reading rows from data files, one at a time: JSON lines, CSV, TSV, CoNLL (each plain or gzipped) and Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from promptwise.errors import DataError
from promptwise.tasks.fields import shorten

Row = tuple[int, dict[str, Any]]

ROW_SUFFIXES = (
    *(".jsonl", ".jsonl.gz", ".json", ".json.gz"),
    *(".csv", ".csv.gz", ".tsv", ".tsv.gz"),
    *(".conll", ".conll.gz", ".iob", ".iob.gz", ".iob2", ".iob2.gz", ".bio", ".bio.gz"),
    ".parquet",
)
"""The file name endings that `read_rows` takes; ``.json`` means JSON lines too, and the third line CoNLL's columns."""

TEXT_SUFFIXES = (".txt", ".txt.gz")
"""The file name endings of plain text, one text a line."""

_FIELD_LIMIT = 2**31 - 1  # The largest that csv takes on every platform; its default of 131,072 is one long article.
_PARQUET_BATCH = 1024


def read_rows(path: Path) -> Iterator[Row]:
    """Open a data file by its suffix and iterate over its rows.

    Yields the number of each row, starting at 1, and the row: for text formats the number of the line it
    starts on, for Parquet the number of the row. Blank lines are skipped. Text is UTF-8, with or without a
    byte order mark.

    Raises:
        DataError: At once: the file is missing, or its suffix unknown. While reading: the file is empty,
            broken, cut short or not UTF-8; the message names the file and the line.
    """
    path = Path(path)
    return _reader(path)(require_file(path))


def location(path: Path | str, number: int) -> str:
    """Return the words that name a row in an error message."""
    return f"{path}, {_unit(path)} {number}"


@lru_cache(maxsize=64)
def _unit(path: Path | str) -> str:
    """What a file has: lines, or rows."""
    return "line" if suffix_of(Path(path), ROW_SUFFIXES) not in (None, ".parquet") else "row"


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder and of those in it, in the order of their paths.

    Hidden ones, those in folders whose name begins with ``_``, and those without a row, which engines that write in
    parallel leave, are left out.

    Raises:
        DataError: There is none.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(".parquet") and path.is_file()]
    files = [path for path in found if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)]
    files = [path for path in files if not _has_no_row(path)]
    if not files:
        raise DataError(f"{folder} holds no Parquet files (*.parquet) with rows. Name another folder, or a file.")
    return files


def _has_no_row(path: Path) -> bool:
    """Whether a Parquet file is whole and empty; what is wrong with another one its reader says."""
    import pyarrow
    from pyarrow import parquet

    try:
        return bool(parquet.read_metadata(path).num_rows == 0)
    except (pyarrow.ArrowException, OSError):
        return False


def suffix_of(path: Path, suffixes: Iterable[str]) -> str | None:
    """Return the one of ``suffixes`` that the file name ends in, whatever its case, or None."""
    name = path.name.lower()
    return next((suffix for suffix in suffixes if name.endswith(suffix)), None)


def require_file(path: Path) -> Path:
    """Return ``path`` if a file is there.

    Raises:
        DataError: There is none; the message names files of the same folder with similar names.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path} is a folder, and a data file is needed. Name a file in it.")
    if not path.parent.is_dir():
        raise DataError(f"No file {path}: there is no folder {path.parent} either. Check the path.")
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise DataError(f"No file {path.name!r} in the folder {str(path.parent)!r}.{hint} Check the path.")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line of a plain or gzipped UTF-8 file, line ends included.

    Raises:
        DataError: The file cannot be read, is cut short, is not gzip though its name says so, or is not
            UTF-8.
    """
    gzipped = path.name.lower().endswith(".gz")
    number = 0
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
            for number, line in decode_lines(stream, str(path)):
                yield number, line
    except EOFError as error:
        raise DataError(
            f"{path} is cut short after line {number}: the gzip data has no end. Fetch it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not valid gzip after line {number} ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line of a byte stream, with line ends, without a byte order mark.

    Raises:
        DataError: Bytes are not UTF-8; the message names the line and the byte offset in the (unpacked)
            stream.
    """
    offset = 0
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}, line {number}: byte 0x{line[error.start]:02x} at offset "
                f"{offset + error.start} is not UTF-8. Save the file as UTF-8, for example with: "
                "iconv -f LATIN1 -t UTF-8"
            ) from error
        yield number, text.removeprefix("\ufeff") if number == 1 else text
        offset += len(line)


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    suffix = suffix_of(path, ROW_SUFFIXES)
    if suffix is None:
        if path.is_dir():
            require_file(path)
        raise DataError(
            f"{path}: no reader for files named so. Supported endings: {', '.join(ROW_SUFFIXES)}. "
            "Rename or convert the file."
        )
    kinds = {
        **dict.fromkeys((".json", ".jsonl"), _json_rows),
        **dict.fromkeys((".csv", ".tsv"), _csv_rows),
        **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), _conll_rows),
    }
    return kinds.get(suffix.removesuffix(".gz"), _parquet_rows)


def _json_rows(path: Path) -> Iterator[Row]:
    empty = True
    for number, line in read_lines(path):
        if not line.strip():
            continue
        empty = False
        yield number, _json_object(line, f"{path}, line {number}")
    if empty:
        raise _empty(path)


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        if line.strip() in ("[", "{"):
            hint = "The file looks like one indented JSON document. Write one object per line."
        else:
            hint = "Each line must be one complete JSON object."
        detail = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where}: broken JSON ({detail}): {shorten(line.strip())}. {hint}") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: a JSON object is needed, found {type(value).__name__} {shorten(value)}. "
            'Write one object per line, such as {"text": "...", "label": 0}.'
        )
    return value


def _csv_rows(path: Path) -> Iterator[Row]:
    # The limit is global to the process and only ever raised, so that no reader of another library gets less.
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    delimiter = "\t" if suffix_of(path, (".tsv", ".tsv.gz")) else ","
    lines: list[str] = []

    def remembered() -> Iterator[str]:
        for _, line in read_lines(path):
            lines.append(line)
            yield line

    # strict: otherwise a quote that is never closed swallows the rest of the file without a word.
    reader = csv.reader(remembered(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    empty = True
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            whole = lines.copy()
            lines.clear()
            if not cells:
                continue
            if header is None:
                header = _header(cells, f"{path}, line 1")
                continue
            empty = False
            if delimiter == "\t":
                _check_quotes(cells, whole, header, path, number)
            yield number, _csv_row(cells, header, f"{path}, line {number}")
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: broken row ({error}). A field that holds a quote, a line break or "
            'the separator must stand in quotes, with each quote inside it doubled ("").'
        ) from error
    if empty:
        raise _empty(path)


def _check_quotes(cells: list[str], lines: list[str], header: list[str], path: Path, number: int) -> None:
    """Refuse a row of a file with tabs that a quote at the start of a text may have drawn together.

    In many such files quotes are a part of the texts. Where each of several lines has as many fields as the header if
    quotes mean nothing, or one has and is a single field if they do, nobody can tell how they are meant.

    Args:
        cells: The row as it was read.
        lines: Its lines.
        header: The names of the columns.
        path: The file.
        number: The first of the lines.
    """
    alike = all(len(line.split("\t")) == len(header) for line in lines)
    if len(header) > 1 and alike and (len(lines) > 1 or len(cells) == 1):
        where = f"line {number}" if len(lines) == 1 else f"lines {number} to {number + len(lines) - 1}"
        raise DataError(
            f"{path}, {where}: the quote at the start of a field draws what follows up to the next quote into it, tabs "
            "and line ends too, and without that each line would be a row. Save the file as .csv or JSON lines, which "
            "say whether quotes are a part of the texts."
        )


def _header(cells: list[str], where: str) -> list[str]:
    """The names of the columns.

    Raises:
        DataError: A name is there twice, so that a row would keep one of the columns.
    """
    repeated = sorted({cell for cell in cells if cell and cells.count(cell) > 1})
    if repeated:
        raise DataError(f"{where}: the header repeats {', '.join(map(repr, repeated))}. Rename one of them.")
    return cells


def _csv_row(cells: list[str], header: list[str], where: str) -> dict[str, Any]:
    if len(cells) > len(header):
        raise DataError(
            f"{where}: {len(cells)} fields, and the header has {len(header)} "
            f"({', '.join(map(repr, header))}). The first extra field is "
            f"{shorten(cells[len(header)])}. Put fields that hold the separator in quotes."
        )
    # A short row leaves its last columns without a value, which is an error only if the task needs them.
    padded = [*cells, *[None] * (len(header) - len(cells))]
    return dict(zip(header, padded, strict=True))


def _is_comment(cells: Sequence[str]) -> bool:
    """Whether a line before a sentence is a comment of CoNLL-U, such as ``# text = Yes.`` or ``# newpar``."""
    return cells[0] == "#" and ("=" in cells or cells[1:2] in (["newpar"], ["newdoc"]))


def _conll_rows(path: Path) -> Iterator[Row]:
    """Sentences with an empty line between them, a word a line: the first column is the word, the last one its tag.

    Columns are separated by spaces or tabs. The ``text`` of a row is the list of its words, and its ``label`` that of
    its tags. Lines that start with ``-DOCSTART-`` and comments such as ``# id = 3`` are left out.
    """
    words: list[str] = []
    tags: list[str] = []
    start = columns = 0
    empty = True
    for number, line in read_lines(path):
        cells = line.split()
        if cells and (cells[0] == "-DOCSTART-" or (not words and _is_comment(cells))):
            continue
        if cells:
            if len(cells) < 2 or (columns and len(cells) != columns):
                wanted = f"{columns}, as the lines before" if columns else "a word and its tag"
                raise DataError(
                    f"{path}, line {number}: {len(cells)} column{'s' * (len(cells) != 1)} ({shorten(line.strip())}); "
                    f"each line needs {wanted}. Separate sentences by empty lines."
                )
            columns = len(cells)
            start = start or number
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            empty = False
            yield start, {"text": words, "label": tags}
            words, tags, start = [], [], 0
    if words:
        empty = False
        yield start, {"text": words, "label": tags}
    if empty:
        raise _empty(path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            _header(table.schema_arrow.names, str(path))
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        # Texts that are not UTF-8 and dates after the year 9999 fail where rows are made of a batch.
        raise DataError(f"{path} is no readable Parquet file, after row {number} ({error}). Fetch it again.") from error
    if number == 0:
        raise _empty(path)


def _empty(path: Path) -> DataError:
    size = path.stat().st_size
    return DataError(f"{path} holds no rows ({size} bytes). Give a file with at least one.")
