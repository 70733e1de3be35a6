"""The table of an experiment, free of any output format."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from promptwise.reports.results import ResultCell, Results
from promptwise.reports.significance import Comparison, compare_cells, compare_means, compare_with_majority

MISSING = "-"
MEAN = "mean of the tasks"
NOT_SIGNIFICANT = "°"
"""After a mean: the difference from the method that it is compared with is not significant."""
NO_BETTER = "†"
"""After a mean: not significantly better than always saying the most frequent class."""


@dataclass(frozen=True)
class Entry:
    """What stands in a cell.

    Attributes:
        text: The mean with its spread, or how the runs stand where there is no result.
        note: Small print: gaps, and the published figure.
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
        title: Name and description of the experiment.
        columns: Headings of the columns after the method's.
        rows: A method and its entries.
        notes: Sentences below the table.
        comparisons: Rows of the table of differences: task, method, opponent, comparison.
    """

    title: str
    description: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...]
    comparisons: tuple[tuple[str, str, str, Comparison], ...]


def make_table(results: Results) -> ReportTable:
    """The table of an experiment's results, with a paper's figures beside ours, marked as theirs."""
    published = results.published
    means = _means(results)
    comparisons = _comparisons(results, means)
    best = {task: results.best(task) for task in results.tasks}
    majority = [Entry(_majority(results, task)) for task in results.tasks]
    between = [Entry(_mean_majority(results))] if means else []
    rows = [("majority class", (*majority, *between, Entry("0"), Entry("")))] if results.tasks else []
    for method in results.methods:
        entries = []
        for task in results.tasks:
            cell = results.cells.get((task, method))
            theirs = published.get(method, {}).get(task)
            comparison = comparisons.get((task, method))
            entries.append(_entry(cell, best[task], theirs, comparison))
        cells = [results.cells[task, method] for task in results.tasks if (task, method) in results.cells]
        if means:
            entries.append(_mean_entry(means, method, comparisons.get((MEAN, method))))
        rows.append((method, (*entries, Entry(_tuned(cells)), Entry(_time(cells)))))
    return ReportTable(
        title=results.name,
        description=results.description,
        columns=(
            *(_heading(results, task) for task in results.tasks),
            *([MEAN] if means else []),
            "tuned parameters",
            "time of a run",
        ),
        rows=tuple(rows),
        notes=_notes(results, bool(published), bool(comparisons)),
        comparisons=tuple(
            (task, method, _opponent(results, method), comparison) for (task, method), comparison in comparisons.items()
        ),
    )


def _comparisons(results: Results, means: dict[str, float]) -> dict[tuple[str, str], Comparison]:
    found = {}
    for (task, method), cell in results.cells.items():
        other = results.cells.get((task, cell.against or ""))
        comparison = None if other is None else compare_cells(cell, other)
        if comparison is not None:
            found[task, method] = comparison
    for method in means:
        opponent = _opponent(results, method)
        if opponent in means:
            mean = compare_means(
                [(results.cells[task, method], results.cells[task, opponent]) for task in results.tasks]
            )
            if mean is not None:
                found[MEAN, method] = mean
    return found


def _opponent(results: Results, method: str) -> str:
    """The method that a method is compared with, the same on all tasks; empty where there is none."""
    return next((cell.against or "" for cell in results.cells.values() if cell.method == method), "")


def _means(results: Results) -> dict[str, float]:
    """The mean of each method over tasks; empty where there is one task alone, or where metrics differ."""
    if len(results.tasks) < 2 or len({results.metric(task) for task in results.tasks}) > 1:
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
    return f"{100 * statistics.mean(found):.1f}" if len(found) == len(results.tasks) else MISSING


def _mean_entry(means: dict[str, float], method: str, comparison: Comparison | None) -> Entry:
    if method not in means:
        return Entry(MISSING)
    marks = NOT_SIGNIFICANT if comparison is not None and not comparison.significant else ""
    return Entry(f"{100 * means[method]:.1f}", best=means[method] == max(means.values()), marks=marks)


def _entry(
    cell: ResultCell | None, best: ResultCell | None, theirs: float | None, comparison: Comparison | None
) -> Entry:
    notes = []
    if cell is not None and cell.gaps:
        notes.append(cell.gaps)
    if theirs is not None:
        notes.append(f"paper {theirs:g}")
    if cell is None or cell.mean is None:
        return Entry(MISSING, "; ".join(notes))
    text = f"{100 * cell.mean:.1f}"
    if cell.deviation is not None:
        text += f" ± {100 * cell.deviation:.1f}"
    if len(cell.scores) == 1:
        notes.insert(0, "1 seed")
    marks = NOT_SIGNIFICANT if comparison is not None and not comparison.significant else ""
    chance = compare_with_majority(cell)
    if chance is not None and not (chance.significant and chance.difference > 0):
        marks += NO_BETTER
    return Entry(text, "; ".join(notes), cell is best, marks)


def _heading(results: Results, task: str) -> str:
    record = results.any_record(task)
    if record is None:
        return task
    rows = record.metrics["data"]["rows"]
    metric = next(iter(record.metrics["test"]))
    return f"{task} ({metric}; train {rows['train']:,}, validation {rows['validation']:,}, test {rows['test']:,})"


def _majority(results: Results, task: str) -> str:
    record = results.any_record(task)
    return MISSING if record is None else f"{100 * record.metrics['majority']:.1f}"


def _tuned(cells: list[ResultCell]) -> str:
    """The tuned parameters over tasks, a range where they differ, and their share of the backbone."""
    found = [record.metrics["parameters"] for cell in cells for record in cell.finished]
    if not found:
        return MISSING
    numbers, shares = [one["tuned"] for one in found], [one["share"] for one in found]
    text, share = _range(numbers, "{:,}"), _range([100 * one for one in shares], "{:.2f}")
    return f"{text} ({share}%)"


def _range(values: list[Any], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _time(cells: list[ResultCell]) -> str:
    seconds = [record.metrics["time"]["train_s"] for cell in cells for record in cell.finished]
    return f"{statistics.mean(seconds):.0f} s" if seconds else MISSING


def _notes(results: Results, published: bool, compared: bool) -> tuple[str, ...]:
    if not results.cells:
        return ()
    seeds = sorted({len(cell.seeds) for cell in results.cells.values()})
    many = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    notes = [
        f"Percent on the test split, mean ± standard deviation over {many} seeds; the checkpoint of each run was "
        "chosen on validation data. The best mean of a column is set in bold. Tests are paired bootstraps over seeds "
        "and examples, two-sided, and call p below 0.05 significant."
    ]
    if compared:
        notes.append(f"{NOT_SIGNIFICANT} the difference from the method that it is compared with is not significant.")
    notes.append(f"{NO_BETTER} not significantly better than always saying the most frequent class of the test split.")
    if published:
        notes.append("paper: the published figure, theirs and not ours.")
    backbones = sorted(
        {record.metrics["backbone"]["name"] for cell in results.cells.values() for record in cell.finished}
    )
    if backbones:
        notes.append(f"Backbone: {', '.join(backbones)}.")
    return tuple(notes)
