"""Tests of the readers of data files: what they read, and what they say of broken files."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from promptwise.errors import ConfigError, DataError
from promptwise.tasks import TaskSpec, iter_texts, load_spec, read_rows

ROWS = [{"text": 'Grüße, \u2028 "you"\nthere', "label": "a"}, {"text": "", "label": "b"}]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as UTF-8 JSON lines, not escaped."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    """Return rows as CSV or TSV."""
    import csv

    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file, gzipped if its name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def error_of(path: Path) -> str:
    """Return the message of the error that reading the file ends in."""
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return str(caught.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "X.JSONL"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    """Rows come with their line numbers, whatever line separators the texts hold."""
    assert list(read_rows(write(tmp_path, name, json_lines(ROWS)))) == [(1, ROWS[0]), (2, ROWS[1])]


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.csv.gz", ","), ("x.tsv", "\t")])
def test_csv(tmp_path: Path, name: str, delimiter: str) -> None:
    """A field may hold line breaks; the number is that of the line a row starts on."""
    assert list(read_rows(write(tmp_path, name, delimited(ROWS, delimiter)))) == [(2, ROWS[0]), (4, ROWS[1])]


def test_parquet(tmp_path: Path) -> None:
    """Rows are numbered from 1, nested values kept."""
    rows = [row | {"idx": {"question": number}} for number, row in enumerate(ROWS)]
    assert list(read_rows(write_parquet(tmp_path / "x.parquet", rows))) == [(1, rows[0]), (2, rows[1])]


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    """A mark at the start is no part of the first name; blank lines count as lines but are no rows."""
    data = b"\xef\xbb\xbf" + b'{"a": 1}\r\n\r\n{"a": 2}'
    assert list(read_rows(write(tmp_path, "x.jsonl", data))) == [(1, {"a": 1}), (3, {"a": 2})]
    data = b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n"
    rows = [(2, {"a": "1", "b": "2"}), (4, {"a": "3", "b": "4"})]
    assert list(read_rows(write(tmp_path, "x.csv", data))) == rows


def test_reading_is_lazy(tmp_path: Path) -> None:
    """The first rows come before a later line is found broken."""
    rows = read_rows(write(tmp_path, "x.jsonl", b'{"a": 1}\n{"a": 2}\nbroken\n'))
    assert [next(rows), next(rows)] == [(1, {"a": 1}), (2, {"a": 2})]
    with pytest.raises(DataError, match="line 3"):
        next(rows)


def test_missing_file_is_named_at_once_with_near_matches(tmp_path: Path) -> None:
    """The error comes with the call, not with the first row."""
    write(tmp_path, "train.jsonl", b"{}")
    with pytest.raises(DataError, match=r"No file 'trian.jsonl' in .* Did you mean 'train.jsonl'\?"):
        read_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="no folder"):
        read_rows(tmp_path / "nowhere" / "x.jsonl")
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "x.csv")


def test_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    """The message lists what is supported."""
    with pytest.raises(DataError, match=r"x\.xlsx.*\.jsonl\.gz.*\.parquet"):
        read_rows(write(tmp_path, "x.xlsx", b""))


@pytest.mark.parametrize(("name", "data"), [("x.jsonl", b""), ("x.jsonl.gz", b"\n\n"), ("x.csv", b"text,label\n")])
def test_file_without_rows(tmp_path: Path, name: str, data: bytes) -> None:
    """An empty file, blank lines only, or a header only: an error, not an empty list."""
    assert "holds no rows" in error_of(write(tmp_path, name, data))


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (b'{"text": "a"', ("line 2: broken JSON", "column 13", '\'{"text": "a"\'')),
        (b"[1, 2]", ("line 2: a JSON object is needed, found list [1, 2]",)),
        (b"text", ("line 2: broken JSON", "'text'")),
        (b"[" * 100_000, ("line 2: broken JSON",)),
        (b'{"a": ' + b"9" * 5000 + b"}", ("line 2: broken JSON",)),
        (b"{", ("one indented JSON document",)),
    ],
)
def test_broken_json(tmp_path: Path, line: bytes, parts: tuple[str, ...]) -> None:
    """The line and what was found there are named, and the message stays short."""
    message = error_of(write(tmp_path, "x.jsonl", b'{"text": "fine"}\n' + line + b"\n"))
    assert all(part in message for part in parts)
    assert "x.jsonl" in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.csv"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    """File, line, byte and its offset in the whole file are named."""
    first = b'{"text": "fine"}\n'
    message = error_of(write(tmp_path, name, first + b'{"text": "caf\xe9"}\n'))
    assert f"{name}, line 2: byte 0xe9 at offset {len(first) + 13} is not UTF-8" in message


def test_broken_gzip(tmp_path: Path) -> None:
    """A cut file, a file that is no gzip, and a damaged one are told from bad rows."""
    whole = gzip.compress(json_lines([{"text": str(number)} for number in range(5000)]))
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short after line" in error_of(path)
    path.write_bytes(b'{"text": "plain"}\n')
    assert "not valid gzip" in error_of(path)
    path.write_bytes(whole[:500] + bytes(100) + whole[600:])
    assert "x.jsonl.gz" in error_of(path)


def test_broken_parquet(tmp_path: Path) -> None:
    """A cut file is refused by name; so is one that never was Parquet."""
    path = write_parquet(tmp_path / "x.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert "x.parquet is no readable Parquet file" in error_of(path)
    assert "no readable Parquet" in error_of(write(tmp_path, "y.parquet", b"text,label\n"))


def test_csv_row_with_more_fields_than_the_header(tmp_path: Path) -> None:
    """An unquoted comma is an error with the line, not a column lost."""
    message = error_of(write(tmp_path, "x.csv", b"text,label\nfine,1\none, two,0\n"))
    assert "x.csv, line 3: 3 fields, and the header has 2 ('text', 'label')" in message


def test_csv_row_with_fewer_fields_leaves_none(tmp_path: Path) -> None:
    """A short row has no value in its last columns; the task says whether it needs them."""
    rows = read_rows(write(tmp_path, "x.csv", b"text,label\nfine\n"))
    assert list(rows) == [(2, {"text": "fine", "label": None})]


def test_csv_quote_that_is_never_closed(tmp_path: Path) -> None:
    """It must not swallow the rest of the file in silence."""
    message = error_of(write(tmp_path, "x.csv", b'text,label\nfine,1\n"open,0\nmore,1\nrest,0\n'))
    assert "line 3: broken row" in message


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        (['"good film\t1', 'bad film"\t0', "fine\t1"], "lines 3 to 4"),
        (["fine\t1", '"good\tfilm"'], "line 4"),
    ],
)
def test_tsv_quotes_that_are_a_part_of_texts(tmp_path: Path, rows: list[str], where: str) -> None:
    """Rows that a lone quote would draw together are named; read as quoting allows, one of two would be lost."""
    text = "\n".join(["text\tlabel", "first\t0", *rows])
    assert f"x.tsv, {where}: the quote" in error_of(write(tmp_path, "x.tsv", text.encode()))


def test_tsv_fields_in_quotes(tmp_path: Path) -> None:
    """A field that was written in quotes may hold tabs, line ends and quotes."""
    rows = [{"text": "a\tb", "label": "1"}, {"text": 'say "yes"\nor no', "label": "0"}, {"text": '"', "label": "1"}]
    assert [row for _, row in read_rows(write(tmp_path, "x.tsv", delimited(rows, "\t")))] == rows
    short = write(tmp_path, "y.tsv", b'text\tlabel\tmore\n"a\tb"\tc\n')
    assert [row for _, row in read_rows(short)] == [{"text": "a\tb", "label": "c", "more": None}]
    one = [{"text": "two\nlines"}]
    assert [row for _, row in read_rows(write(tmp_path, "x.tsv", delimited(one, "\t")))] == one


def test_csv_header_that_repeats_a_name(tmp_path: Path) -> None:
    """Two columns of one name would hide one of them."""
    assert "repeats 'text'" in error_of(write(tmp_path, "x.csv", b"text,text\na,b\n"))


def test_csv_field_of_a_megabyte(tmp_path: Path) -> None:
    """Long documents are read whole; the csv module's own limit is 131,072."""
    path = write(tmp_path, "x.csv", b"text\n" + b"x" * 1_000_000 + b"\n")
    assert [len(row["text"]) for _, row in read_rows(path)] == [1_000_000]


def test_texts_of_a_spec_and_of_columns(tmp_path: Path) -> None:
    """A spec names the columns, or the caller does, whatever the names hold; no label is needed."""
    path = write(tmp_path, "x.jsonl", json_lines([{"premise": "p", "hypothesis": "h", "my {col}": "c"}]))
    assert list(iter_texts(path, load_spec("rte"))) == [("p", "h")]
    assert list(iter_texts(str(path), load_spec("rte"))) == [("p", "h")]
    assert list(iter_texts(path, text_column="my {col}")) == [("c", None)]
    assert list(iter_texts(path, text_column="my {col}", text_pair_column="premise")) == [("c", "p")]


@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
def test_texts_of_plain_lines(tmp_path: Path, name: str) -> None:
    """One text a line, blank lines kept, so that results line up with lines."""
    path = write(tmp_path, name, "ä\r\n\n b \nlast".encode())
    assert [text for text, _ in iter_texts(path, load_spec("sst2"))] == ["ä", "", " b ", "last"]


def test_texts_of_a_stream() -> None:
    """A stream is read as UTF-8 whatever its own encoding; one of text is read as it is."""
    stream = io.TextIOWrapper(io.BytesIO("ä\nb\n".encode()), encoding="ascii")
    assert list(iter_texts(stream, load_spec("sst2"))) == [("ä", None), ("b", None)]
    assert list(iter_texts(io.StringIO("a\nb"))) == [("a", None), ("b", None)]
    broken = io.TextIOWrapper(io.BytesIO(b"fine\n\xff\n"), encoding="utf-8")
    with pytest.raises(DataError, match="standard input, line 2: byte 0xff at offset 5"):
        list(iter_texts(broken))
    with pytest.raises(DataError, match="holds no lines"):
        list(iter_texts(io.StringIO("")))


def test_texts_refuse_at_once_what_cannot_work(tmp_path: Path) -> None:
    """Two texts from plain lines, no column, half a pair, an unknown suffix, a missing file."""
    text = write(tmp_path, "x.txt", b"a\n")
    data = write(tmp_path, "x.jsonl", b"{}\n")
    with pytest.raises(DataError, match="columns premise, hypothesis"):
        iter_texts(text, load_spec("rte"))
    with pytest.raises(ConfigError, match="name the column"):
        iter_texts(data)
    with pytest.raises(ConfigError, match="needs a text column"):
        iter_texts(data, text_pair_column="b")
    with pytest.raises(ConfigError, match="name a text pair column"):
        iter_texts(data, load_spec("rte"), text_column="a")
    with pytest.raises(DataError, match="no reader"):
        iter_texts(write(tmp_path, "x.docx", b""))
    with pytest.raises(DataError, match=r"Did you mean 'x.txt'"):
        iter_texts(tmp_path / "y.txt")


def test_texts_name_the_line_of_a_missing_column(tmp_path: Path) -> None:
    """The second row lacks the column."""
    path = write(tmp_path, "x.jsonl", b'{"t": "a"}\n{"u": "b"}\n')
    spec = TaskSpec("t", "", "{t}", "label", ("a", "b"))
    with pytest.raises(DataError, match=r"line 2: no column 't'. Columns found: 'u'"):
        list(iter_texts(path, spec))


def test_parquet_that_repeats_a_name(tmp_path: Path) -> None:
    """A row would have one of the two columns, and nobody would know which."""
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: the header repeats 'text'"):
        list(read_rows(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("column", ["bytes", "times"])
def test_parquet_values_that_python_has_not(column: str, tmp_path: Path) -> None:
    """Texts that are not UTF-8, and years beyond 9999."""
    buffers = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).buffers()
    columns = {
        "bytes": pyarrow.StringArray.from_buffers(1, buffers[1], buffers[2]),
        "times": pyarrow.array([2**62], pyarrow.timestamp("ms")),
    }
    parquet.write_table(pyarrow.table({"text": columns[column]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet is no readable Parquet file, after row 0"):
        list(read_rows(tmp_path / "rows.parquet"))


def test_conll_comments(tmp_path: Path) -> None:
    """``# newpar`` of Universal Dependencies is no word with a tag; a ``#`` among words is one."""
    path = write(tmp_path, "rows.conll", b"# newdoc id = 1\n# newpar\n# text = Go # 1\nGo VERB\n# SYM\n1 NUM\n")
    assert [row["text"] for _, row in read_rows(path)] == [["Go", "#", "1"]]
