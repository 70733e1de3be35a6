"""What a person sees of an experiment under way: how far it is, how long it takes, and the best so far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from promptwise.experiments.engine import Engine, seconds_left
from promptwise.experiments.plan import Plan
from promptwise.experiments.pretrained import Pretraining
from promptwise.tasks.metrics import Metric, get_metric
from promptwise.terminal import console, plain_table, print_table


class Display:
    """A table that is drawn anew on a terminal, and a line for each run that ends elsewhere."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.live = Live(console=console, refresh_per_second=2, transient=False) if console.is_terminal else None
        self._drawn = 0.0
        self._engine: Engine | None = None
        self._seen: set[str] = {key for key, record in plan.records.items() if record.status == "finished"}

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self._draw()
            self.live.stop()

    def __call__(self, engine: Engine) -> None:
        """Show what the engine has done and is doing."""
        self._engine = engine
        self._print_ended()
        if time.monotonic() - self._drawn > 0.5:
            self._draw()

    def _draw(self) -> None:
        if self.live is not None and self._engine is not None:
            self.live.update(Group(overview(self._engine), best_so_far(self.plan)))
            self._drawn = time.monotonic()

    def _print_ended(self) -> None:
        """A line for each run that ended; a terminal, which has the table, gets those of failed ones alone."""
        for key, record in self.plan.records.items():
            if key in self._seen or record.status == "cancelled":
                continue
            self._seen.add(key)
            if self.live is not None and record.status != "failed":
                continue
            what = f"{record.task}, {record.method}, seed {record.seed}"
            if record.lr is not None:
                what += f", lr {record.lr:g}"
            shown = _scores(record.metrics, record.purpose) if record.metrics else record.error.strip().splitlines()[-1]
            console.print(f"{record.status}: {what}: {shown}", highlight=False, markup=False)


def overview(engine: Engine) -> Text:
    """One line of numbers, and a line for each run under way."""
    counts, running = engine.plan.counts(), engine.running
    total = sum(counts.values())
    left = seconds_left(engine.plan, running, engine.workers.jobs)
    parts = [f"{engine.plan.experiment.name}: {counts['finished']} of {total} runs finished"]
    parts += [f"{counts[kind]} {kind}" for kind in ("failed", "cancelled") if counts[kind]]
    if left != 0.0:
        parts.append("time left unknown" if left is None else f"about {duration(left)} left")
    lines = [", ".join(parts)]
    lines += [
        f"  {duration(since)}  {run.task}, {run.method}, seed {run.config.seed}"
        + (" (search)" if run.purpose == "search" else "")
        for run, since in running
    ]
    return Text("\n".join(lines))


def best_so_far(plan: Plan) -> Table:
    """The best mean of each task among the cells that have a result."""
    table = plain_table("task", "best so far", "mean", "seeds")
    scores: dict[str, dict[str, list[float]]] = {cell.task: {} for cell in plan.experiment.cells}
    metrics: dict[str, Metric] = {}
    for planned in plan.planned():
        record = plan.record(planned) if planned.purpose == "result" else None
        if record is not None and record.status == "finished":
            name, score = next(iter(record.metrics["test"].items()))
            metrics[planned.cell.task] = get_metric(name)
            scores[planned.cell.task].setdefault(planned.cell.label, []).append(score)
    for task, methods in scores.items():
        if methods:
            means = {method: statistics.mean(seeds) for method, seeds in methods.items()}
            best = max(means, key=lambda method: metrics[task].merit(means[method]))
            table.add_row(task, best, f"{means[best]:.4f}", str(len(methods[best])))
        else:
            table.add_row(task, "-", "-", "0")
    return table


def print_plan(plan: Plan, jobs: int, first: Sequence[Pretraining]) -> None:
    """The plan of a dry run: cells with their runs, and a time estimate from finished runs.

    Args:
        plan: The plan.
        jobs: Processes side by side.
        first: What is to be pre-trained before the runs.
    """
    table = plain_table("task", "method", "seeds", "learning rates", "finished", "failed", "cancelled", "missing")
    cells: dict[tuple[str, str], dict[str, int]] = {}
    for planned in plan.every():
        row = cells.setdefault((planned.cell.task, planned.cell.label), {})
        kind = plan.kind(planned)
        row[kind] = row.get(kind, 0) + 1
    for cell in plan.experiment.cells:
        row = cells.get((cell.task, cell.label), {})
        rates = ", ".join(f"{rate:g}" for rate in cell.rates) or "own"
        counts = [str(row.get(kind, 0)) for kind in ("finished", "failed", "cancelled", "missing")]
        table.add_row(cell.task, cell.label, ", ".join(map(str, cell.seeds)), rates, *counts)
    print_table(table)
    print_without_rate(plan)
    left = seconds_left(plan, [], jobs)
    remaining = len(plan.remaining())
    for entry in first:
        console.print(f"before the runs: pre-training {entry.name} ({entry.what})", highlight=False)
    how_long = "unknown before a run has finished" if left is None else f"about {duration(left)} with {jobs} at a time"
    if first and left is not None:
        how_long += ", and that of the pre-training"
    console.print(f"{remaining} runs to do; time: {how_long}.", highlight=False)


def print_without_rate(plan: Plan) -> None:
    """A line for each cell that cannot have results because every learning rate of its search failed."""
    for cell in plan.without_rate():
        console.print(
            f"no results: {cell.task}, {cell.label}: every learning rate of its search failed. Try others, or "
            "--retry-failed.",
            highlight=False,
            markup=False,
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _scores(metrics: Any, purpose: str) -> str:
    split = "test" if purpose == "result" else "validation"
    return ", ".join(f"{split} {name} {value:.4f}" for name, value in metrics[split].items())
