"""Less training data than a task has, the same for every method that is compared on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from promptwise.errors import ConfigError, DataError
from promptwise.tasks._spec_checks import SPLITS
from promptwise.tasks.data import TaskData, task_data
from promptwise.tasks.examples import Example, examples_from_rows
from promptwise.tasks.problems import require_single
from promptwise.tasks.readers import read_rows
from promptwise.tasks.splits import hold_out, pick_across, texts_or_group, units_across


def with_rows(
    data: TaskData, train: int | None = None, validation: int | None = None, test: int | None = None
) -> TaskData:
    """The same task with fewer rows: the same ones for every seed, spread over the classes as before.

    A few more stay where classes do not divide evenly, a few less where rows are judged together: answers to a question
    stay together, and are of as many paragraphs as there can be.

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


def _fewer(data: TaskData, split: str, rows: int) -> Sequence[Example]:
    whole: Sequence[Example] = getattr(data, split)
    if rows > len(whole):
        raise ConfigError(f"--{split}-rows is {rows:,}; {data.spec.name} ({data.origin}) has {len(whole):,}.")
    if rows == len(whole):
        return whole
    salt = f"{split} rows"
    if data.spec.split_group is not None or data.spec.group is not None:
        return pick_across(whole, rows, salt=salt, problem=data.spec.problem)
    return hold_out(whole, len(whole) - rows, salt=salt, origin=data.origin, problem=data.spec.problem)[0]


def with_shots(data: TaskData, shots: int, seed: int) -> TaskData:
    """A few-shot task: ``shots`` training rows of each class, and as many others to choose the checkpoint on.

    Another seed draws other rows; the same seed draws the same for every method. Rows of one text, or of one paragraph,
    are all on one side. The test split stays whole.

    Raises:
        DataError: A class has too few training rows.
        ConfigError: Rows of the task have no single class each.
    """
    require_single(data.spec, "--shots")
    sides: tuple[list[Example], ...] = ([], [])
    counts: tuple[Counter[int], ...] = (Counter(), Counter())
    side_of: dict[str | None, int] = {}
    for unit in units_across(data.train, f"shots, seed {seed}"):
        rows = [data.train[index] for index in unit]
        group = rows[0].split_group
        open_to = (0, 1) if group not in side_of else (side_of[group],)
        side = next((side for side in open_to if any(counts[side][row.label] < shots for row in rows)), None)
        if side is None:
            continue
        if group is not None:
            side_of[group] = side
        for row in rows:
            if counts[side][row.label] < shots:
                sides[side].append(row)
                counts[side][row.label] += 1
    for label, name in enumerate(data.spec.labels):
        if min(count[label] for count in counts) < shots:
            rows_of = Counter(example.label for example in data.train)
            found, most = rows_of[label], min(rows_of[one] for one in range(len(data.spec.labels))) // 2
            raise DataError(
                f"--shots {shots} takes {2 * shots} training rows of each class, {shots} to learn from and {shots} of "
                f"other texts to choose the checkpoint on; {data.spec.name} ({data.origin}) has {found} of {name!r}. "
                + (f"Give --shots {most} or less." if 0 < most < shots else "Give more rows of it, or fewer --shots.")
            )
    return _replaced(data, f"{shots} shots, seed {seed}", train=sides[0], validation=sides[1])


def with_files(data: TaskData, train: str | None, validation: str | None) -> TaskData:
    """The same task with its training or its validation rows from files, such as those of FewGLUE.

    A checkpoint is never chosen on what was trained on: rows of validation whose texts or split groups a training file
    has are left out, and with a validation file it is such training rows. Nor are rows of a training file trained on
    whose texts the test split has; that some are of one paragraph is usual in MultiRC's own splits.

    Raises:
        DataError: A file cannot be read, its rows do not fit the task, or leave no row of the other split.
    """
    read = {
        path: examples_from_rows(data.spec, read_rows(Path(path)), Path(path))
        for path in (train, validation)
        if path is not None
    }
    learnt: Sequence[Example] = data.train if train is None else read[train]
    chosen_on: Sequence[Example] = data.validation if validation is None else read[validation]
    given = len(learnt) + len(chosen_on)
    if train is not None:
        learnt = _without(learnt, data.test, _texts, f"{train} has", f"the test split of {data.spec.name}")
    if validation is None:
        who = f"The validation split of {data.spec.name} has"
        chosen_on = _without(chosen_on, learnt, texts_or_group, who, str(train))
    else:
        who = f"{train or 'The training split of ' + data.spec.name} has"
        learnt = _without(learnt, chosen_on, texts_or_group, who, validation)
    left_out = given - len(learnt) - len(chosen_on)
    how = " and ".join(read) + (f" without {left_out} rows that another split has" if left_out else "")
    return _replaced(data, how, train=learnt, validation=chosen_on)


def _texts(example: Example) -> list[str | None]:
    return [example.text, example.text_pair]


def _without(
    rows: Sequence[Example], others: Sequence[Example], key: Callable[[Example], list[str | None]], who: str, whose: str
) -> Sequence[Example]:
    """The rows whose ``key`` no other one has.

    Raises:
        DataError: There is none.
    """
    known = {tuple(key(example)) for example in others}
    kept = [example for example in rows if tuple(key(example)) not in known]
    if rows and not kept:
        raise DataError(
            f"{who} {len(rows)} rows, and {whose} has the texts of all of them: a model would be chosen or scored on "
            "what it was trained on. Give other rows."
        )
    return kept


def _replaced(data: TaskData, how: str, **changed: Sequence[Example]) -> TaskData:
    splits = {split: changed.get(split, getattr(data, split)) for split in SPLITS}
    return task_data(data.spec, splits, f"{data.origin}, {how}")
