"""What the commands print."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptwise.config import PromptConfig
from promptwise.config.settings import settings_in
from promptwise.errors import ConfigError
from promptwise.models.adapter import read_metrics
from promptwise.registry import ENCODERS, HEADS, INJECTORS, STRATEGIES, TUNINGS, Registry
from promptwise.search.search import BEST, Conclusion
from promptwise.tasks.metrics import get_metric
from promptwise.tasks.spec import load_spec, task_names
from promptwise.terminal import console, plain_table, print_table, program, size_text, standard_output
from promptwise.training.run_metrics import RunMetrics

if TYPE_CHECKING:
    from promptwise.training.calibration import CoveragePoint


LARGE_ERROR = 0.02
"""A standard error of accuracy that people are told: that of fewer rows than about 500."""


def print_result(metrics: RunMetrics, folder: str) -> None:
    """The end of a training run."""
    table = plain_table("", "validation", "test")
    for name, value in metrics.test.items():
        table.add_row(name, f"{metrics.validation[name]:.4f}", f"{value:.4f}")
    if metrics.constant is None:
        table.add_row("majority class", "", f"{metrics.majority:.4f}")
    else:
        for name, value in metrics.constant.test.items():
            table.add_row(
                f"{metrics.constant.answer}: {name}", f"{metrics.constant.validation[name]:.4f}", f"{value:.4f}"
            )
    print_table(table)
    if metrics.thresholds:
        console.print(
            f"thresholds from validation: {min(metrics.thresholds):.3f} to {max(metrics.thresholds):.3f}, one for each "
            "label in adapter_config.json; validation scores are measured with them"
        )
    if metrics.baselines:
        _print_baselines(metrics)
    if metrics.calibration is not None and metrics.calibration.test:
        before, after = (metrics.calibration.test[name] for name in ("before", "after"))
        console.print(
            f"probabilities: temperature {metrics.calibration.temperature:.3g} from validation; on test expected "
            f"calibration error {before.ece:.4f} before, {after.ece:.4f} after (15 bins of equal width), Brier score "
            f"{before.brier:.4f} before, {after.brier:.4f} after"
        )
    rows = metrics.data.rows
    console.print(f"rows: {rows['train']} train, {rows['validation']} validation, {rows['test']} test")
    console.print(f"tuned parameters: {size_text(metrics.parameters.tuned, metrics.parameters.share)}")
    if metrics.stopped is not None and metrics.stopped.reason != "epochs":
        asked = f"--{metrics.stopped.reason.replace('_', '-')} {metrics.config[metrics.stopped.reason]:g}"
        console.print(f"stopped after {metrics.stopped.epochs:.4g} epochs, step {metrics.steps:,}: {asked}")
    console.print(f"trained in {metrics.time.train_s:.0f} s, saved in {folder}")
    error = math.sqrt(metrics.test.get("accuracy", 0.0) * (1 - metrics.test.get("accuracy", 0.0)) / rows["test"])
    if error >= LARGE_ERROR:
        console.print(
            f"note: of {rows['test']} test rows one standard error of accuracy is {error:.3f}; smaller differences can "
            "be chance"
        )
    first, value = next(iter(metrics.test.items()))
    merit = get_metric(first).merit
    if merit(value) <= merit(metrics.majority):
        answer = (
            "always saying the most frequent label" if metrics.constant is None else f"the {metrics.constant.answer}"
        )
        console.print(f"note: this is no better than {answer}")
    console.print(f'next: {program()} predict --adapter {folder} --text "..."')


def print_search(found: Conclusion, out: Path) -> None:
    """The end of a search."""
    ended = {"complete": "finished", "pruned": "stopped early", "fail": "failed"}
    counts = ", ".join(f"{count} {ended.get(state, state)}" for state, count in found.trials.items())
    settings = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.settings.items()
    )
    console.print(f"{sum(found.trials.values())} trials: {counts}")
    console.print(f"best: trial {found.best}, {found.metric} {found.score:.4f} on validation; {settings}", markup=False)
    if found.importances:
        table = plain_table("setting", "importance")
        for name, share in found.importances.items():
            table.add_row(name, f"{share:.2f}")
        print_table(table)
    else:
        console.print("no importances: too few trials finished")
    print_result(found.run, str(found.folder))
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"the best settings are {out / BEST}, and beside them the trials, the importances and a figure")


def _print_baselines(metrics: RunMetrics) -> None:
    """A run beside what it is compared with."""
    names = list(metrics.test)
    table = plain_table("method", f"validation {names[0]}", *(f"test {name}" for name in names), "parameters", "chosen")
    rows = [("this run", metrics.validation, metrics.test, metrics.parameters.tuned, "")]
    rows += [(one.name, one.validation, one.test, one.parameters, one.chosen) for one in metrics.baselines]
    for name, validation, test, count, chosen in rows:
        scores = [validation[names[0]], *test.values()]
        table.add_row(name, *(f"{score:.4f}" for score in scores), f"{count:,}", chosen)
    console.print()
    print_table(table)
    better = [one.name for one in metrics.baselines if one.test[names[0]] >= metrics.test[names[0]]]
    if better:
        console.print(f"note: no better on test than {' and '.join(better)}")
    console.print()


def print_info(folder: Path, config: dict[str, Any]) -> None:
    """What a saved adapter is."""
    standard_output()
    prompt, backbone, task = PromptConfig.from_saved(config["prompt"]), config["backbone"], config["task"]
    table = plain_table("", "")
    table.show_header = False
    rows = {
        "adapter": str(folder),
        "backbone": f"{backbone['name']} ({backbone['model_type']}, fingerprint {backbone['fingerprint'][:16]})",
        "base": prompt.base if prompt.has_prompt else "",
        "strategy": prompt.method,
        "head": prompt.head,
        "prompt length K": str(prompt.length) if prompt.has_length else "",
        "further settings": prompt.further_flags,
        "tuned parameters": size_text(config["tuned_parameters"], config["tuned_share"]),
        "temperature": f"{config['temperature']:.3g}" if "temperature" in config else "",
        "task": task["name"],
        "problem": config["problem"]["name"] if "problem" in config else "",
        "labels": ", ".join(task["labels"]),
        "thresholds": ", ".join(f"{value:.3f}" for value in config.get("problem", {}).get("thresholds", ())),
        "promptwise": config["promptwise_version"],
    }
    metrics = read_metrics(folder)
    if metrics is not None:
        rows["test"] = ", ".join(f"{name} {value:.4f}" for name, value in metrics.test.items())
        if metrics.constant is None:
            rows["majority class"] = f"{metrics.majority:.4f}"
        else:
            of_constant = (f"{name} {value:.4f}" for name, value in metrics.constant.test.items())
            rows[metrics.constant.answer] = ", ".join(of_constant)
        rows["seed"] = str(metrics.seed)
        rows["data"] = f"{metrics.data.origin} (fingerprint {metrics.data.fingerprint[:16]})"
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    print_table(table)


def print_pretraining(metrics: dict[str, Any], folder: str) -> None:
    """What a pretraining run reached."""
    first, last = metrics["history"][0], metrics["written"]
    table = plain_table("", "before", "after")
    for name, label in (("accuracy", "held-out accuracy"), ("accuracy_mask_token", "at mask tokens alone")):
        table.add_row(label, f"{first[name]:.3f}", f"{last[name]:.3f}")
    print_table(table)
    console.print(
        f"{metrics['tokens']:,} tokens, {metrics['trained_parameters']:,} parameters in {folder}; use it with "
        f"--model {folder}",
        highlight=False,
    )


def print_knowledge(metrics: dict[str, Any], folder: str) -> None:
    """What a run of topic pretraining reached."""
    names = list(next(iter(metrics["test"].values())))
    table = plain_table("network", *(f"test {name}" for name in names))
    for network, scores in metrics["test"].items():
        table.add_row(network, *(f"{scores[name]:.4f}" for name in names))
    table.add_row("majority class", f"{metrics['majority']:.4f}")
    print_table(table)
    rows, moved = metrics["corpus"]["rows"], metrics["table"]
    console.print(f"texts: {rows['train']:,} train, {rows['validation']:,} validation, {rows['test']:,} test")
    console.print(
        f"table: {moved['rows']:,} tokens; similarity of two of one topic {moved['before']['same_topic']:.3f} before, "
        f"{moved['after']['same_topic']:.3f} after; of different topics {moved['before']['other_topic']:.3f} before, "
        f"{moved['after']['other_topic']:.3f} after"
    )
    console.print(f"saved in {folder}; use it with --strategy pretrained --knowledge {folder}")


def print_tasks() -> None:
    """Every task in a line."""
    standard_output()
    table = plain_table("task", "classes", "metrics", "source", "description")
    for name in task_names():
        spec = load_spec(name)
        source = spec.source.dataset if spec.source else "in the package"
        table.add_row(name, str(len(spec.labels)), ", ".join(spec.metrics), source, spec.description)
    print_table(table)


def print_task(name: str) -> None:
    """A task's spec."""
    import yaml

    standard_output()
    spec = {key: value for key, value in load_spec(name).to_dict().items() if value not in (None, "", [])}
    console.print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100).strip(), markup=False)


def print_strategies() -> None:
    """Every strategy, encoder, base, head and tuning in a line."""
    standard_output()
    table = plain_table("kind", "name", "what it does")
    for part in strategy_parts():
        table.add_row(*part.values())
    print_table(table)


def strategy_parts() -> list[dict[str, str]]:
    """Every strategy, encoder, base, head and tuning: its kind, its name and what it does."""
    kinds = {"strategy": STRATEGIES, "encoder": ENCODERS, "base": INJECTORS, "head": HEADS, "tune": TUNINGS}
    return [
        {"kind": kind, "name": name, "description": registry.describe(name) + _settings_of_plugin(registry, name)}
        for kind, registry in kinds.items()
        for name in registry.names()
    ]


def _settings_of_plugin(registry: Registry, name: str) -> str:
    """The settings that a plug-in brings, as they are given on the command line; others are in the help of `train`."""
    if name in registry.names_without_import():
        return ""
    try:
        declared = settings_in(registry.settings(name))
    except ConfigError:
        # Listed all the same; whoever uses it is told why.
        return "; cannot be imported"
    return "".join(f"; --set {one.name}={one.default}" for one in declared)


def print_scores(result: Mapping[str, float | int], as_json: bool, coverage: Sequence[CoveragePoint] = ()) -> None:
    """Metrics in lines or as one JSON object, and the coverage-accuracy curve where there is one."""
    standard_output()
    if as_json:
        curve = {"coverage": [asdict(point) for point in coverage]} if coverage else {}
        print(json.dumps({**result, **curve}, allow_nan=False))
        return
    for name, value in result.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    if coverage:
        table = plain_table("abstain below", "coverage", "accuracy")
        for point in coverage:
            table.add_row(f"{point.abstain_below:.4f}", f"{point.coverage:.1%}", f"{point.accuracy:.4f}")
        print_table(table)
