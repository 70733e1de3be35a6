"""Tasks whose rows are more than memory holds: read once as they come, kept in Arrow files, split there.

What comes of it is the task that :mod:`promptwise.tasks.data` loads, to the last row and with its fingerprint; only its
examples lie in files. These stay in a folder that is named after what was read, so that a run that goes on, and other
runs of the same data, read nothing again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from promptwise.errors import ConfigError, OutputError
from promptwise.files import write_json
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.data import (
    TaskData,
    check_arguments,
    check_size,
    label_of_row,
    load_from,
    own_columns,
    shared_out,
    spec_of_file,
)
from promptwise.tasks.examples import Example
from promptwise.tasks.labels import sorted_names
from promptwise.tasks.problems import SINGLE, problem_of_rows, require_single
from promptwise.tasks.readers import location, parquet_files, read_rows, require_file
from promptwise.tasks.sources import FolderSource, examples_of_files, open_source
from promptwise.tasks.spec import TaskSpec, load_spec
from promptwise.tasks.stored_rows import StoredExamples, keep_only, store_examples
from promptwise.tasks.subsets import with_rows

FORMAT = 1
_ABOUT = "task.json"
_WHAT = "--stream"
_TRIES = 10
"""How often a folder is made that others remove."""

Hold = Callable[[Iterable[Example]], Sequence[Example]]


def stream_task(
    spec_or_name: TaskSpec | str,
    data_dir: Path | None,
    folder: Path,
    *,
    validation_fraction: float = 0.1,
    rows: Mapping[str, int | None] | None = None,
) -> TaskData:
    """Load a task as :func:`~promptwise.tasks.data.load_task` does, with its examples in files.

    Args:
        spec_or_name: The task.
        data_dir: Folder of local files; a split may be a folder of Parquet files. Without it rows are those of the
            package or are streamed from the Hub.
        folder: Keeps the files.
        validation_fraction: The part of train to hold out.
        rows: How many rows of a split to keep; all without it.

    Raises:
        ConfigError: A value cannot work, or fewer rows are wanted of a task with groups.
        DataError: Data is missing, malformed, or does not fit the task.
        OutputError: The files cannot be written.
    """
    spec = load_spec(spec_or_name) if isinstance(spec_or_name, str) else spec_or_name
    require_single(spec, _WHAT)
    check_arguments(validation_fraction)
    source = open_source(spec, data_dir, streaming=True)
    splits = [split for split in SPLITS if split != "validation" or source.has_validation]
    read = [file for split in splits for file in source.files(split)] if isinstance(source, FolderSource) else []
    about = {"spec": spec.to_dict(), "source": source.origin, "validation_fraction": validation_fraction}
    return _kept(
        folder,
        {**about, **_settings(spec, rows), "files": _stamps(read)},
        lambda hold: load_from(spec, source, hold, validation_fraction),
        rows,
    )


def stream_file(
    path: Path,
    folder: Path,
    *,
    spec: TaskSpec | None = None,
    text_column: str = "text",
    label_column: str = "label",
    text_pair_column: str | None = None,
    template: str | None = None,
    problem: str | None = None,
    rows: Mapping[str, int | None] | None = None,
) -> TaskData:
    """Load the task of a labelled file, or of a folder of Parquet files, with its examples in files.

    It is the task that :func:`~promptwise.tasks.data.task_from_file`, or with a spec
    :func:`~promptwise.tasks.data.load_file`, makes of the same rows.

    Args:
        path: A file that ``read_rows`` takes, or a folder.
        folder: Keeps the files.
        spec: The task; without it the labels found are the classes, and the rows are read twice.
        text_column: As in ``task_from_file``; so are the other three.
        label_column: See there.
        text_pair_column: See there.
        template: See there.
        problem: See there; a single label is all that can be streamed.
        rows: How many rows of a split to keep; all without it.

    Raises:
        ConfigError: A value cannot work, or fewer rows are wanted of a task with groups.
        DataError: Data is missing or malformed, or there are fewer than 10 rows or 2 classes.
        OutputError: The files cannot be written.
    """
    files = parquet_files(path) if path.is_dir() else [require_file(path)]
    columns = own_columns(text_column, label_column, text_pair_column)
    if spec is not None:
        require_single(spec, _WHAT)
    if problem not in (None, SINGLE):
        raise _not_single(path, str(problem))

    def load(hold: Hold) -> TaskData:
        known = spec or spec_of_file(
            path,
            sorted_names(_labels(path, files, columns, problem)),
            text_column=text_column,
            label_column=label_column,
            text_pair_column=text_pair_column,
            template=template,
        )
        examples = hold(examples_of_files(known, files))
        if spec is not None:
            check_size(path, len(examples), len({example.label for example in examples}), spec.label)
        return shared_out(known, examples, path)

    about: dict[str, Any] = {"columns": columns, "template": template} if spec is None else {"spec": spec.to_dict()}
    if problem is not None:
        # Without it other data may be no task of classes, and is refused.
        about["problem"] = problem
    return _kept(folder, {"source": str(path), **about, **_settings(spec, rows), "files": _stamps(files)}, load, rows)


def _labels(path: Path, files: Sequence[Path], columns: Sequence[str], problem: str | None) -> set[str]:
    """The class names in a person's own files."""
    names, count = set(), 0
    for file in files:
        for number, row in read_rows(file):
            names.add(label_of_row(row, columns, location(file, number)))
            count += 1
    shown = problem_of_rows((), list(names)) if problem is None else problem
    if shown != SINGLE:
        raise _not_single(path, shown)
    check_size(path, count, len(names), columns[1])
    return names


def _not_single(path: Path, problem: str) -> ConfigError:
    """The error that says that the rows of a file cannot be streamed."""
    return ConfigError(
        f"{_WHAT} is for {SINGLE}, and {path} is a task of {problem}. Leave it out, or give --problem {SINGLE} if its "
        "labels are classes."
    )


def _settings(spec: TaskSpec | None, rows: Mapping[str, int | None] | None) -> dict[str, Any]:
    """What else the rows depend on.

    Raises:
        ConfigError: Fewer rows are wanted of a task with groups, whose choice looks at all groups at once.
    """
    limits = {split: count for split, count in (rows or {}).items() if count is not None}
    if limits and spec is not None and (spec.split_group is not None or spec.group is not None):
        raise ConfigError(
            f"--{next(iter(limits))}-rows of {spec.name}, whose rows are judged in groups, cannot be chosen from a "
            "stream. Leave it out, or leave --stream out."
        )
    return {"format": FORMAT, "rows": limits}


def _stamps(files: Iterable[Path]) -> list[list[Any]]:
    """What tells that a file is another one than before: its place, its size and when it was written."""
    return [[str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _kept(
    folder: Path, about: Mapping[str, Any], load: Callable[[Hold], TaskData], rows: Mapping[str, int | None] | None
) -> TaskData:
    """The task that a folder keeps, which is made once; other processes wait for the one that makes it.

    Args:
        folder: Keeps tasks.
        about: What the rows depend on, as JSON; its hash is the name of the task's own folder.
        load: Makes the task; what it gets keeps examples in files.
        rows: How many rows of a split to keep.
    """
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    lock = folder / f"{name}.lock"
    with _alone(lock):
        try:
            if not (folder / name / _ABOUT).is_file():
                _make(folder, name, about, load, rows)
        except BaseException:
            # What fails leaves no trace, so that the folder of a run that never began goes too. The lock is held until
            # then: its file is nobody else's, and who waits for it takes a new one.
            with contextlib.suppress(OSError):
                lock.unlink()
                folder.rmdir()
            raise
    return _read(folder / name)


def _make(
    folder: Path,
    name: str,
    about: Mapping[str, Any],
    load: Callable[[Hold], TaskData],
    rows: Mapping[str, int | None] | None,
) -> None:
    """Make the folder of a task under another name, which it loses when it is whole; see :func:`_kept`."""
    for left in (folder / name, *folder.glob(f".{name}.*")):
        # Of a process that was killed.
        shutil.rmtree(left, ignore_errors=True)
    part = folder / f".{name}.{os.getpid()}"
    part.mkdir()
    try:
        data = with_rows(load(partial(store_examples, part)), **{split: (rows or {}).get(split) for split in SPLITS})
        keep_only(part, {split: getattr(data, split) for split in SPLITS})
        known = {"spec": data.spec.to_dict(), "fingerprint": data.fingerprint, "origin": data.origin}
        write_json(part / _ABOUT, {**known, "about": about})
        part.rename(folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alone(lock: Path) -> Any:
    """Hold a lock, in a folder that is made if it is missing; the system frees that of a process that is killed."""
    folder = lock.parent
    for left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return FileLock(lock).acquire()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, FileNotFoundError) and left:
                # A process that failed removed the folder meanwhile.
                continue
            raise OutputError(
                f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}. Give another --stream-cache."
            ) from error


def _read(place: Path) -> TaskData:
    """The task in a folder."""
    known = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    train, validation, test = (StoredExamples(place / f"{split}.arrow") for split in SPLITS)
    return TaskData(
        spec=TaskSpec.from_dict(known["spec"]),
        train=train,
        validation=validation,
        test=test,
        fingerprint=known["fingerprint"],
        origin=known["origin"],
    )
