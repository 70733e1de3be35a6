"""The records of an experiment as a table of cells: a task, a method, and what its seeds gave."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptwise.errors import OutputError
from promptwise.experiments.folder import LAYOUT, RECORDS
from promptwise.experiments.read import names_in
from promptwise.experiments.record import Record, read_records
from promptwise.tasks.metrics import Metric, get_metric
from promptwise.tasks.problems import SINGLE


@dataclass(frozen=True)
class ResultCell:
    """What the seeds of a method gave on a task.

    Attributes:
        task: The task's entry.
        method: The method with the grid's choice.
        seeds: Seeds that were planned.
        against: The methods that it is compared with; the marks in the table are for the first.
        failed_rates: Learning rates whose runs failed, which the choice of a rate leaves out.
        records: Records by seed; a planned seed without one is missing.
        entry: The method without the grid's choice.
        grid: The grid's choice.
        settings: The settings of its runs but seed and learning rate.
    """

    task: str
    method: str
    seeds: tuple[int, ...]
    against: tuple[str, ...]
    records: Mapping[int, Record]
    entry: str
    grid: Mapping[str, Any]
    settings: Mapping[str, Any]
    failed_rates: tuple[float, ...] = ()

    @property
    def finished(self) -> list[Record]:
        """The records of finished runs, in the order of the seeds."""
        records = [self.records.get(seed) for seed in self.seeds]
        return [record for record in records if record is not None and record.status == "finished"]

    @property
    def scores(self) -> list[float]:
        """The first metric on the test split, by seed."""
        return [float(next(iter(record.metrics["test"].values()))) for record in self.finished]

    @property
    def mean(self) -> float | None:
        """The mean of the scores; ``None`` without any."""
        return statistics.mean(self.scores) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the scores over seeds; ``None`` below two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def gaps(self) -> str:
        """How many planned runs failed, were cancelled or are missing; empty where each has a result."""
        kinds = [self.records[seed].status if seed in self.records else "missing" for seed in self.seeds]
        counted = [(kinds.count(kind), kind) for kind in ("failed", "cancelled", "missing")]
        return ", ".join(f"{count} {kind}" for count, kind in counted if count)


@dataclass(frozen=True)
class Results:
    """An experiment with its cells.

    Attributes:
        name: Its name.
        description: One line.
        tasks: In the order of its file.
        methods: In the order of its file.
        cells: By task and method.
        figure: What figure its file asks for.
        published: A paper's figures in percent, by method and task.
        pretrained: Folders of what its runs started from, by name.
    """

    name: str
    description: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, str], ResultCell]
    figure: Mapping[str, Any]
    published: Mapping[str, Mapping[str, float]]
    pretrained: Mapping[str, str]

    def of_task(self, task: str) -> list[ResultCell]:
        """The cells of a task."""
        return [self.cells[task, method] for method in self.methods if (task, method) in self.cells]

    def best(self, task: str) -> float | None:
        """The best mean of a task."""
        means = (cell.mean for cell in self.of_task(task) if cell.mean is not None)
        return max(means, key=self.metric(task).merit, default=None)

    def any_record(self, task: str) -> Record | None:
        """A finished record of a task."""
        return next((record for cell in self.of_task(task) for record in cell.finished), None)

    def metric(self, task: str) -> Metric:
        """A task's first metric; accuracy while it has no result to tell it from."""
        record = self.any_record(task)
        return get_metric("accuracy" if record is None else next(iter(record.metrics["test"])))

    def problem(self, task: str) -> str:
        """The kind of problem that a task is."""
        record = self.any_record(task)
        return SINGLE if record is None else record.metrics.get("problem") or SINGLE

    def seeds(self, task: str | None = None) -> str:
        """How many seeds the means of a task, or of all, are over, such as ``"2 to 5 seeds"``."""
        cells = self.cells.values() if task is None else self.of_task(task)
        counts = sorted({len(cell.scores) for cell in cells if cell.scores}) or [0]
        if len(counts) > 1:
            return f"{counts[0]} to {counts[-1]} seeds"
        return f"{counts[0]} seed{'s' * (counts[0] != 1)}"

    def majority(self, task: str) -> float | None:
        """The first metric of always saying the most frequent class of a task, or of the best constant answer."""
        record = self.any_record(task)
        return None if record is None else float(record.metrics["majority"])


def read_results(folder: Path) -> Results:
    """Read the folder of an experiment.

    Raises:
        OutputError: It holds no experiment, or a file was altered.
    """
    file = folder / LAYOUT
    if not file.is_file():
        raise OutputError(f"{folder} holds no experiment: {LAYOUT} is missing. Name the --out of `promptwise compare`.")
    try:
        layout = json.loads(file.read_text(encoding="utf-8"))
        cells = layout["cells"]
        return Results(
            name=layout["name"],
            description=layout["description"],
            tasks=tuple(dict.fromkeys(cell["task"] for cell in cells)),
            methods=tuple(dict.fromkeys(cell["method"] for cell in cells)),
            cells=_cells(cells, read_records(folder / RECORDS)),
            figure=layout["figure"],
            published=layout["published"],
            pretrained=layout["pretrained"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file} cannot be read ({error}). Run `promptwise compare` on the folder again.") from error


def _cells(layout: Sequence[Mapping[str, Any]], records: Mapping[str, Record]) -> dict[tuple[str, str], ResultCell]:
    """The cells with the records of their own runs; a folder may hold records of other settings too."""
    return {
        (cell["task"], cell["method"]): ResultCell(
            task=cell["task"],
            method=cell["method"],
            seeds=tuple(cell["seeds"]),
            against=names_in(cell["against"]),
            records={int(seed): records[run] for seed, run in cell["runs"].items() if run in records},
            entry=cell["entry"],
            grid=cell["grid"],
            settings=cell["settings"],
            failed_rates=tuple(cell.get("failed_rates", ())),
        )
        for cell in layout
    }
