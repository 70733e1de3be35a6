"""Write what ``promptwise strategies`` says of strategies, out of committed records and benchmark output.

Shares and positions are computed from the default settings on the default model.
Accuracies are the means over an experiment's tasks and seeds, of methods that have a finished run for each of them;
times are of classifier heads, ratios that ``step_time.py`` measured to the forward and backward pass of the frozen
model on the text alone. Of several settings of one strategy on one base those nearest to the defaults are taken. The
dates are those of the commits that the files are from.

    python benchmarks/measured.py --experiment docs/results/every-strategy \
        --times docs/results/speed/strategies-fp32.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptwise.config import PromptConfig
from promptwise.config.composition import off_default, settings_with_plugins
from promptwise.experiments.record import Record, read_records
from promptwise.reports.measured import FILE, Accuracy, Measured, StepTime, key_of

PACKAGE_FILE = Path(__file__).parents[1] / "src" / "promptwise" / "reports" / FILE


def committed(path: Path) -> str:
    """The day of the last commit that changed a path."""
    day = subprocess.run(
        ["git", "log", "-1", "--format=%cs", "--", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not day:
        raise SystemExit(f"{path} is in no commit: what the package says must be from committed files.")
    return day


def nearest(values: dict[str, dict[str, Any]]) -> dict[str, float]:
    """By key the value whose settings are nearest to the defaults."""
    chosen: dict[str, dict[str, Any]] = {}
    for one in values.values():
        config: PromptConfig = one["config"]
        key = key_of(config.base if config.has_prompt else "", config.method)
        if key not in chosen or len(off_default(config)) < len(off_default(chosen[key]["config"])):
            chosen[key] = one
    return {key: round(one["value"], 4) for key, one in chosen.items()}


def prompt_config(settings: dict[str, Any]) -> PromptConfig:
    """What a model was made of, of all settings of a run."""
    known = settings_with_plugins(PromptConfig)
    return PromptConfig.from_saved({name: value for name, value in settings.items() if name in known})


def accuracy(folder: Path, tasks_of: list[str] | None = None) -> Accuracy:
    """The means of an experiment, over all of its tasks or some."""
    records = [
        one
        for one in read_records(folder / "records").values()
        if one.status == "finished"
        and one.purpose == "result"
        and "accuracy" in one.metrics["test"]
        and (tasks_of is None or one.task in tasks_of)
    ]
    if not records:
        raise SystemExit(f"{folder / 'records'} has no finished run that is a result.")
    by_method: dict[str, dict[str, list[Record]]] = {}
    for one in records:
        by_method.setdefault(one.method, {}).setdefault(one.task, []).append(one)
    tasks = {one.task: int(one.metrics["data"]["rows"]["test"]) for one in records}
    seeds = max(len(runs) for by_task in by_method.values() for runs in by_task.values())
    whole = {
        method: by_task
        for method, by_task in by_method.items()
        if by_task.keys() == tasks.keys() and all(len(runs) == seeds for runs in by_task.values())
    }
    means = {
        method: {
            "config": prompt_config(dict(next(iter(by_task.values()))[0].settings)),
            "value": statistics.mean(
                statistics.mean(one.metrics["test"]["accuracy"] for one in runs) for runs in by_task.values()
            ),
        }
        for method, by_task in whole.items()
    }
    (model,) = {one.metrics["backbone"]["name"] for one in records}
    train_rows = max(int(one.metrics["data"]["rows"]["train"]) for one in records)
    return Accuracy(
        records[0].experiment, committed(folder), model, train_rows, dict(sorted(tasks.items())), seeds, nearest(means)
    )


def step_time(file: Path, setup: str, dtype: str) -> StepTime:
    """The ratios of a benchmark's output: to a case's floor, times that floor's own to the bare model."""
    import step_time as benchmark

    content = json.loads(file.read_text(encoding="utf-8"))
    ratios = {
        one["case"]: one["to_floor"]["median"]
        for one in content["results"]
        if (one["setup"], one["dtype"]) == (setup, dtype) and one["to_floor"] is not None
    }
    found = {
        name: {"config": PromptConfig(**benchmark.settings_of(name)), "value": ratio * ratios[benchmark.floor_of(name)]}
        for name, ratio in ratios.items()
        if name.endswith(", classifier") and not name.startswith("floor") and benchmark.FOLDED not in name
        if benchmark.floor_of(name) in ratios
    }
    if not found:
        raise SystemExit(
            f"{file} has no case of {setup} in {dtype} with a classifier head, its floor and the plain floor."
        )
    machine = content["machine"]
    return StepTime(file.name, committed(file), setup, dtype, machine["processor"], machine["threads"], nearest(found))


def main() -> None:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, required=True, help="folder of an experiment, with records/")
    parser.add_argument("--tasks", nargs="+", help="entries of the experiment to take; by default all")
    parser.add_argument("--times", type=Path, required=True, help="output of step_time.py --json")
    parser.add_argument("--setup", default="minilm", help="setup of step_time.py")
    parser.add_argument("--dtype", default="fp32", help="dtype of step_time.py")
    parser.add_argument("--out", type=Path, default=PACKAGE_FILE, help="where to; by default into the package")
    arguments = parser.parse_args()
    from promptwise.backbones.hub import DEFAULT_MODEL
    from promptwise.cli.strategy_sizes import strategy_sizes

    measured = Measured(
        strategy_sizes(DEFAULT_MODEL),
        accuracy(arguments.experiment, arguments.tasks),
        step_time(arguments.times, arguments.setup, arguments.dtype),
    )
    arguments.out.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
