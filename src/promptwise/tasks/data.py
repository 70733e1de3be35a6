"""Loading a task in three splits, from a local folder, the package itself, the Hub, or one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.errors import ConfigError, DataError
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.examples import Example, examples_from_rows, labels_of
from promptwise.tasks.fields import column_field, missing_column
from promptwise.tasks.labels import label_name
from promptwise.tasks.metrics import Metric, get_metric
from promptwise.tasks.problems import SINGLE, get_problem, problem_of, problem_of_rows
from promptwise.tasks.readers import location, read_rows
from promptwise.tasks.sources import Source, open_source
from promptwise.tasks.spec import TaskSpec, load_spec
from promptwise.tasks.splits import hold_out
from promptwise.tasks.texts import iter_texts

__all__ = ["Example", "TaskData", "examples_from_rows", "iter_texts", "load_file", "load_task", "task_from_file"]

_FILE_PART = 10  # One row in ten of a single file becomes validation, and another one test.
_MIN_FILE_ROWS = 10

_WITHOUT_GROUPS = {
    # paper/table-end-to-end: MultiRC, 256, 98 and 299 rows.
    "c8ab28cf77f143bec4979fb78a06b52f6bc2ea9f8c82667f3efff8cd3a88532c": (
        "db7b151c5b066fd7e8bf1df8daedbc730d3dadf08ec50dc057bfcd755248efe6"
    ),
    # paper/few-shot: MultiRC with the files of FewGLUE, 154, 167 and 499 rows.
    "d7e3a72fcbd652c62745c46d726236967113058d05e7946fb98923a816d3fb2c": (
        "2a6c1f029c516955d2ec63ec7c56456b62bd6910a7c9b6b760becd1630bef201"
    ),
}
"""The fingerprints under which docs/results has runs from before groups were counted, by what they would be now.

Run ids are made of the fingerprint. With the old one for exactly this data the records stay those of the same runs;
the same texts in other groups have a fingerprint, and so runs, of their own.
"""


@dataclass(frozen=True)
class TaskData:
    """A task with its examples. A split that was not asked for is an empty list.

    Attributes:
        spec: The task's spec.
        train: Examples to learn from, less those held out for validation.
        validation: Examples to choose a checkpoint on; never a part of the test.
        test: Examples to report on.
        fingerprint: SHA-256 (hexadecimal) over split, text, text pair and label of every example, in order, and over
            its groups where it has any: exact match and the test of a difference depend on them.
        origin: Where the data is from, for people.
    """

    spec: TaskSpec
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    fingerprint: str
    origin: str

    def choosing_metric(self) -> Metric:
        """The metric by which a checkpoint is chosen on validation.

        It is the first of the task's that can tell answers to these rows apart: a correlation cannot where all rows
        have one number, nor can the F1 of entities where there are none. Where none can it is the first.
        """
        named = [get_metric(name) for name in self.spec.metrics]
        if named[0].defined is None:
            return named[0]
        shown = problem_of(self.spec).shown([example.label for example in self.validation], self.spec.labels)
        return next((one for one in named if one.defined is None or one.defined(shown)), named[0])


def load_task(
    spec_or_name: TaskSpec | str,
    data_dir: Path | None = None,
    *,
    validation_fraction: float = 0.1,
    splits: Sequence[str] = SPLITS,
) -> TaskData:
    """Load a task from ``data_dir``; without one, from the package if it is embedded, else from the Hub.

    A folder holds one file per split, named as the split is on the Hub (``train.jsonl.gz``, and
    ``validation.csv`` for the test of RTE); it may also hold them in a subfolder named like the task. Where
    there is no validation split apart from the test, a deterministic, stratified part of train is held out,
    whichever splits are asked for.

    Args:
        spec_or_name: The task.
        data_dir: Folder of local files.
        validation_fraction: The part of train to hold out, at most; at least one example is.
        splits: The splits to load, out of ``train``, ``validation`` and ``test``.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: ``validation_fraction`` or ``splits`` has a value that cannot work.
        DataError: Data is missing, malformed, or does not fit the task.
    """
    spec = load_spec(spec_or_name) if isinstance(spec_or_name, str) else spec_or_name
    check_arguments(validation_fraction, splits)
    source = open_source(spec, None if data_dir is None else Path(data_dir))
    return load_from(spec, source, list, validation_fraction, splits)


def load_from(
    spec: TaskSpec,
    source: Source,
    hold: Callable[[Iterable[Example]], Sequence[Example]],
    validation_fraction: float,
    splits: Sequence[str] = SPLITS,
) -> TaskData:
    """Load a task from an open source; see :func:`load_task`.

    Args:
        spec: The task.
        source: Where its splits are.
        hold: Takes examples as they are read, and gives them as a sequence: in memory, or in a file.
        validation_fraction: As in ``load_task``.
        splits: As in ``load_task``.

    Raises:
        DataError: Data is missing, malformed, or does not fit the task.
    """
    loaded: dict[str, Sequence[Example]] = {split: [] for split in SPLITS}
    if "train" in splits or ("validation" in splits and not source.has_validation):
        loaded["train"] = _train(spec, source, hold)
    if not source.has_validation and loaded["train"]:
        target = int(validation_fraction * len(loaded["train"]))
        loaded["train"], loaded["validation"] = hold_out(
            loaded["train"], target, salt="validation", origin=source.origin, problem=spec.problem
        )
    elif "validation" in splits:
        loaded["validation"] = hold(source.examples(spec, "validation"))
    if "test" in splits:
        loaded["test"] = hold(source.examples(spec, "test"))
    kept = {split: loaded[split] if split in splits else [] for split in SPLITS}
    return task_data(spec, kept, source.origin)


def task_from_file(
    path: Path,
    *,
    text_column: str,
    label_column: str,
    text_pair_column: str | None = None,
    name: str | None = None,
    template: str | None = None,
    label_words: Mapping[str, Sequence[str]] | None = None,
    problem: str | None = None,
) -> TaskData:
    """Make a task of one labelled file: its labels are the classes, and its rows are split 80/10/10.

    The split is stratified, deterministic, and keeps rows of the same text together. Classes are sorted, by
    value where all are numbers.

    Args:
        path: A file that `read_rows` takes.
        text_column: Column of the text; any name will do, spaces and braces included.
        label_column: Column of the label.
        text_pair_column: Column of a second text.
        name: Name of the task; by default that of the file.
        template: Cloze template; by default ``"{text} It is about {mask}."``.
        label_words: Words for each class; by default the class name, with spaces for underscores.
        problem: What kind of problem it is; by default what the file shows, see
            :func:`promptwise.tasks.problems.problem_of_rows`.

    Raises:
        UnknownNameError: There is no such problem.
        ConfigError: Columns are not distinct, or template or label words do not fit.
        DataError: The file cannot be read, a column is missing, or there are fewer than 10 rows or 2 classes.
    """
    path = Path(path)
    columns = own_columns(text_column, label_column, text_pair_column)
    rows = list(read_rows(path))
    for number, row in rows:
        _check_columns(row, columns, location(path, number))
    if problem is None:
        problem = problem_of_rows([row[text_column] for _, row in rows], [row[label_column] for _, row in rows])
    kind = get_problem(problem)
    names = kind.names_in((row[label_column], location(path, number)) for number, row in rows)
    if kind.has_classes:
        check_size(path, len(rows), len(names), label_column)
    spec = spec_of_file(
        path,
        names,
        text_column=text_column,
        label_column=label_column,
        text_pair_column=text_pair_column,
        name=name,
        template=template,
        label_words=label_words,
        problem=problem,
    )
    return _checked(spec, examples_from_rows(spec, rows, path), path)


def own_columns(text_column: str, label_column: str, text_pair_column: str | None) -> list[str]:
    """The columns of a person's own file, that of the label second.

    Raises:
        ConfigError: They are not distinct.
    """
    columns = [text_column, label_column, *([] if text_pair_column is None else [text_pair_column])]
    if len(set(columns)) < len(columns):
        raise ConfigError(f"Text, text pair and label need columns of their own, found {', '.join(columns)}.")
    return columns


def label_of_row(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The class name in the row of a person's own file.

    Raises:
        DataError: One of the columns is missing, or the label is none.
    """
    _check_columns(row, columns, where)
    return label_name(row[columns[1]], where)


def _check_columns(row: Mapping[str, Any], columns: Sequence[str], where: str) -> None:
    for column in columns:
        if column not in row:
            raise missing_column(column, row, where)


def spec_of_file(
    path: Path,
    labels: tuple[str, ...],
    *,
    text_column: str,
    label_column: str,
    text_pair_column: str | None = None,
    name: str | None = None,
    template: str | None = None,
    label_words: Mapping[str, Sequence[str]] | None = None,
    problem: str = SINGLE,
) -> TaskSpec:
    """The task of a person's own file, with these labels; see :func:`task_from_file`."""
    return TaskSpec(
        name=name or path.name.split(".")[0] or "task",
        description=f"Rows of {path.name}",
        text=column_field(text_column),
        text_pair=None if text_pair_column is None else column_field(text_pair_column),
        label=label_column,
        labels=labels,
        template=template or "",
        label_words={label: tuple(words) for label, words in (label_words or {}).items()},
        problem=problem,
    )


def load_file(spec: TaskSpec, path: Path) -> TaskData:
    """Load a task whose rows lie in one labelled file; they are split as :func:`task_from_file` does.

    Args:
        spec: The task.
        path: A file that `read_rows` takes.

    Raises:
        DataError: The file cannot be read, does not fit the task, or has fewer than 10 rows or 2 classes.
    """
    return _checked(spec, examples_from_rows(spec, read_rows(path), path), path)


def _checked(spec: TaskSpec, examples: list[Example], path: Path) -> TaskData:
    """One file's examples in three splits, once there are enough of them."""
    check_size(path, len(examples), problem_of(spec).answers_in(labels_of(examples)), spec.label)
    return shared_out(spec, examples, path)


def check_size(path: Path, rows: int, labels: int, column: str) -> None:
    """Refuse a file that cannot be split in three.

    Raises:
        DataError: It has too few rows, or one label.
    """
    if rows < _MIN_FILE_ROWS or labels < 2:
        raise DataError(
            f"{path}: {rows} rows with {labels} distinct labels in {column!r}; a task needs at least "
            f"{_MIN_FILE_ROWS} rows and 2 labels. Add rows, or name another label column."
        )


def shared_out(spec: TaskSpec, examples: Sequence[Example], path: Path) -> TaskData:
    """One file's examples in three splits."""
    part = len(examples) // _FILE_PART
    rest, test = hold_out(examples, part, salt="test", origin=str(path), problem=spec.problem)
    train, validation = hold_out(rest, part, salt="validation", origin=str(path), problem=spec.problem)
    return task_data(spec, {"train": train, "validation": validation, "test": test}, str(path))


def check_arguments(validation_fraction: float, splits: Sequence[str] = SPLITS) -> None:
    """Refuse a part or splits that cannot be.

    Raises:
        ConfigError: Names the value and the limits.
    """
    if not 0 < validation_fraction < 1:
        raise ConfigError(
            f"The validation fraction is {validation_fraction}; it must lie between 0 and 1, both excluded. Use 0.1."
        )
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        found = ", ".join(map(repr, unknown)) or "none"
        raise ConfigError(f"Splits to load must be out of {', '.join(SPLITS)}; found {found}.")


def _train(spec: TaskSpec, source: Source, hold: Callable[[Iterable[Example]], Sequence[Example]]) -> Sequence[Example]:
    examples = hold(source.examples(spec, "train"))
    if problem_of(spec).answers_in(labels_of(examples)) < 2 and spec.problem != SINGLE:
        raise DataError(
            f"{source.origin}: the {len(examples)} training examples of {spec.name!r} leave nothing to learn: their "
            f"labels are all the same. A task of {spec.problem} needs at least 2 different ones."
        )
    if spec.problem == SINGLE and len(present := {example.label for example in examples}) < 2:
        only = spec.labels[min(present)] if present else "none"
        raise DataError(
            f"{source.origin}: the {len(examples)} training examples of {spec.name!r} are all of one "
            f"class ({only!r}). Give a training file with at least 2 classes."
        )
    return examples


def task_data(spec: TaskSpec, loaded: Mapping[str, Sequence[Example]], origin: str) -> TaskData:
    """A task with these splits and their fingerprint."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for example in loaded[split]:
            values = [split, example.text, example.text_pair, example.label]
            if example.group is not None or example.split_group is not None:
                values += [example.group, example.split_group]
            digest.update(json.dumps(values).encode() + b"\n")
    fingerprint = digest.hexdigest()
    return TaskData(
        spec=spec,
        train=loaded["train"],
        validation=loaded["validation"],
        test=loaded["test"],
        fingerprint=_WITHOUT_GROUPS.get(fingerprint, fingerprint),
        origin=origin,
    )
