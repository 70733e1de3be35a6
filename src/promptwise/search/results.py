"""What a study leaves for people: the best settings, tables, and a figure."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from promptwise.config import TrainConfig
from promptwise.config.composition import off_default
from promptwise.files import write_atomic
from promptwise.search.study import SECONDS, SharedStudy
from promptwise.search.trials import error_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRIALS = "trials.csv"
IMPORTANCES = "importances.csv"
PLOT = "search.svg"

_COLUMNS = 3
# Of Okabe and Ito's colours, which most eyes can tell apart.
_DONE, _STOPPED, _BEST = "#0072B2", "#999999", "#D55E00"


def importances_of(shared: SharedStudy) -> dict[str, float]:
    """The share of each setting in what makes a trial good (PED-ANOVA); empty before two trials finished.

    It is told from finished trials alone: a good trial is one of the better ones of them, and a setting is important
    whose values among those differ most from its values among all.
    """
    if sum(trial.state == TrialState.COMPLETE for trial in shared.counted) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(shared.study, evaluator=PedAnovaImportanceEvaluator())


def write_yaml(shared: SharedStudy, best: FrozenTrial, config: TrainConfig, file: Path) -> None:
    """Write the settings of the best trial as ``train --config`` takes them."""
    values = {name: list(one) if isinstance(one, tuple) else one for name, one in off_default(config).items()}
    head = (
        f"# The best of {len(shared.counted)} trials: {shared.terms.metric} {best.value:.4f} on validation "
        f"(trial {best.number}).\n"
        f"# promptwise train --config {file} --out DIR\n"
    )
    write_atomic(file, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def write_tables(shared: SharedStudy, importances: Mapping[str, float], folder: Path) -> None:
    """Write every trial, and the importances, as CSV."""
    trials = shared.trials
    names = _names(trials)
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            shared.terms.metric: "" if trial.value is None else trial.value,
            "epochs_done": trial.last_step or 0,
            "seconds": trial.user_attrs.get(SECONDS, ""),
            **{name: trial.params.get(name, "") for name in names},
            "error": error_of(trial).strip(),
        }
        for trial in trials
    ]
    _write_csv(folder / TRIALS, list(rows[0]), rows)
    shares = [{"setting": name, "importance": share} for name, share in importances.items()]
    _write_csv(folder / IMPORTANCES, ["setting", "importance"], shares)


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(file, text.getvalue())


def write_plot(shared: SharedStudy, importances: Mapping[str, float], folder: Path) -> list[str]:
    """Draw the scores of all trials, against each setting too, and the importances; say what it lacks if it cannot."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return [f"{PLOT} needs matplotlib: pip install 'promptwise[figures]'. Then the same command again"]
    trials = [trial for trial in shared.counted if trial.value is not None and math.isfinite(trial.value)]
    names = _names(trials)
    count = 1 + len(names) + bool(importances)
    rows = math.ceil(count / _COLUMNS)
    # The same study gives the same bytes, and text stays text.
    look: Any = {"svg.hashsalt": "promptwise", "svg.fonttype": "none", "font.size": 9, "axes.grid": True}
    look |= {"axes.axisbelow": True, "grid.alpha": 0.3}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(4.2 * min(count, _COLUMNS), 3.2 * rows), layout="constrained")
        axes = list(figure.subplots(rows, min(count, _COLUMNS), squeeze=False).flat)
        _history(axes[0], trials, shared)
        for ax, name in zip(axes[1:], names, strict=False):
            _against(ax, name, trials, shared)
            ax.set_ylim(axes[0].get_ylim())
        if importances:
            _shares(axes[1 + len(names)], importances)
        for ax in axes[count:]:
            ax.set_axis_off()
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches="tight")
    write_atomic(folder / PLOT, stream.getvalue())
    return []


def _names(trials: Sequence[FrozenTrial]) -> list[str]:
    """The settings that some trial has, in the order that they were chosen in."""
    return list(dict.fromkeys(name for trial in trials for name in trial.params))


def _history(ax: Axes, trials: Sequence[FrozenTrial], shared: SharedStudy) -> None:
    from matplotlib.ticker import MaxNLocator

    _points(ax, trials, [trial.number for trial in trials], shared)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    better = max if shared.terms.maximize else min
    best = [100 * better(one.value or 0.0 for one in done[: place + 1]) for place in range(len(done))]
    ax.step([trial.number for trial in done], best, where="post", color=_BEST, linewidth=1.2, label="best so far")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("trial")
    ax.legend(fontsize=8, loc="best")


def _against(ax: Axes, name: str, trials: Sequence[FrozenTrial], shared: SharedStudy) -> None:
    mine = [trial for trial in trials if name in trial.params]
    distribution: Any = mine[0].distributions[name]
    choices = getattr(distribution, "choices", None)
    places = [choices.index(trial.params[name]) if choices else trial.params[name] for trial in mine]
    _points(ax, mine, places, shared)
    if choices:
        ax.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        ax.set_xlim(-0.5, len(choices) - 0.5)
    elif distribution.log:
        ax.set_xscale("log")
    ax.set_xlabel(name)


def _points(ax: Axes, trials: Sequence[FrozenTrial], places: Sequence[float], shared: SharedStudy) -> None:
    """Finished trials, those that were stopped early, and the best one."""
    best = shared.best
    pairs = list(zip(places, trials, strict=True))
    kinds: tuple[tuple[str, list[tuple[float, FrozenTrial]], dict[str, Any]], ...] = (
        ("stopped early", _ended(pairs, TrialState.PRUNED), {"marker": "x", "color": _STOPPED}),
        ("finished", _ended(pairs, TrialState.COMPLETE), {"marker": "o", "color": _DONE}),
        (
            "best",
            [pair for pair in pairs if best is not None and pair[1].number == best.number],
            {"marker": "*", "color": _BEST, "s": 110},
        ),
    )
    for label, chosen, style in kinds:
        if chosen:
            ax.scatter(
                [place for place, _ in chosen], [100 * (one.value or 0.0) for _, one in chosen], label=label, **style
            )
    ax.set_ylabel(f"{shared.terms.metric} on validation (%)")


def _ended(pairs: Sequence[tuple[float, FrozenTrial]], state: TrialState) -> list[tuple[float, FrozenTrial]]:
    return [pair for pair in pairs if pair[1].state == state]


def _shares(ax: Axes, importances: Mapping[str, float]) -> None:
    names = list(importances)[::-1]
    ax.barh(names, [100 * importances[name] for name in names], color=_DONE, edgecolor="black")
    ax.set_xlabel("importance (%, PED-ANOVA)")
