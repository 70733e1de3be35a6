"""An experiment as data: methods x tasks x settings x seeds, with a search of the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from promptwise.config import TrainConfig
from promptwise.config.composition import config_from_mapping, known_settings, off_default, values_of
from promptwise.experiments.pretrained import Pretraining
from promptwise.files import NO_STATES

FIRST_DEFAULTS = {"strategy": "encoder", "base": "prefix", "epochs": 5.0}
"""The defaults, of those that were changed since, by which runs are named."""


@dataclass(frozen=True)
class Cell:
    """One place of the table: a method on a task under one choice of the grid.

    Attributes:
        task: Name of the task's entry.
        method: Name of the method's entry.
        grid: The grid's settings, in its order.
        settings: All settings of a run but seed, learning rate and folder.
        unused: Those of them that are said for all methods, and change nothing beside this one.
        seeds: Seeds of the runs that are reported.
        rates: Learning rates to choose from; empty where there is nothing to search.
        space: What a study of this cell searches for, as ``--space`` is written; empty where there is none, or where it
            ended and its settings are those of the cell.
        search_trials: The trials of that study.
        search_seed: Its seed, and that of its trials.
        against: The methods that a report compares it with; the marks in the table are for the first.
    """

    task: str
    method: str
    grid: tuple[tuple[str, Any], ...]
    settings: Mapping[str, Any] = field(hash=False)
    unused: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    space: tuple[str, ...] = ()
    search_trials: int = 0
    search_seed: int = 0
    against: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The method with the grid's choice, as tables name it."""
        return self._named(self.method)

    @property
    def opponents(self) -> tuple[str, ...]:
        """The labels of the cells that a report compares it with: other methods under the same choice of the grid."""
        return tuple(map(self._named, self.against))

    def _named(self, method: str) -> str:
        return ", ".join([method, *(f"{key} {value}" for key, value in self.grid)])

    @property
    def unused_values(self) -> dict[str, Any]:
        """The unused settings, by which a run's id has always been made too: its record stays valid."""
        known = known_settings(TrainConfig)
        return {name: known[name].value(self.settings[name]) for name in self.unused}

    def config(self, seed: int, lr: float | None) -> TrainConfig:
        """The configuration of a run of this cell.

        Raises:
            ConfigError: A setting cannot work.
        """
        values = {name: value for name, value in self.settings.items() if name not in self.unused}
        values["seed"] = seed
        if lr is not None:
            values["lr"] = lr
        return config_from_mapping(TrainConfig, values, f"{self.task}, {self.label}")


@dataclass(frozen=True)
class Experiment:
    """A grid of cells.

    Attributes:
        name: Names the folder and the report.
        description: One line for the report.
        cells: In the order of the file: tasks, then methods, then the grid.
        search_seeds: Seeds of the runs that choose a learning rate.
        search_tasks: Tasks that choose it for all; each task for itself where there are none.
        keep_adapters: Whether the trained adapters are kept beside the records.
        pretrained: What runs start from, by name.
        figure: What figure a report has.
        published: A paper's figures in percent, by method and task.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    search_seeds: tuple[int, ...] = (0,)
    search_tasks: tuple[str, ...] = ()
    keep_adapters: bool = False
    pretrained: Mapping[str, Pretraining] = field(default_factory=dict, hash=False)
    figure: Mapping[str, Any] = field(default_factory=dict, hash=False)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What a run's result depends on: everything but where it and its states are written, and its threads.

    Whether states are kept at all does matter, as those that are kept are rounded.
    """
    apart = {"out", "threads", "states_cache", "stream", "stream_cache"}
    if config.states_cache == NO_STATES:
        apart.remove("states_cache")
    return {key: value for key, value in values_of(config).items() if value is not None and key not in apart}


def chosen_settings(config: TrainConfig) -> dict[str, Any]:
    """Those of them that are not at their default, without the places of the data: what tells runs on one data apart.

    So a setting that is new in a later version renames no run that leaves it alone, nor does a default that changed:
    it is compared with what it was when runs were first named.
    """
    settings = settings_of(config)
    chosen = {*off_default(config), *FIRST_DEFAULTS} - {
        key for key, default in FIRST_DEFAULTS.items() if settings.get(key) == default
    }
    return {key: value for key, value in settings.items() if key in chosen and key not in config.data_places}
