"""What an experiment still has to do, given the records that there are."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from promptwise.backbones.hub import model_digest
from promptwise.config import TrainConfig
from promptwise.config.usual_training import WIDTH, with_usual
from promptwise.experiments.pretrained import USED_BY, Pretraining, digest_of
from promptwise.experiments.record import Record, run_id
from promptwise.experiments.run import Run
from promptwise.experiments.spec import Cell, Experiment, chosen_settings
from promptwise.runs.cache import InputCache, data_settings, told_to_model
from promptwise.tasks.metrics import get_metric

Kind = Literal["finished", "failed", "cancelled", "missing"]

_ALIKE = ("task", "data_dir", "base", "strategy", "head")
"""The settings that say most about how long a run takes, the first two before the others."""


@dataclass(frozen=True)
class Planned:
    """A run that is wanted.

    Attributes:
        cell: Its place in the table.
        seed: Its seed.
        lr: Its learning rate; ``None`` for the method's own.
        purpose: ``result`` or ``search``.
    """

    cell: Cell
    seed: int
    lr: float | None
    purpose: Literal["result", "search"]


class Plan:
    """The runs of an experiment in the order that they are done in, and their records.

    First seeds come first, so that a stopped experiment says something about every cell. Among the runs of a seed those
    on the same backbone follow each other, as a worker keeps only the last one that it loaded. A cell's results wait
    for its search of the learning rate.

    Args:
        experiment: What is wanted.
        records: What there is, by id.
        retry_failed: Do failed runs again.
    """

    def __init__(self, experiment: Experiment, records: dict[str, Record], retry_failed: bool = False) -> None:
        self.experiment, self.records, self.retry_failed = experiment, records, retry_failed
        self._tried: set[str] = set()
        self._fingerprints: dict[str, str] = {}
        self._runs: dict[tuple[object, ...], Run] = {}
        self._model = cache(model_digest)
        self._width = cache(_width)
        self._estimates: dict[tuple[object, ...], float | None] = {}
        self._inputs = InputCache()
        self._ordered = by_backbone(experiment.cells)

    def planned(self) -> Iterator[Planned]:
        """Every run that is wanted and can be named yet: results of a cell appear when its rate is known."""
        chosen = self.experiment.search_tasks
        searches = [
            Planned(cell, seed, rate, "search")
            for seed in self.experiment.search_seeds
            for cell in self._ordered
            for rate in cell.rates
            if not chosen or cell.task in chosen
        ]
        yield from searches
        chosen_rates = [(cell, self.best_rate(cell)) for cell in self._ordered]
        ready = [(cell, rate) for cell, rate in chosen_rates if not cell.rates or rate is not None]
        for place in range(max((len(cell.seeds) for cell, _ in ready), default=0)):
            for cell, rate in ready:
                if place < len(cell.seeds):
                    yield Planned(cell, cell.seeds[place], rate, "result")

    def best_rate(self, cell: Cell) -> float | None:
        """The learning rate with the best mean validation score; ``None`` until all of a cell's search is done.

        The mean is over the search's seeds, and over its tasks where it names some. Of equal ones the lowest is taken.
        A rate whose runs failed takes no part, so there is none either where every rate failed.
        """
        means: dict[float, float] = {}
        for rate, runs in self._search(cell).items():
            records = [self.record(planned) for planned in runs]
            if any(record is None or record.status == "cancelled" for record in records):
                return None
            scores = [_merit(record.metrics["validation"]) for record in records if record and record.metrics]
            if len(scores) == len(records):
                means[rate] = statistics.mean(scores)
        return max(means, key=lambda rate: means[rate]) if means else None

    def without_rate(self) -> list[Cell]:
        """The cells that get no results because the search is over and every learning rate of it failed."""
        return [cell for cell in self.experiment.cells if self._search_failed(cell)]

    def _search_failed(self, cell: Cell) -> bool:
        """Whether a cell has no learning rate and no run of its search is left that could bring one."""
        if not cell.rates or self.best_rate(cell) is not None:
            return False
        return not any(self._is_to_do(self.run(planned)) for runs in self._search(cell).values() for planned in runs)

    def failed_rates(self, cell: Cell) -> list[float]:
        """The rates that take no part because a run failed."""
        return [
            rate for rate, runs in self._search(cell).items() if any(self.kind(planned) == "failed" for planned in runs)
        ]

    def _search(self, cell: Cell) -> dict[float, list[Planned]]:
        """The runs of the search that decides for a cell, by rate, the lowest rate first."""
        tasks = self.experiment.search_tasks
        searched = [
            candidate
            for candidate in self.experiment.cells
            if candidate.label == cell.label and candidate.task in tasks
        ]
        return {
            rate: [
                Planned(searched_cell, seed, rate, "search")
                for searched_cell in searched or [cell]
                for seed in self.experiment.search_seeds
            ]
            for rate in sorted(cell.rates)
        }

    def record(self, planned: Planned) -> Record | None:
        """The record of a run, if there is one."""
        return self.records.get(self.run(planned).id)

    def kind(self, planned: Planned) -> Kind:
        """Whether a run finished, failed, was cancelled or has no record yet."""
        record = self.record(planned)
        return "missing" if record is None else record.status

    def run(self, planned: Planned) -> Run:
        """A planned run with its id."""
        cell = planned.cell
        key = (cell.task, cell.label, planned.seed, planned.lr, planned.purpose)
        if key not in self._runs:
            self._runs[key] = self._made(planned)
        return self._runs[key]

    def _made(self, planned: Planned) -> Run:
        config = planned.cell.config(planned.seed, planned.lr)
        # What is usual is written out, so that a later default does not change which run this id means.
        # The width decides no rate that is given, and costs a look at the model.
        width = self._width(config.model) if config.lr is None else WIDTH
        config = with_usual(config, config, len(self._inputs.data(config).train), width)
        starts = {
            setting: self.experiment.pretrained[config.get(setting)]
            for setting in USED_BY.values()
            if config.get(setting) in self.experiment.pretrained
        }
        chosen = {**planned.cell.unused_values, **chosen_settings(config)}
        content = {**chosen, **{setting: entry.id for setting, entry in starts.items()}}
        for setting in USED_BY.values():
            folder = config.get(setting)
            if folder is not None and setting not in starts:
                content[setting] = digest_of(setting, folder)
        if "model" in content:
            content["model"] = self._model(config.model)
        keep = self.experiment.keep_adapters and planned.purpose == "result"
        if keep:
            # A record of the same run without its adapter is not enough, so this run has an id of its own.
            content["keep_adapter"] = True
        return Run(
            id=run_id({**content, "purpose": planned.purpose}, self._fingerprint(config)),
            experiment=self.experiment.name,
            task=planned.cell.task,
            method=planned.cell.label,
            purpose=planned.purpose,
            config=config,
            starts={setting: entry.folder for setting, entry in starts.items()},
            keep_adapter=keep,
        )

    def next_run(self, running: Sequence[Run]) -> Run | None:
        """The next run to start; ``None`` when there is none for now."""
        busy = {run.id for run in running}
        for planned in self.planned():
            run = self.run(planned)
            if run.id not in busy and self._is_to_do(run):
                return run
        return None

    def starting_from(self, entry: Pretraining) -> list[Run]:
        """The runs that are still to do, and can be named yet, that start from what is pre-trained first."""
        runs = (self.run(planned) for planned in self.planned())
        return [run for run in runs if entry.folder in run.starts.values() and self._is_open(run.id)]

    def add(self, record: Record) -> None:
        """Take the record of a run that ended."""
        self._estimates.clear()
        self.records[record.id] = record
        self._tried.add(record.id)

    def remaining(self) -> list[TrainConfig]:
        """Configurations of all runs that are still to do, those that wait for a search included."""
        return [run.config for run in map(self.run, self.every()) if self._is_to_do(run)]

    def layout(self) -> dict[str, Any]:
        """What a report needs besides the records: which cells there are, in which order, and the ids of their runs.

        The runs of a cell are named once its learning rate is known.
        """
        runs: dict[Cell, dict[str, str]] = {}
        for planned in self.planned():
            if planned.purpose == "result":
                runs.setdefault(planned.cell, {})[str(planned.seed)] = self.run(planned).id
        experiment = self.experiment
        return {
            "name": experiment.name,
            "description": experiment.description,
            "cells": [
                {
                    "task": cell.task,
                    "method": cell.label,
                    "seeds": list(cell.seeds),
                    "runs": runs.get(cell, {}),
                    "against": list(cell.opponents),
                    "failed_rates": self.failed_rates(cell),
                    "entry": cell.method,
                    "grid": dict(cell.grid),
                    "settings": dict(cell.settings),
                }
                for cell in experiment.cells
            ],
            "figure": dict(experiment.figure),
            "published": dict(experiment.published),
            "pretrained": {name: entry.folder for name, entry in experiment.pretrained.items()},
        }

    def pretraining(self) -> list[Pretraining]:
        """What the runs that are still to do start from, and what the figure shows."""
        configs = self.remaining()
        used = {config.get(setting) for config in configs for setting in USED_BY.values()}
        used.add(self.experiment.figure.get("knowledge"))
        return [entry for name, entry in self.experiment.pretrained.items() if name in used]

    def counts(self) -> dict[Kind, int]:
        """How many runs finished, failed, were cancelled and are missing."""
        kinds = [self.kind(planned) for planned in self.every()]
        return {kind: kinds.count(kind) for kind in ("finished", "failed", "cancelled", "missing")}

    def estimate(self, config: TrainConfig) -> float | None:
        """Seconds that a run will take: the mean of finished runs that are alike; ``None`` before there is any."""
        key = tuple(getattr(config, name) for name in _ALIKE)
        if key not in self._estimates:
            self._estimates[key] = self._mean_time(config)
        return self._estimates[key]

    def _mean_time(self, config: TrainConfig) -> float | None:
        finished = [record for record in self.records.values() if record.status == "finished"]
        # The time of a resumed run leaves out what was done before it was stopped.
        finished = [record for record in finished if not record.metrics["time"]["resumed"]] or finished
        for names in (_ALIKE, _ALIKE[:2], ()):
            alike: list[float] = [
                record.metrics["time"]["total_s"]
                for record in finished
                if all(record.settings.get(name) == getattr(config, name) for name in names)
            ]
            if alike:
                return statistics.mean(alike)
        return None

    def every(self) -> Iterator[Planned]:
        """Every run that can still have a result: a rate that is not known yet is written as the search's first.

        The results of a cell whose search ended without a rate are left out: there is nothing to run them with.
        """
        yield from self.planned()
        for cell in self.experiment.cells:
            if cell.rates and self.best_rate(cell) is None and not self._search_failed(cell):
                for seed in cell.seeds:
                    yield Planned(cell, seed, cell.rates[0], "result")

    def _is_to_do(self, run: Run) -> bool:
        """Whether a run is open and was not done by this plan already."""
        return run.id not in self._tried and self._is_open(run.id)

    def _is_open(self, run: str) -> bool:
        """Whether the record of a run, if it has one, lets it be done (again)."""
        record = self.records.get(run)
        if record is None or record.status == "cancelled":
            return True
        return record.status == "failed" and self.retry_failed

    def _fingerprint(self, config: TrainConfig) -> str:
        """The fingerprint of a configuration's data and of what its task says to a model; read once."""
        key = repr(data_settings(config))
        if key not in self._fingerprints:
            data = self._inputs.data(config)
            self._fingerprints[key] = f"{data.fingerprint} {told_to_model(data.spec)}"
        return self._fingerprints[key]


def by_backbone(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Cells in the same order, but that those whose runs load the same backbone follow the first of them."""
    together: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        together.setdefault(_backbone_of(cell), []).append(cell)
    return tuple(itertools.chain.from_iterable(together.values()))


def _backbone_of(cell: Cell) -> tuple[object, ...]:
    """What decides which backbone the runs of a cell load, and whether they can share it."""
    config = cell.config(cell.seeds[0], cell.rates[0] if cell.rates else None)
    return config.model, config.head, config.dtype, config.tune_backbone, config.tune


def _merit(scores: dict[str, float]) -> float:
    """The first metric of a task, which is the one that decides, so that more is better."""
    name, value = next(iter(scores.items()))
    return get_metric(name).merit(value)


def _width(model: str) -> int:
    """``H`` of a model by its configuration; that of the usual rates where it is not at hand, as no run would be."""
    # Imported late, as it imports transformers.
    from promptwise.backbones.loading import width_of

    return width_of(model) or WIDTH
