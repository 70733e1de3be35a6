"""``promptwise search``: from settings to the best ones, and to the run that they give."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config.settings import flag_name
from promptwise.errors import ConfigError, OutputError, TrainingError
from promptwise.runs.engines import EngineChoice
from promptwise.search.space import Space, read_space
from promptwise.training.launcher import process_count

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from promptwise.config import TrainConfig
    from promptwise.runs.cache import InputCache
    from promptwise.runs.workers import Workers
    from promptwise.search.study import SharedStudy, Terms
    from promptwise.search.trials import Task
    from promptwise.training.run_metrics import RunMetrics

BEST = "best.yaml"


@dataclass(frozen=True)
class Conclusion:
    """What a study came to.

    Attributes:
        metric: The name of the score.
        trials: How many trials it has, by how they ended.
        best: The number of the best trial.
        score: Its score on validation.
        settings: What it has of what was searched for.
        importances: The share of each setting in what decides whether a trial is good; empty where too few finished.
        run: The metrics of the chosen run, its score on the test split among them.
        folder: The folder of the chosen run.
        notes: What a person should know.
    """

    metric: str
    trials: Mapping[str, int]
    best: int
    score: float
    settings: Mapping[str, Any]
    importances: Mapping[str, float]
    run: RunMetrics
    folder: Path
    notes: Sequence[str]


def search(
    settings: Mapping[str, Any],
    space: Sequence[str],
    *,
    trials: int = 30,
    jobs: int | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus_per_run: float | None = None,
) -> Conclusion | None:
    """Search for settings on the validation split, then train with the best ones and score the test split.

    The same call goes on with a study that was stopped; calls side by side share it.

    Args:
        settings: Those of every trial, as ``TrainConfig`` takes them; ``out`` names the study's folder, and ``seed``
            seeds the search too.
        space: What to search for; see :func:`~promptwise.search.space.read_space`.
        trials: How many trials the study shall have, those of other processes and of earlier calls included.
        jobs: Trials side by side; by default one on this machine, and on Ray what the cluster has room for.
        engine: Where trials are done, ``local`` or ``ray``; see :class:`~promptwise.runs.engines.EngineChoice`.
        address: A running Ray cluster.
        gpus_per_run: GPUs of each trial.

    Returns:
        What it came to; ``None`` where other processes are still at work on trials: the last of them concludes.

    Raises:
        ConfigError: Settings cannot work, or optuna is not installed.
        ResumeError: The folder holds a study of other trials.
        OutputError: The folder or its storage cannot be written.
        TrainingError: No trial finished.
    """
    check_here()
    known = read_space(settings, space)
    out = known.fixed.get("out")
    if out is None or not str(out).strip():
        raise ConfigError("--out is missing: name the folder that receives the study.")
    if "://" in str(out):
        raise ConfigError(f"--out {out} is a URL, and a study needs a folder, which all its workers see: name one.")
    folder = Path(str(out))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; --out names a folder.")

    # Each trial is chosen by those before it, so here no more are side by side than a person asks for.
    jobs = 1 if jobs is None and engine == "local" else jobs
    choice = EngineChoice(engine, jobs, known.fixed.get("threads"), gpus_per_run, address)

    from promptwise.runs.cache import InputCache
    from promptwise.search.study import SharedStudy
    from promptwise.search.trials import Task, do_side_by_side, do_trials

    cache = InputCache()
    known = known.with_usual_epochs(len(cache.data(known.first).train))
    identity = identity_of(known, cache)
    with choice.workers() as workers:
        task = Task(folder, known, terms_of(known, identity, trials), workers.threads)
        shared = SharedStudy(folder, task.terms)
        shared.agree(identity)
        workers.check(folder, _places(known))
        try:
            if workers.here and workers.jobs == 1:
                do_trials(task, cache)
            else:
                do_side_by_side(task, workers)
        except KeyboardInterrupt:
            shared.interrupted()
            raise
        if shared.running_elsewhere():
            return None
        with shared.concluding():
            return _concluded(shared, task, cache, workers)


def _places(space: Space) -> list[str]:
    """The files and folders that trials read."""
    names = (*space.first.data_places, "knowledge", "start_from")
    named = [*space.values_of("model"), *(space.first.get(name) for name in names)]
    return sorted({str(place) for place in named if place is not None and Path(str(place)).exists()})


def check_here() -> None:
    """Refuse what cannot work in this process.

    Raises:
        ConfigError: A package is missing, or this process is one of several of one run.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("`promptwise search` needs optuna: pip install 'promptwise[search]'.")
    processes = process_count()
    if processes > 1:
        raise ConfigError(
            f"A trial is trained in one process, and a launcher started {processes}. Start `promptwise search` without "
            "it; --jobs does trials side by side."
        )


def identity_of(space: Space, cache: InputCache) -> dict[str, Any]:
    """What the scores of a study depend on, by which another one is told.

    Raises:
        UnknownModelError: A model cannot be found.
        DataError: The data is missing or malformed.
    """
    from promptwise.backbones.hub import locate, model_digest, sha256_of
    from promptwise.models.adapter import WEIGHTS_FILE as ADAPTER_WEIGHTS
    from promptwise.runs.cache import told_to_model
    from promptwise.strategies.knowledge import WEIGHTS_FILE as KNOWLEDGE_WEIGHTS

    first = space.first
    data = cache.data(first)
    models = space.values_of("model")
    for model in models:
        locate(model, first.revision)
    apart = ("out", "threads", "model", *first.data_places)
    started_from = {"knowledge": KNOWLEDGE_WEIGHTS, "start_from": ADAPTER_WEIGHTS}
    digests = {}
    for name, weights in started_from.items():
        folders = () if space.first.get(name) is None else space.values_of(name)
        held = [Path(str(folder)) / weights for folder in folders if folder is not None]
        if found := [sha256_of(file) for file in held if file.is_file()]:
            digests[f"weights of {flag_name(name)}"] = ", ".join(found)
    return {
        "space": {one.name: one.text for one in space.dimensions},
        "settings": {name: value for name, value in space.chosen.items() if name not in apart},
        "conditions": {
            "data": data.fingerprint,
            "task": hashlib.sha256(told_to_model(data.spec).encode()).hexdigest(),
            "metric": data.choosing_metric().name,
            "model": ", ".join(map(model_digest, models)),
            **digests,
        },
    }


def terms_of(space: Space, identity: Mapping[str, Any], trials: int) -> Terms:
    """What all processes of a study agree on."""
    from promptwise.search.study import Terms
    from promptwise.tasks.metrics import get_metric

    metric = get_metric(identity["conditions"]["metric"])
    return Terms(metric.name, metric.higher_is_better, space.fixed.get("seed", 0), space.most_epochs, trials)


def _concluded(shared: SharedStudy, task: Task, cache: InputCache, workers: Workers) -> Conclusion:
    """Write what the study came to, and do the chosen run.

    Raises:
        TrainingError: No trial finished.
    """
    counted, best = shared.counted, shared.best
    if best is None:
        raise TrainingError(
            f"None of the {len(counted)} trials finished, so there are no best settings. {first_error(shared)} Correct "
            "what is wrong, and use another --out."
        )
    config = config_of(best, task)
    importances, notes = write_found(shared, best, config)
    run = (best.number, config, task.folder)
    metrics, folder = _chosen_run(cache, *run) if workers.here else workers.call(_chosen_run, *run)
    metric = task.terms.metric
    if metrics.validation[metric] != best.value:
        notes.append(
            f"the chosen run has {metric} {metrics.validation[metric]:.6g} on validation and trial {best.number} had "
            f"{best.value:.6g}: the machine or the libraries have changed since"
        )
    looks = sorted(file.parent.name for file in task.folder.glob("run-*/metrics.json"))
    if len(looks) > 1:
        notes.append(
            f"this study was extended: the test split has been scored {len(looks)} times, by {', '.join(looks)}; say "
            "so where you report it"
        )
    states = [trial.state.name.lower() for trial in counted]
    return Conclusion(
        metric=metric,
        trials={state: states.count(state) for state in dict.fromkeys(states)},
        best=best.number,
        score=float(best.value or 0.0),
        settings=best.params,
        importances=importances,
        run=metrics,
        folder=folder,
        notes=notes,
    )


def first_error(shared: SharedStudy) -> str:
    """Why the first trial that failed did, as a sentence; empty where none did."""
    from promptwise.search.trials import error_of, reason_of

    failed = next((trial for trial in shared.counted if error_of(trial)), None)
    return "" if failed is None else f"Trial {failed.number}: {reason_of(failed)}"


def write_found(shared: SharedStudy, best: FrozenTrial, config: TrainConfig) -> tuple[dict[str, float], list[str]]:
    """Write the best settings, the tables and the figure; return the importances, and what is to be said of them."""
    from promptwise.search.results import importances_of, write_plot, write_tables, write_yaml

    importances = importances_of(shared)
    write_yaml(shared, best, config, shared.folder / BEST)
    write_tables(shared, importances, shared.folder)
    return importances, write_plot(shared, importances, shared.folder)


def config_of(trial: FrozenTrial, task: Task) -> TrainConfig:
    """The configuration of a trial that ended, with the threads that it had, on which the last bits depend."""
    from optuna.trial import FixedTrial

    from promptwise.search.study import THREADS

    config = task.space.sampled(FixedTrial(trial.params, trial.number))
    return replace(config, out=None, threads=trial.user_attrs.get(THREADS))


def _chosen_run(cache: InputCache, number: int, config: TrainConfig, folder: Path) -> tuple[RunMetrics, Path]:
    """Train with the settings of a trial and score the test split, or return what was measured before."""
    from promptwise.runs.train import run_folder, train

    place = folder / f"run-{number}"
    config = replace(config, out=str(place))

    def start(resume: bool) -> RunMetrics:
        return train(config, resume=resume, backbone=cache.backbone(config), load=cache.data, features=cache.features)

    return run_folder(place).go_on(config, start), place
