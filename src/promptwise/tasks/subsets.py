"""Less training data than a task has, the same for every method that is compared on it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from promptwise.errors import ConfigError, DataError
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.data import TaskData, task_data
from promptwise.tasks.examples import Example, examples_from_rows
from promptwise.tasks.readers import read_rows
from promptwise.tasks.splits import hold_out


def with_rows(
    data: TaskData, train: int | None = None, validation: int | None = None, test: int | None = None
) -> TaskData:
    """The same task with fewer rows: the same ones for every seed, spread over the classes as before.

    A few more stay where classes do not divide evenly or rows of a text stay together.

    Args:
        data: A task with its splits.
        train: How many training rows to keep; all without it. So for the other two.
        validation: How many validation rows to keep.
        test: How many test rows to keep.

    Raises:
        ConfigError: There are not as many.
    """
    wanted = {"train": train, "validation": validation, "test": test}
    changed = {split: _fewer(data, split, rows) for split, rows in wanted.items() if rows is not None}
    changed = {split: rows for split, rows in changed.items() if len(rows) < len(getattr(data, split))}
    how = ", ".join(f"{len(rows)} {split} rows" for split, rows in changed.items())
    return _replaced(data, how, **changed) if changed else data


def _fewer(data: TaskData, split: str, rows: int) -> list[Example]:
    whole: list[Example] = getattr(data, split)
    if rows > len(whole):
        raise ConfigError(f"--{split}-rows is {rows:,}; {data.spec.name} ({data.origin}) has {len(whole):,}.")
    if rows == len(whole):
        return whole
    return hold_out(whole, len(whole) - rows, salt=f"{split} rows", origin=data.origin)[0]


def with_shots(data: TaskData, shots: int, seed: int) -> TaskData:
    """A few-shot task: ``shots`` training rows of each class, and as many others to choose the checkpoint on.

    Another seed draws other rows; the same seed draws the same for every method. The test split stays whole.

    Raises:
        DataError: A class has fewer than twice as many training rows.
    """
    counts = Counter(example.label for example in data.train)
    few = [data.spec.labels[label] for label in range(len(data.spec.labels)) if counts[label] < 2 * shots]
    if few:
        found = counts[data.spec.labels.index(few[0])]
        raise DataError(
            f"--shots {shots} takes {2 * shots} training rows of each class, {shots} to learn from and {shots} to "
            f"choose the checkpoint on; {data.spec.name} ({data.origin}) has {found} of {few[0]!r}."
        )
    drawn: dict[int, list[Example]] = {}
    for example in sorted(data.train, key=lambda example: _place(example, seed)):
        drawn.setdefault(example.label, []).append(example)
    train = [example for rows in drawn.values() for example in rows[:shots]]
    validation = [example for rows in drawn.values() for example in rows[shots : 2 * shots]]
    return _replaced(data, f"{shots} shots, seed {seed}", train=train, validation=validation)


def with_files(data: TaskData, train: str | None, validation: str | None) -> TaskData:
    """The same task with its training or its validation rows from files, such as those of FewGLUE.

    Raises:
        DataError: A file cannot be read, or its rows do not fit the task.
    """
    read = {
        path: examples_from_rows(data.spec, read_rows(Path(path)), Path(path))
        for path in (train, validation)
        if path is not None
    }
    return _replaced(
        data,
        " and ".join(read),
        train=data.train if train is None else read[train],
        validation=data.validation if validation is None else read[validation],
    )


def _replaced(data: TaskData, how: str, **changed: list[Example]) -> TaskData:
    splits = {split: changed.get(split, getattr(data, split)) for split in SPLITS}
    return task_data(data.spec, splits, f"{data.origin}, {how}")


def _place(example: Example, seed: int) -> bytes:
    """Where a hash of its content and the seed puts an example."""
    key = json.dumps(["shots", seed, example.text, example.text_pair])
    return hashlib.sha256(key.encode()).digest()
