"""Examples that lie in Arrow files instead of memory: written as they come, read through a memory map.

What is read of a map counts as this process's memory, though the system could take it back; so pages are given back
after some rows. A file is never changed, and holds its rows in batches of about a megabyte.
"""

from __future__ import annotations

import mmap
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa

from promptwise.errors import DataError
from promptwise.tasks.examples import Example
from promptwise.tasks.stored_splits import held_out, writing

_BATCH_ROWS = 16_384
_BATCH_CHARACTERS = 2**22
_ROWS_AT_HAND = 128
"""After so many rows in any order, their pages are given back. Linux maps 64 KiB around a page that is asked for, so a
row takes up to 64 KiB for each of its columns."""

_SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("text_pair", pa.large_string()),
        ("label", pa.int64()),
        ("group", pa.large_string()),
        ("split_group", pa.large_string()),
    ]
)
"""The fields of :class:`Example`, in its order."""

_T = TypeVar("_T")


class ArrowMap:
    """The record batches of an Arrow file, mapped into memory.

    Args:
        path: A file in Arrow's file format.

    Attributes:
        batches: Its record batches, none of which is copied.
        starts: The number of the first row of each.
        rows: How many rows it has.

    Raises:
        DataError: It is no whole Arrow file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(self._map))
            self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path} is no whole Arrow file ({error}). Remove it; it is then made again.") from error
        *self.starts, self.rows = accumulate((len(batch) for batch in self.batches), initial=0)
        self._taken = 0

    def place(self, row: int) -> tuple[int, int]:
        """The batch of a row and the row's place in it; pages of rows before it may be given back.

        Raises:
            IndexError: There is no such row.
        """
        if not -self.rows <= row < self.rows:
            raise IndexError(f"Row {row} of {self.rows}.")
        row %= self.rows
        self._taken += 1
        if self._taken >= _ROWS_AT_HAND:
            self.give_back()
        number = bisect_right(self.starts, row) - 1
        return number, row - self.starts[number]

    def give_back(self) -> None:
        """Let the system have the pages again; what is read of them next comes from its cache or from the disk."""
        self._taken = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class StoredExamples(Sequence[Example]):
    """Examples in an Arrow file.

    Args:
        path: The file; what is held out of it is written beside it.

    Raises:
        DataError: It is no whole Arrow file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ArrowMap(path)

    def __len__(self) -> int:
        return self._file.rows

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...

    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        """The example of a place, or those of several."""
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        number, offset = self._file.place(place)
        return Example(*(column[offset].as_py() for column in self._file.batches[number].columns))

    def __iter__(self) -> Iterator[Example]:
        for batch in self._file.batches:
            yield from map(Example, *(column.to_pylist() for column in batch.columns))
            self._file.give_back()

    def hold_out(self, target: int, *, salt: str, origin: str) -> tuple[StoredExamples, StoredExamples]:
        """The rest and a held-out part, each in a file of its own; see :func:`promptwise.tasks.splits.hold_out`.

        Raises:
            OutputError: The files cannot be written.
        """
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            chosen = held_out(self, target, salt=salt, origin=origin, folder=Path(folder))
        return self._part(~chosen), self._part(chosen)

    def _part(self, chosen: np.ndarray[Any, Any]) -> StoredExamples:
        """The rows of a mask ``[N]``, in a new file."""
        path = unused(self.path.parent)
        write_batches(path, _SCHEMA, self._chosen(chosen))
        return StoredExamples(path)

    def _chosen(self, chosen: np.ndarray[Any, Any]) -> Iterator[Any]:
        """The record batches of the rows of a mask ``[N]``."""
        for batch, start in zip(self._file.batches, self._file.starts, strict=True):
            part = batch.filter(pa.array(chosen[start : start + len(batch)]))
            if len(part):
                yield part
            self._file.give_back()


def store_examples(folder: Path, examples: Iterable[Example]) -> StoredExamples:
    """Write examples to a new file of a folder as they come.

    Raises:
        OutputError: They cannot be written.
    """
    path = unused(folder)
    batches = batched(examples, lambda one: len(one.text) + len(one.text_pair or ""), _BATCH_CHARACTERS)
    write_batches(path, _SCHEMA, (_batch(batch) for batch in batches))
    return StoredExamples(path)


def _batch(examples: Sequence[Example]) -> Any:
    columns = {name: [getattr(one, name) for one in examples] for name in _SCHEMA.names}
    return pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


def batched(items: Iterable[_T], size_of: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """Lists of items in their order, ended by their number or by their size together."""
    batch: list[_T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) == _BATCH_ROWS or size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def write_batches(path: Path, schema: Any, batches: Iterable[Any]) -> None:
    """Write record batches as they come.

    Raises:
        OutputError: They cannot be written; how much is free is in the message.
    """
    with writing(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def unused(folder: Path) -> Path:
    """A file name that a folder does not have."""
    return next(path for number in count() if not (path := folder / f"rows-{number}.arrow").exists())


def keep_only(folder: Path, splits: Mapping[str, Sequence[Example]]) -> None:
    """Give the files of some splits their names, and remove what they were made of."""
    for name, examples in splits.items():
        if isinstance(examples, StoredExamples):
            examples.path.rename(folder / f"{name}.arrow")
    for left in folder.glob("rows-*.arrow"):
        left.unlink()
