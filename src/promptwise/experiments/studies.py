"""Searches of an experiment: each cell that asks for one gets the settings that a study of its own found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import TrainConfig
from promptwise.config.composition import useless
from promptwise.experiments.record import CODE_VERSION
from promptwise.experiments.spec import Cell, Experiment
from promptwise.runs.cache import InputCache
from promptwise.runs.workers import Workers
from promptwise.search.search import check_here, config_of, first_error, identity_of, terms_of, write_found
from promptwise.search.space import Space, read_space
from promptwise.terminal import console

if TYPE_CHECKING:
    from promptwise.search.study import SharedStudy
    from promptwise.search.trials import Task

STUDIES = "studies"
"""A folder for each study, below that of the experiment."""


def space_of(cell: Cell) -> Space:
    """What a cell searches for.

    Raises:
        ConfigError: It cannot work.
    """
    settings = {name: value for name, value in cell.settings.items() if name not in cell.unused}
    return read_space({**settings, "seed": cell.search_seed}, cell.space)


def with_found(experiment: Experiment, out: Path, workers: Workers) -> Experiment:
    """The experiment with the settings that the studies of its cells found; what is missing of them is done first.

    A cell whose trials all failed is left out.

    Args:
        experiment: What is wanted.
        out: Its folder.
        workers: Who does the trials.
    """
    if not any(cell.space for cell in experiment.cells):
        return experiment
    check_here()
    from promptwise.search.trials import do_side_by_side

    cells = []
    for cell, study in _studies(experiment, out, workers.threads):
        if study is None:
            cells.append(cell)
            continue
        shared, task = study
        name = f"{cell.task}, {cell.label}"
        if shared.has_more():
            console.print(f"search: {name}: {task.terms.trials} trials in {task.folder}", highlight=False, markup=False)
            do_side_by_side(task, workers)
        best = shared.best
        if best is None:
            why = f"no results: {name}: every trial of its search failed. {first_error(shared)}"
            console.print(why, highlight=False, markup=False)
            continue
        _, notes = write_found(shared, best, config_of(best, task))
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        cells.append(_found(cell, best.params))
    return replace(experiment, cells=tuple(cells))


def with_found_so_far(experiment: Experiment, out: Path) -> tuple[Experiment, list[str]]:
    """The experiment with the settings of the studies that ended, and a line for each of the others.

    Args:
        experiment: What is wanted.
        out: Its folder.
    """
    cells, open_ones = [], []
    for cell, study in _studies(experiment, out, 1, only_there=True):
        shared = study[0] if study is not None else None
        best = None if shared is None or shared.has_more() else shared.best
        cells.append(cell if best is None else _found(cell, best.params))
        if cell.space and best is None:
            done = 0 if shared is None else sum(trial.state.is_finished() for trial in shared.counted)
            open_ones.append(f"{cell.task}, {cell.label}: {done} of {cell.search_trials} trials done")
    return replace(experiment, cells=tuple(cells)), open_ones


def _studies(
    experiment: Experiment, out: Path, threads: int, only_there: bool = False
) -> Iterator[tuple[Cell, tuple[SharedStudy, Task] | None]]:
    """Each cell with its study; ``None`` for one without, and for one whose study is not there with ``only_there``."""
    cache = InputCache()
    for cell in experiment.cells:
        if not cell.space:
            yield cell, None
            continue
        space = space_of(cell)
        space = space.with_usual_epochs(len(cache.data(space.first).train))
        identity = identity_of(space, cache)
        folder = out / STUDIES / _digest(identity)
        if only_there and not folder.is_dir():
            yield cell, None
            continue
        from promptwise.search.study import SharedStudy
        from promptwise.search.trials import Task

        task = Task(folder, space, terms_of(space, identity, cell.search_trials), threads)
        shared = SharedStudy(folder, task.terms)
        shared.agree(identity)
        yield cell, (shared, task)


def _digest(identity: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of what a study is about and of the version of the code, as a run's id is made."""
    content = json.dumps([identity, CODE_VERSION], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _found(cell: Cell, found: dict[str, Any]) -> Cell:
    """A cell with the settings that were found, and without those that would change nothing beside them."""
    settings = {**cell.settings, **found}
    idle = useless(TrainConfig, settings)
    return replace(
        cell,
        settings={name: value for name, value in settings.items() if name not in idle},
        unused=(),
        space=(),
    )
