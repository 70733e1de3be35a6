"""Holding out a part of more examples than memory has room for; the part is that of :mod:`promptwise.tasks.splits`.

What belongs together has one hash, and the hashes say the order in which it is looked at. So rows are sorted by hash on
disk: they are shared out by the first byte of it, and each of the 256 shares is sorted in memory.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptwise.errors import OutputError
from promptwise.tasks.examples import Example
from promptwise.tasks.splits import cannot_hold_out, content_hash, quotas, texts_or_group

_RECORD = np.dtype([("high", ">u8"), ("low", ">u8"), ("label", "<i8"), ("row", "<i8")])
_BUFFER = 2**16

_Unit = tuple[list[int], list[int]]
"""Labels and rows of examples that stay together."""


def held_out(examples: Sequence[Example], target: int, *, salt: str, origin: str, folder: Path) -> np.ndarray[Any, Any]:
    """Which examples :func:`~promptwise.tasks.splits.hold_out` holds out, as a mask ``[N]``.

    Args:
        examples: What to split; they are read once, in their order.
        target: The number of examples to hold out.
        salt: As in ``hold_out``.
        origin: Where the examples are from, for messages.
        folder: Holds 32 bytes for each example for a time.

    Raises:
        DataError: No part can be held out without emptying a class.
    """
    counts = _share_out(examples, salt, folder)
    quota = quotas(counts, max(1, target))
    chosen = np.zeros(len(examples), bool)
    room = dict(quota)
    left = sum(room.values())
    for labels, rows in _units(folder):
        if left == 0:
            break
        wanted = Counter(labels)
        if all(number <= room[label] for label, number in wanted.items()):
            for label, number in wanted.items():
                room[label] -= number
            left -= len(rows)
            chosen[rows] = True
    if not chosen.any():
        chosen[_smallest(_units(folder), counts, salt, origin)] = True
    return chosen


def _smallest(units: Iterable[_Unit], counts: Counter[int], salt: str, origin: str) -> list[int]:
    """The rows of the first of the smallest units that leave every class in the rest."""
    best: list[int] = []
    number = 0
    for labels, rows in units:
        number += 1
        wanted = Counter(labels)
        if (not best or len(rows) < len(best)) and all(wanted[label] < counts[label] for label in wanted):
            best = rows
    if not best:
        raise cannot_hold_out(origin, salt, counts.total(), len(counts), number)
    return best


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a file that a stream keeps that it cannot be written.

    Raises:
        OutputError: The system said so; how much is free is in the message.
    """
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error} ({free:,.0f} MiB are free). Give --stream-cache a "
            "folder on a larger disk."
        ) from error


def _share_out(examples: Iterable[Example], salt: str, folder: Path) -> Counter[int]:
    """Write a record of each example to the share of its hash; return how many there are of each class."""
    buffers = [bytearray() for _ in range(256)]
    counts: Counter[int] = Counter()
    for row, example in enumerate(examples):
        digest = content_hash([salt, *texts_or_group(example)])
        counts[example.label] += 1
        buffer = buffers[digest[0]]
        buffer += digest[:16] + example.label.to_bytes(8, "little") + row.to_bytes(8, "little")
        if len(buffer) >= _BUFFER:
            _append(folder, digest[0], buffer)
    for share, buffer in enumerate(buffers):
        _append(folder, share, buffer)
    return counts


def _append(folder: Path, share: int, buffer: bytearray) -> None:
    path = folder / f"{share:02x}"
    with writing(path), path.open("ab") as file:
        file.write(buffer)
    buffer.clear()


def _units(folder: Path) -> Iterator[_Unit]:
    """What stays together, in the order of the hashes."""
    for share in range(256):
        records = np.fromfile(folder / f"{share:02x}", _RECORD)
        # The sort keeps the rows of one hash in their order.
        records = records[np.lexsort((records["low"], records["high"]))]
        same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
        ends = [*(np.flatnonzero(~same) + 1).tolist(), len(records)] if len(records) else []
        labels, rows = records["label"].tolist(), records["row"].tolist()
        start = 0
        for end in ends:
            yield labels[start:end], rows[start:end]
            start = end
