"""Examples: rows of a data file turned into texts and class indices by a task spec."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.errors import DataError
from promptwise.tasks.fields import RowFormat, missing_column, parse_format, shorten
from promptwise.tasks.readers import location
from promptwise.tasks.spec import TaskSpec

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
"""A class name that is a number."""


@dataclass(frozen=True)
class Example:
    """One labelled row.

    Attributes:
        text: The text.
        text_pair: The second text, or None where the task has none.
        label: Class index.
        group: Id of the group for grouped metrics (MultiRC: the question), or None.
        split_group: Id of what stays on one side of a split (MultiRC: the paragraph), or None.
    """

    text: str
    text_pair: str | None
    label: int
    group: str | None = None
    split_group: str | None = None


def examples_from_rows(
    spec: TaskSpec, rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path | str
) -> list[Example]:
    """Turn numbered rows into examples; see :func:`iter_examples`."""
    return list(iter_examples(spec, rows, path))


def iter_examples(spec: TaskSpec, rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path | str) -> Iterator[Example]:
    """Turn numbered rows into examples, in order and one at a time.

    Args:
        spec: Says which columns hold text, label and groups.
        rows: What `read_rows` yields.
        path: The file, or another name of where the rows are from, for messages.

    Raises:
        DataError: A column is missing, a text has no value, or a label is not among the task's.
    """
    text = parse_format(spec.text)
    pair = _optional_format(spec.text_pair)
    group = _optional_format(spec.group)
    split_group = _optional_format(spec.split_group) or group
    for number, row in rows:
        where = location(path, number)
        if spec.label not in row:
            raise missing_column(spec.label, row, where)
        yield Example(
            text=text.render(row, where),
            text_pair=pair.render(row, where) if pair else None,
            label=label_index(spec.labels, row[spec.label], where),
            group=group.render(row, where) if group else None,
            split_group=split_group.render(row, where) if split_group else None,
        )


def label_name(value: Any, where: str) -> str:
    """Return a label value as the name of a class: texts without outer spaces, whole floats without ``.0``.

    Raises:
        DataError: The value is missing, empty, or neither text, number nor truth value.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Parquet and pandas keep whole numbers as floats where a column has a gap.
    if isinstance(value, str | bool | int | float) and (name := str(value).strip()):
        return name
    raise DataError(f"{where}: the label must be a text or a number, found {shorten(value)}. Label or remove the row.")


def label_index(labels: tuple[str, ...], value: Any, where: str) -> int:
    """Return the class index of a label value.

    A class name comes first; then an index (a number, or its digits as text); then, for two classes, ``true``
    and ``false`` as 1 and 0. Where class names are numbers themselves, a number is always a name.

    Raises:
        DataError: The value is none of these, or -1, by which SuperGLUE and GLUE mark hidden labels.
    """
    name = label_name(value, where)
    if name in labels:
        return labels.index(name)
    if name == "-1":
        raise DataError(
            f"{where}: label -1 marks a hidden label, as in the test files of SuperGLUE and GLUE. "
            "Use a split with labels, such as the validation file."
        )
    if len(labels) == 2 and name.lower() in ("false", "true"):
        return int(name.lower() == "true")
    names_are_numbers = any(NUMBER.fullmatch(label) for label in labels)
    if not names_are_numbers and name.isdecimal() and name.isascii() and int(name) < len(labels):
        return int(name)
    allowed = ", ".join(map(repr, labels))
    indices = "" if names_are_numbers else f", or an index from 0 to {len(labels) - 1}"
    raise DataError(f"{where}: unknown label {shorten(value)}. Allowed: {allowed}{indices}.")


def _optional_format(text: str | None) -> RowFormat | None:
    return None if text is None else parse_format(text)


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The class of each example."""
    return [example.label for example in examples]


def group_numbers(examples: Sequence[Example]) -> list[int]:
    """The split group of each example as a number, in the order of their first; empty where no example has one."""
    names = [example.split_group for example in examples]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [] if set(names) <= {None} else [numbers[name] for name in names]
