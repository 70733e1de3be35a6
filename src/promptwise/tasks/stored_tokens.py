"""Tokens that lie in Arrow files: each text is tokenised once, and every epoch and a resumed run read the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from filelock import FileLock

from promptwise.tasks.batching import Reordered, SharedFeatures, chunks, encode_examples
from promptwise.tasks.examples import Example
from promptwise.tasks.stored_rows import ArrowMap, StoredExamples, batched, write_batches
from promptwise.tasks.template import Features, InputFormat

FORMAT = 1
_BATCH_TOKENS = 2**20
_TOKENS = {"input_ids": pa.int32(), "text_mask": pa.uint8(), "token_type_ids": pa.int8()}
"""Lists of one number for each token; Arrow packs truth values, which a map would have to unpack."""
_NUMBERS = ("mask_position", "labels")


class StoredTokens(Sequence[Features]):
    """Features in an Arrow file; each is made when it is asked for.

    Args:
        path: The file.

    Attributes:
        lengths: ``[N]`` tokens of each row, four bytes each: what is held in memory.

    Raises:
        DataError: It is no whole Arrow file.
    """

    def __init__(self, path: Path) -> None:
        self._file = ArrowMap(path)
        # Views of the map, which copy nothing.
        self._views = [{name: _view(batch.column(name)) for name in batch.schema.names} for batch in self._file.batches]
        self._ends = [batch.column("input_ids").offsets.to_numpy() for batch in self._file.batches]
        self.lengths: np.ndarray[Any, Any] = np.zeros(len(self), np.int32)
        for ends, start in zip(self._ends, self._file.starts, strict=True):
            self.lengths[start : start + len(ends) - 1] = np.diff(ends)
            self._file.give_back()

    def __len__(self) -> int:
        return self._file.rows

    @overload
    def __getitem__(self, place: int) -> Features: ...

    @overload
    def __getitem__(self, place: slice) -> Reordered: ...

    def __getitem__(self, place: int | slice) -> Features | Reordered:
        """The features of a row, or those of several."""
        if isinstance(place, slice):
            return Reordered(self, range(*place.indices(len(self))))
        batch, row = self._file.place(place)
        start, end = self._ends[batch][row : row + 2].tolist()
        return {
            name: values[start:end].tolist() if name in _TOKENS else int(values[row])
            for name, values in self._views[batch].items()
        }

    def __iter__(self) -> Iterator[Features]:
        return (self[row] for row in range(len(self)))


def _view(column: Any) -> np.ndarray[Any, Any]:
    """The numbers of a column; those of all its lists one after the other."""
    values: np.ndarray[Any, Any] = (column.values if pa.types.is_list(column.type) else column).to_numpy()
    return values.view(np.bool_) if values.dtype == np.uint8 else values


class StoredFeatures(SharedFeatures):
    """Keeps the tokens of stored examples beside them, for all runs that read the texts alike."""

    def of(self, input_format: InputFormat, examples: Sequence[Example]) -> Sequence[Features]:
        """Features of examples; those in a file get a file of tokens, unless there is one.

        Raises:
            OutputError: It cannot be written.
        """
        if not isinstance(examples, StoredExamples):
            return super().of(input_format, examples)
        path = _path(input_format, examples.path)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _write(path, input_format, examples)
        return StoredTokens(path)


def _path(input_format: InputFormat, rows: Path) -> Path:
    """The file of the tokens, named after all that they depend on beside the rows."""
    tokenizer = json.loads(input_format.tokenizer.backend_tokenizer.to_str())
    # How the last call cut and padded; the settings of the format say how texts are cut.
    tokenizer.update(truncation=None, padding=None)
    about = [FORMAT, tokenizer, *map(str, input_format.settings)]
    return rows.with_name(f"{rows.stem}-tokens-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.arrow")


def _write(path: Path, input_format: InputFormat, examples: StoredExamples) -> None:
    """Tokenise examples into a file that is whole or absent."""
    encoded = (row for batch in chunks(examples, 1024) for row in encode_examples(input_format, batch))
    batches = batched(encoded, lambda row: len(row["input_ids"]), _BATCH_TOKENS)
    first = next(batches)
    names = [name for name in (*_TOKENS, *_NUMBERS) if name in first[0]]
    schema = pa.schema([(name, pa.list_(_TOKENS[name]) if name in _TOKENS else pa.int64()) for name in names])

    def records() -> Iterator[Any]:
        yield _record(first, schema)
        for rows in batches:
            yield _record(rows, schema)

    part = path.with_suffix(".part")
    write_batches(part, schema, records())
    os.replace(part, path)


def _record(rows: Sequence[Features], schema: Any) -> Any:
    ends = np.cumsum([0, *(len(row["input_ids"]) for row in rows)], dtype=np.int32)
    columns = []
    for field in schema:
        if field.name in _TOKENS:
            dtype = field.type.value_type.to_pandas_dtype()
            values = np.fromiter(chain.from_iterable(row[field.name] for row in rows), dtype, int(ends[-1]))
            columns.append(pa.ListArray.from_arrays(ends, pa.array(values)))
        else:
            columns.append(pa.array([row[field.name] for row in rows], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
