"""The table of an experiment, free of any output format."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from promptwise.reports.results import ResultCell, Results
from promptwise.reports.significance import (
    LEVEL,
    Comparison,
    Spread,
    compare_cells,
    compare_means,
    compare_with_majority,
    spread_of_seeds,
)
from promptwise.tasks.problems import PROBLEMS, SINGLE

MISSING = "-"
MEAN = "mean of the tasks"
SIZES = "metric; train / validation / test rows; seeds"
"""Heads the row below the names of the tasks."""
NOT_SIGNIFICANT = "°"
"""After a mean: the difference from the method that it is compared with is not significant."""
NO_BETTER = "†"
"""After a mean: not significantly better than always saying the most frequent class, as nothing from one seed is."""


@dataclass(frozen=True)
class Entry:
    """What stands in a cell.

    Attributes:
        text: The mean with its spread; a dash where there is no result.
        note: Small print: how many runs failed, were cancelled or are missing, and the published figure.
        best: Whether it is the best mean of its column.
        marks: Those of :data:`NOT_SIGNIFICANT` and :data:`NO_BETTER` that hold.
    """

    text: str
    note: str = ""
    best: bool = False
    marks: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table with what is needed to read it.

    Attributes:
        title: Name of the experiment.
        description: What it shows, in a sentence.
        columns: Headings of the columns after the method's.
        sizes: What stands below each heading: of a task its metric, rows and seeds, see :data:`SIZES`; else nothing.
        rows: A method and its entries.
        notes: Sentences below the table.
        comparisons: Rows of the table of differences: task, method, opponent, comparison.
    """

    title: str
    description: str
    columns: tuple[str, ...]
    sizes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...]
    comparisons: tuple[tuple[str, str, str, Comparison], ...]

    @property
    def has_sizes(self) -> bool:
        """Whether any task has a result, from which its sizes are known."""
        return any(self.sizes)


def make_table(results: Results) -> ReportTable:
    """The table of an experiment's results, with a paper's published figures marked as such."""
    means, spreads = _means(results), {task: spread_of_seeds(results.of_task(task)) for task in results.tasks}
    comparisons = _comparisons(results, means, spreads)
    first: dict[tuple[str, str], Comparison] = {}
    for task, method, _, comparison in comparisons:
        first.setdefault((task, method), comparison)
    majority = [Entry(_majority(results, task)) for task in results.tasks]
    between = [Entry(_mean_majority(results))] if means else []
    rows = [("majority class", (*majority, *between, Entry("0"), Entry(""), Entry("")))] if results.tasks else []
    for method in results.methods:
        entries = [_entry(results, task, method, first.get((task, method)), spreads[task]) for task in results.tasks]
        cells = [results.cells[task, method] for task in results.tasks if (task, method) in results.cells]
        if means:
            entries.append(_mean_entry(results, means, method, first.get((MEAN, method))))
        rows.append((method, (*entries, Entry(_tuned(cells)), Entry(_rates(cells)), Entry(_time(cells)))))
    after = [*([MEAN] if means else []), "tuned parameters", "learning rate", "training time"]
    return ReportTable(
        title=results.name,
        description=results.description,
        columns=(*results.tasks, *after),
        sizes=(*(_sizes(results, task) for task in results.tasks), *("" for _ in after)),
        rows=tuple(rows),
        notes=_notes(results),
        comparisons=tuple(comparisons),
    )


def _comparisons(
    results: Results, means: dict[str, float], spreads: dict[str, Spread]
) -> list[tuple[str, str, str, Comparison]]:
    """Task, method, opponent and comparison: by task, and then on the mean of the tasks."""
    found = []
    for (task, method), cell in results.cells.items():
        for opponent in cell.against:
            other = results.cells.get((task, opponent))
            comparison = None if other is None else compare_cells(cell, other, spreads[task])
            if comparison is not None:
                found.append((task, method, opponent, comparison))
    for method in means:
        for opponent in _opponents(results, method):
            if opponent not in means:
                continue
            mean = compare_means(
                [(results.cells[task, method], results.cells[task, opponent], spreads[task]) for task in results.tasks]
            )
            if mean is not None:
                found.append((MEAN, method, opponent, mean))
    return found


def _opponents(results: Results, method: str) -> tuple[str, ...]:
    """The methods that a method is compared with, the same on all tasks."""
    return next((cell.against for cell in results.cells.values() if cell.method == method), ())


def _means(results: Results) -> dict[str, float]:
    """The mean of each method over tasks; empty where there is one task alone, or where metrics differ."""
    if len(results.tasks) < 2 or len({results.metric(task).name for task in results.tasks}) > 1:
        return {}
    found = {}
    for method in results.methods:
        cells = [results.cells.get((task, method)) for task in results.tasks]
        scores = [cell.mean for cell in cells if cell is not None and cell.mean is not None]
        if len(scores) == len(results.tasks):
            found[method] = statistics.mean(scores)
    return found


def _mean_majority(results: Results) -> str:
    """The mean of the majority classes over tasks."""
    found = [value for value in map(results.majority, results.tasks) if value is not None]
    metric = results.metric(results.tasks[0])
    return metric.text(statistics.mean(found)) if len(found) == len(results.tasks) else MISSING


def _mean_entry(results: Results, means: dict[str, float], method: str, comparison: Comparison | None) -> Entry:
    if method not in means:
        return Entry(MISSING)
    metric = results.metric(results.tasks[0])
    text, best = metric.text(means[method]), metric.text(max(means.values(), key=metric.merit))
    return Entry(text, best=text == best, marks=_mark(_opponents(results, method), comparison))


def _mark(opponents: tuple[str, ...], comparison: Comparison | None) -> str:
    """The mark of a mean whose difference from its opponent's is not significant, or cannot be tested yet."""
    return NOT_SIGNIFICANT if opponents and not (comparison is not None and comparison.significant) else ""


def _entry(results: Results, task: str, method: str, comparison: Comparison | None, spread: Spread) -> Entry:
    cell, published = results.cells.get((task, method)), results.published.get(method, {}).get(task)
    notes = []
    if cell is not None and cell.gaps:
        notes.append(cell.gaps)
    if published is not None:
        notes.append(f"paper {published:g}")
    if cell is None or cell.mean is None:
        return Entry(MISSING, "; ".join(notes))
    metric, majority = results.metric(task), results.majority(task)
    text = metric.text(cell.mean)
    # Means that are printed alike are all the best; none is that a constant answer reaches, see below.
    best = text == metric.text(results.best(task) or 0.0)
    if cell.deviation is not None:
        text += f" ± {metric.text(cell.deviation)}"
    if len(cell.scores) == 1:
        notes.insert(0, "1 seed")
    marks = _mark(cell.against, comparison)
    chance = compare_with_majority(cell, spread)
    better = chance is not None and chance.p < LEVEL and chance.difference > 0
    if chance is not None:
        best = best and better
    elif majority is not None:
        best = best and metric.merit(cell.mean) > metric.merit(majority)
    # However many examples speak for a single seed, nobody knows the next one.
    if chance is None or not (better and chance.significant):
        marks += NO_BETTER
    return Entry(text, "; ".join(notes), best, marks)


def _sizes(results: Results, task: str) -> str:
    """The metric, the rows of each split and the seeds of a task; empty where it has no result yet."""
    record = results.any_record(task)
    if record is None:
        return ""
    rows = record.metrics["data"]["rows"]
    counts = " / ".join(f"{rows[split]:,}" for split in ("train", "validation", "test"))
    return f"{results.metric(task).name}; {counts}; {results.seeds(task)}"


def _majority(results: Results, task: str) -> str:
    majority = results.majority(task)
    return MISSING if majority is None else results.metric(task).text(majority)


def _tuned(cells: list[ResultCell]) -> str:
    """The tuned parameters over tasks, a range where they differ, and their share of the backbone."""
    found = [record.metrics["parameters"] for cell in cells for record in cell.finished]
    if not found:
        return MISSING
    numbers = [parameters["tuned"] for parameters in found]
    percents = [100 * parameters["share"] for parameters in found]
    text, share = _range(numbers, "{:,}"), _range(percents, "{:.2f}")
    return f"{text} ({share}%)"


def _range(values: list[Any], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _time(cells: list[ResultCell]) -> str:
    """The mean time of training; a resumed run knows the time since then alone, so it takes no part."""
    times = [record.metrics["time"] for cell in cells for record in cell.finished]
    seconds = [time["train_s"] for time in times if not time.get("resumed")]
    return f"{statistics.mean(seconds):.0f} s" if seconds else MISSING


def _rates(cells: list[ResultCell]) -> str:
    """The learning rates of the runs, and which others could not be tried."""
    found = sorted({record.lr for cell in cells for record in cell.finished if record.lr is not None})
    failed = sorted({rate for cell in cells for rate in cell.failed_rates})
    text = ", ".join(f"{rate:g}" for rate in found) or MISSING
    return text + (f" (failed: {', '.join(f'{rate:g}' for rate in failed)})" if failed else "")


def _notes(results: Results) -> tuple[str, ...]:
    if not results.cells:
        return ()
    cells = list(results.cells.values())
    metrics = {results.metric(task).name: results.metric(task) for task in results.tasks}
    in_units = [name for name, metric in metrics.items() if metric.in_units]
    units = f" ({', '.join(in_units)} in the units of the labels)" if in_units else ""
    notes = [
        f"Percent on the test split{units}, mean ± standard deviation over {results.seeds()}; the checkpoint of each "
        "run was chosen on validation data. The best means of a column are in bold, but for those that are not "
        "significantly above the majority class. Tests are two-sided paired bootstraps over examples with the spread "
        "of seeds; p below 0.05 counts as significant, whatever the number of tests."
    ]
    if any(cell.against for cell in cells):
        notes.append(
            f"{NOT_SIGNIFICANT} the difference from the method that it is compared with is not significant, or could "
            "not be tested; from one seed none is."
        )
    kinds = sorted({record.metrics.get("problem", "") for cell in cells for record in cell.finished} - {""})
    if kinds:
        notes.append(
            f"{', '.join(kinds)}: the row of the majority class has the best constant answer, learnt from train, and "
            f"tests are of a score of each row: {'; '.join(f'{PROBLEMS[kind].row_score}' for kind in kinds)}."
        )
    single = [task for task in results.tasks if results.problem(task) == SINGLE]
    others = sorted({results.metric(task).name for task in single} - {"accuracy"})
    if others:
        notes.append(f"Where the table has {' or '.join(others)}, tests are of accuracy.")
    notes.append(
        f"{NO_BETTER} not significantly better than always saying the most frequent class of the test split, or could "
        "not be tested; from one seed none is."
    )
    if results.published:
        notes.append("paper: the published figure, of the paper's model on all training data; theirs and not ours.")
    backbones = sorted({record.metrics["backbone"]["name"] for cell in cells for record in cell.finished})
    if backbones:
        notes.append(f"Backbone: {', '.join(backbones)}. {_settings(cells)}")
    notes += [
        f"Failed: {cell.task}, {cell.method}, seed {record.seed}: {record.error.strip().splitlines()[-1]}"
        for cell in cells
        for record in cell.records.values()
        if record.status == "failed"
    ]
    return tuple(notes)


def _settings(cells: list[ResultCell]) -> str:
    """The settings that bear on every method, with all values that they have."""
    found = []
    for name in ("length", "epochs", "batch_size", "max_length"):
        values = {record.metrics["config"].get(name) for cell in cells for record in cell.finished} - {None}
        if values:
            found.append(f"{name.replace('_', ' ')} {_range(sorted(values), '{:g}')}")
    return f"Settings: {', '.join(found)}." if found else ""
