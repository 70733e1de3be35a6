"""Examples: rows of a data file turned into texts and what is true of them by a task spec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.tasks.fields import RowFormat, missing_column, parse_format
from promptwise.tasks.problems import problem_of
from promptwise.tasks.readers import location
from promptwise.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Example:
    """One labelled row.

    Attributes:
        text: The text.
        text_pair: The second text, or None where the task has none.
        label: Class index, or what else :mod:`promptwise.tasks.problems` says for the task's problem.
        group: Id of the group for grouped metrics (MultiRC: the question), or None.
        split_group: Id of what stays on one side of a split (MultiRC: the paragraph), or None.
    """

    text: str
    text_pair: str | None
    label: Any
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
    problem = problem_of(spec)
    for number, row in rows:
        where = location(path, number)
        if spec.label not in row:
            raise missing_column(spec.label, row, where)
        words = text.render(row, where, problem.per_token)
        yield Example(
            text=words,
            text_pair=pair.render(row, where) if pair else None,
            label=problem.parse(spec.labels, row[spec.label], where, words),
            group=group.render(row, where) if group else None,
            split_group=split_group.render(row, where) if split_group else None,
        )


def _optional_format(text: str | None) -> RowFormat | None:
    return None if text is None else parse_format(text)


def labels_of(examples: Sequence[Example]) -> list[Any]:
    """What is true of each example."""
    return [example.label for example in examples]


def group_numbers(examples: Sequence[Example]) -> list[int]:
    """The split group of each example as a number, in the order of their first; empty where no example has one."""
    names = [example.split_group for example in examples]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [] if set(names) <= {None} else [numbers[name] for name in names]
