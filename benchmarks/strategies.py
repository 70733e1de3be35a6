"""Every strategy on both bases with either head, over tasks, learning rates and seeds: one folder a run, and a table.

A run is what ``promptwise train`` does with the same settings. Runs that are there already are kept, so the same
command goes on where it was stopped. With ``--choose`` the table shows the validation part of train, which is what a
setting may be chosen on; without it the test split.

    python benchmarks/strategies.py --data-dir ../shared/data --out runs/strategies --jobs 2 --threads 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

METHODS = ("shared", "random", "encoder-cnn", "encoder-rnn", "encoder-mlp")


def settings(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The grid, cheap runs first so that a stopped sweep has told something about every method."""
    grid = itertools.product(
        arguments.tasks,
        arguments.seeds,
        arguments.lrs,
        arguments.poolings,
        arguments.bases,
        arguments.methods,
        arguments.heads,
    )
    rows = {task: int(count) for task, _, count in (one.partition("=") for one in arguments.train_rows)}
    runs = []
    for task, seed, lr, pooling, base, method, head in grid:
        strategy, _, encoder = method.partition("-")
        config = {
            # Sentences of SST-2 are a folder of their own with the files of the task sst2.
            "task": task.removesuffix("_sentence"),
            "data_dir": str(Path(arguments.data_dir) / task),
            "base": base,
            "head": head,
            "strategy": strategy,
            "seed": seed,
            "pooling": pooling,
            "epochs": arguments.epochs,
            "length": arguments.length,
            "dtype": arguments.dtype,
            "model": arguments.model,
            "threads": arguments.threads,
        }
        if lr is not None:
            config["lr"] = lr
        if encoder:
            config["encoder"] = encoder
        if task in rows:
            config["train_rows"] = rows[task]
        rate = "default" if lr is None else f"{lr:g}"
        size = f"K{arguments.length}_{arguments.epochs:g}epochs_{config.get('train_rows', 'all')}rows_{arguments.dtype}"
        name = f"{task}_{base}_{method}_{head}_{pooling}_lr{rate}_{size}_seed{seed}"
        runs.append({"name": name, "task": task, "method": method, "config": config})
    return runs


def work(runs: Any, out: str, deadline: float, lm_head: bool) -> None:
    """Take runs from a queue until it is empty or time is up; the backbone is loaded once."""
    from promptwise.backbones.placement import prepare_backbone
    from promptwise.config import TrainConfig
    from promptwise.runs.train import train

    backbone = None
    while time.time() < deadline:
        run = runs.get()
        if run is None:
            return
        config = TrainConfig(**run["config"], out=str(Path(out) / run["name"]))
        started = time.time()
        try:
            if backbone is None:
                backbone = prepare_backbone(config.model, lm_head, config.dtype)
            metrics = train(config, backbone=backbone, overwrite=True, progress=False).to_dict()
        except Exception:
            print(f"FAILED {run['name']}", file=sys.stderr)
            traceback.print_exc()
            continue
        first = next(iter(metrics["test"]))
        print(
            f"{run['name']}: validation {metrics['validation'][first]:.4f} in {time.time() - started:.0f} s",
            flush=True,
        )


def table(runs: list[dict[str, Any]], out: Path, split: str, records: Path | None) -> str:
    """Mean and standard deviation over seeds, a row for each setting, a column for each task."""
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    tuned: dict[tuple[str, ...], dict[str, int]] = {}
    kept = []
    for run in runs:
        file = out / run["name"] / "metrics.json"
        if not file.is_file():
            continue
        metrics = json.loads(file.read_text(encoding="utf-8"))
        first = next(iter(metrics["test"]))
        config = metrics["config"]
        key = (config["base"], run["method"], config["head"], config.get("pooling"), f"{config['lr']:g}")
        cells.setdefault(key, {}).setdefault(run["task"], []).append(metrics[split][first])
        tuned.setdefault(key, {})[run["task"]] = metrics["parameters"]["tuned"]
        metrics.pop("history")
        kept.append(json.dumps({"name": run["name"], **metrics}))
    if records is not None:
        records.write_text("\n".join(kept) + "\n", encoding="utf-8")
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    lines = [
        f"| base | strategy | head | lr | {' | '.join(f'{task} ({split})' for task in tasks)} | tuned parameters |"
    ]
    lines.append("|---" * (5 + len(tasks)) + "|")
    for (base, method, head, pooling, rate), row in sorted(cells.items()):
        shown = []
        for task in tasks:
            values = row.get(task, [])
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            shown.append(f"{statistics.mean(values):.4f}{spread} (n={len(values)})" if values else "missing")
        sizes = ", ".join(f"{tuned[base, method, head, pooling, rate][task]:,}" for task in tasks if task in row)
        label = method if pooling == "auto" else f"{method}, {pooling}"
        lines.append(f"| {base} | {label} | {head} | {rate} | {' | '.join(shown)} | {sizes} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tasks", nargs="+", default=["sst2_sentence", "ag_news"])
    parser.add_argument("--bases", nargs="+", default=["prompt", "prefix"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--heads", nargs="+", default=["classifier"], choices=["classifier", "cloze"])
    parser.add_argument("--train-rows", nargs="*", default=[], metavar="TASK=ROWS", help="a part of the training rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--lrs", nargs="+", type=float, default=[None], help="by default each method's own")
    parser.add_argument("--poolings", nargs="+", default=["auto"])
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=None, help="of each job")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after this time")
    parser.add_argument("--choose", action="store_true", help="show validation instead of test")
    parser.add_argument("--records", type=Path, help="write one JSON line per finished run")
    arguments = parser.parse_args()

    runs = settings(arguments)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    missing = [run for run in runs if not (arguments.out / run["name"] / "metrics.json").is_file()]
    for run in missing:
        queue.put(run)
    for _ in range(arguments.jobs):
        queue.put(None)
    deadline = time.time() + 60 * arguments.minutes
    job = (queue, str(arguments.out), deadline, "cloze" in arguments.heads)
    workers = [context.Process(target=work, args=job) for _ in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    queue.cancel_join_thread()
    print(table(runs, arguments.out, "validation" if arguments.choose else "test", arguments.records))


if __name__ == "__main__":
    main()
