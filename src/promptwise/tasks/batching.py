"""From examples to padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from promptwise.tasks.examples import Example
from promptwise.tasks.problems import problem_of
from promptwise.tasks.problems.tokens import IGNORED
from promptwise.tasks.template import Features, InputFormat

_T = TypeVar("_T")


def encode_examples(input_format: InputFormat, examples: Sequence[Example]) -> list[Features]:
    """Features of examples, with what is true of them as ``labels``."""
    problem, names = problem_of(input_format.spec), input_format.spec.labels
    rows: list[Features] = []
    for batch in chunks(examples, 1024):
        encoded = input_format.encode([(example.text, example.text_pair) for example in batch])
        for row, example in zip(encoded, batch, strict=True):
            rows.append({**row, "labels": problem.target(example.label, names, row)})
    return rows


class SharedFeatures:
    """Features that several models use, so that the same texts are not tokenised for each.

    Tokenizers are told apart by the folder that they were loaded from: each loaded model has an object of its own.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[object, Sequence[Features]]] = {}

    def of(self, input_format: InputFormat, examples: Sequence[Example]) -> Sequence[Features]:
        """Features of a list of examples; the list itself is what tells it from others."""
        key = (input_format.tokenizer.name_or_path, id(examples), *input_format.settings)
        if key not in self._known:
            # The list is kept too, so that no other one can take its place in memory.
            self._known[key] = (examples, encode_examples(input_format, examples))
        return self._known[key][1]


def collate(rows: Sequence[Features], pad_token_id: int) -> dict[str, Tensor]:
    """Pad features to the longest of them.

    Args:
        rows: Features as :meth:`InputFormat.encode` makes them, with or without labels.
        pad_token_id: What stands in for missing tokens; it is masked.

    Returns:
        ``input_ids``, ``attention_mask``, ``text_mask`` and, where the rows have them, ``token_type_ids``, all
        ``[B, T]``; ``mask_position`` and ``labels`` ``[B]``, of several labels ``[B, C]`` and of words ``[B, T]``.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    padding = {"input_ids": pad_token_id, "text_mask": False, "token_type_ids": 0}
    if "word_starts" in rows[0]:
        padding["labels"] = IGNORED
    batch = {
        key: torch.tensor([list(row[key]) + [value] * (longest - len(row[key])) for row in rows])
        for key, value in padding.items()
        if key in rows[0]
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest) < lengths.unsqueeze(1)).long()
    for key in ("mask_position", "labels"):
        if key in rows[0] and key not in batch:
            batch[key] = torch.tensor([row[key] for row in rows])
    return batch


def lengths_of(rows: Sequence[Features]) -> np.ndarray[Any, Any]:
    """Tokens of each row ``[N]``; rows that are kept on disk know them."""
    known: np.ndarray[Any, Any] | None = getattr(rows, "lengths", None)
    return np.array([len(row["input_ids"]) for row in rows], np.int32) if known is None else known


def by_length(rows: Sequence[Features]) -> list[int]:
    """The places of rows in the order of their lengths, in which little of a batch is padding."""
    order: list[int] = np.argsort(lengths_of(rows), kind="stable").tolist()
    return order


class Reordered(Sequence[Features]):
    """Rows in another order, none of which is copied.

    Args:
        rows: Features.
        order: The places of the rows, in the order in which they are wanted.
    """

    def __init__(self, rows: Sequence[Features], order: Sequence[int]) -> None:
        self.rows, self.order = rows, order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> Features: ...

    @overload
    def __getitem__(self, place: slice) -> Reordered: ...

    def __getitem__(self, place: int | slice) -> Features | Reordered:
        """The row of a place, or those of several."""
        return Reordered(self.rows, self.order[place]) if isinstance(place, slice) else self.rows[self.order[place]]


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of at most ``size`` items, in order."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
