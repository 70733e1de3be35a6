"""Doing the trials of a study, in this process or with workers side by side."""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from promptwise.errors import PromptwiseError, TrainingError
from promptwise.runs.cache import InputCache
from promptwise.runs.workers import Workers
from promptwise.search.space import Space
from promptwise.search.study import ERROR, RETRIES, SECONDS, THREADS, SharedStudy, Terms
from promptwise.terminal import console


@dataclass(frozen=True)
class Task:
    """What a process needs to do trials of a study.

    Attributes:
        folder: The study's folder.
        space: What is searched for.
        terms: What all processes agree on.
        threads: CPU threads of each process.
    """

    folder: Path
    space: Space
    terms: Terms
    threads: int


def do_trials(task: Task, cache: InputCache) -> None:
    """Do trials in this process until the study has as many as it shall have."""
    shared = SharedStudy(task.folder, task.terms)
    while (line := _next(shared, task, cache)) is not None:
        console.print(line, markup=False)


def do_trial(cache: InputCache, task: Task) -> str | None:
    """Do the next trial of a study; return how it ended, as a line, or ``None`` where the study has no more."""
    return _next(SharedStudy(task.folder, task.terms), task, cache)


def do_side_by_side(task: Task, workers: Workers) -> None:
    """As :func:`do_trials` with workers; where one dies its trial is tried again.

    Raises:
        TrainingError: The workers cannot go on.
    """
    shared = SharedStudy(task.folder, task.terms)
    names, under_way, error = itertools.count(), 0, ""
    # A trial that kills its worker each time ends after its retries; a worker that dies before any trial never would.
    deaths = workers.jobs + task.terms.trials * (RETRIES + 1)
    try:
        while True:
            while under_way < workers.jobs and deaths and not error and shared.has_more():
                workers.start(str(next(names)), do_trial, task)
                under_way += 1
            if not under_way:
                break
            for ended in workers.ended(timeout=1.0):
                under_way -= 1
                deaths -= bool(ended.died and deaths)
                error = error or ended.error
                if ended.value is not None:
                    console.print(ended.value, markup=False)
    finally:
        workers.stop()
    if error:
        raise TrainingError(error)
    if shared.has_more():
        raise TrainingError(
            "The processes of the trials die before they begin one; is there enough memory? Use fewer --jobs."
        )


def _next(shared: SharedStudy, task: Task, cache: InputCache) -> str | None:
    """Do the next trial of a study, and say how it ended; ``None`` where there is none to do."""
    with shared.next_trial() as trial:
        if trial is None:
            return None
        with shared.storage_errors():
            return line_of(_done(trial, shared, task, cache), task.terms.metric)


def _done(trial: Trial, shared: SharedStudy, task: Task, cache: InputCache) -> FrozenTrial:
    """Do a trial and record how it ended; one that fails does not end the study."""
    from promptwise.runs.train import run_folder, train

    started = time.monotonic()
    trial.set_user_attr(THREADS, task.threads)

    def ended(**how: Any) -> FrozenTrial:
        trial.set_user_attr(SECONDS, round(time.monotonic() - started, 1))
        return shared.tell(trial, **how)

    try:
        config = replace(task.space.sampled(trial), out=str(shared.run_folder(trial)), threads=task.threads)

        def start(resume: bool) -> dict[str, float]:
            return train(
                config,
                resume=resume,
                backbone=cache.backbone(config),
                load=cache.data,
                features=cache.features,
                progress=False,
                score_test=False,
                calibrate=False,
                on_score=_pruning(trial, config.epochs),
            ).validation

        scores = run_folder(Path(str(config.out))).go_on(config, start)
    except optuna.TrialPruned:
        return ended(pruned=True)
    except Exception as error:
        trial.set_user_attr(ERROR, str(error) if isinstance(error, PromptwiseError) else traceback.format_exc())
        return ended()
    return ended(value=scores[task.terms.metric])


def _pruning(trial: Trial, epochs: float | None) -> Callable[[int, float], None]:
    """A listener that tells Optuna the score of each epoch, and ends a trial where Hyperband says so."""

    def listen(epoch: int, score: float) -> None:
        trial.report(score, epoch)
        # Hyperband must see every score; after the last epoch there is nothing left to save.
        if trial.should_prune() and (epochs is None or epoch < epochs):
            raise optuna.TrialPruned

    return listen


def line_of(trial: FrozenTrial, metric: str) -> str:
    """How a trial ended, as a line."""
    settings = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    seconds = f"({trial.user_attrs.get(SECONDS, 0):.0f} s)"
    if trial.state == TrialState.COMPLETE:
        return f"trial {trial.number}: {metric} {trial.value:.4f}; {settings} {seconds}"
    if trial.state == TrialState.PRUNED:
        where = f"stopped after epoch {trial.last_step}, {metric} {trial.value:.4f}"
        return f"trial {trial.number}: {where}; {settings} {seconds}"
    return f"trial {trial.number}: failed; {settings}: {reason_of(trial)}"


def error_of(trial: FrozenTrial) -> str:
    """Why a trial failed; empty where it did not."""
    if trial.state != TrialState.FAIL:
        return ""
    return str(trial.user_attrs.get(ERROR, "Its process was killed; was there enough memory?"))


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed, in a line."""
    return error_of(trial).strip().splitlines()[-1]


def shown(value: Any) -> str:
    """A value of a setting, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
