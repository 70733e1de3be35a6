"""An experiment as data: methods x tasks x settings x seeds, with a search of the learning rate.

A file looks like this; every setting is one of ``promptwise train``::

    name: heads
    description: The cloze head against the classifier head.
    settings: {model: minilm-cloze, epochs: 5}
    tasks:
      sst2_sentence: {task: sst2, train_rows: 2000}
      cb: {seeds: [0, 1, 2, 3, 4]}
    methods:
      prompt tuning: {base: prompt, strategy: shared}
      random IPT: {base: prompt, strategy: random, against: prompt tuning}
      fine-tuning: {strategy: none, tune_backbone: true, lr_search: [2e-5, 5e-5, 1e-4]}
    grid: {head: [classifier, cloze]}
    seeds: [0, 1, 2]
    lr_search: {values: [3e-3, 1e-2, 3e-2], seeds: [0]}
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from promptwise.config import TrainConfig
from promptwise.errors import ConfigError
from promptwise.settings import config_from_mapping

_KEYS = ("name", "description", "settings", "tasks", "methods", "grid", "seeds", "lr_search", "keep_adapters")
_OWN = {"task": ("seeds",), "method": ("lr_search", "against")}
_RUN_KEYS = ("seed", "out", "lr")


@dataclass(frozen=True)
class Cell:
    """One place of the table: a method on a task under one choice of the grid.

    Attributes:
        task: Name of the task's entry.
        method: Name of the method's entry.
        grid: The grid's settings, in its order.
        settings: All settings of a run but seed, learning rate and folder.
        seeds: Seeds of the runs that are reported.
        rates: Learning rates to choose from; empty where there is nothing to search.
        against: The method that a report compares it with.
    """

    task: str
    method: str
    grid: tuple[tuple[str, Any], ...]
    settings: Mapping[str, Any] = field(hash=False)
    seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    against: str | None = None

    @property
    def label(self) -> str:
        """The method with the grid's choice, as tables name it."""
        return self._named(self.method)

    @property
    def opponent(self) -> str | None:
        """The label of the cell that a report compares it with: another method under the same choice of the grid."""
        return None if self.against is None else self._named(self.against)

    def _named(self, method: str) -> str:
        return ", ".join([method, *(f"{key} {value}" for key, value in self.grid)])

    def config(self, seed: int, lr: float | None) -> TrainConfig:
        """The configuration of a run of this cell.

        Raises:
            ConfigError: A setting cannot work.
        """
        values = {**self.settings, "seed": seed}
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
        keep_adapters: Whether the trained adapters are kept beside the records.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    search_seeds: tuple[int, ...] = (0,)
    keep_adapters: bool = False


def read_experiment(
    file: Path, *, data_root: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Experiment:
    """Read an experiment and check every run of it.

    Args:
        file: YAML.
        data_root: Folder with a folder for each task; a task without one comes from the Hub or the package.
        overrides: Settings that win over those of the file.

    Raises:
        ConfigError: The file is missing or malformed, or a run could not work; names the place.
    """
    if not file.is_file():
        raise ConfigError(f"{file} does not exist.")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    return experiment_from(raw, str(file), data_root=data_root, overrides=overrides or {})


def experiment_from(
    raw: Any, where: str, *, data_root: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Experiment:
    """An experiment from the values of a file; see :func:`read_experiment`."""
    values = _mapping(raw, where)
    _check_keys(values, _KEYS, where)
    for needed in ("name", "tasks", "methods"):
        if not values.get(needed):
            raise ConfigError(f"{where}: {needed} is missing.")
    search = _mapping(values.get("lr_search") or {}, f"{where}: lr_search")
    _check_keys(search, ("values", "seeds"), f"{where}: lr_search")
    common = _settings(values.get("settings") or {}, (), f"{where}: settings")
    grid = _mapping(values.get("grid") or {}, f"{where}: grid")
    for key, choices in grid.items():
        _settings({key: choices}, (), f"{where}: grid")
        _list(choices, f"{where}: grid: {key}")
    seeds = _list(values.get("seeds", [0]), f"{where}: seeds")
    cells = []
    for (task, of_task), (method, of_method) in itertools.product(
        _entries(values["tasks"], "task", where), _entries(values["methods"], "method", where)
    ):
        for choice in itertools.product(*grid.values()):
            chosen = dict(zip(grid, choice, strict=True))
            settings = {**common, **_without(of_task, "task"), **_without(of_method, "method"), **chosen}
            settings = {**_task_settings(task, settings, data_root), **(overrides or {})}
            rates = of_method.get("lr_search", search.get("values", []))
            cells.append(
                Cell(
                    task=task,
                    method=method,
                    grid=tuple(chosen.items()),
                    settings=settings,
                    seeds=tuple(int(seed) for seed in _list(of_task.get("seeds", seeds), f"{where}: {task}: seeds")),
                    against=of_method.get("against"),
                    rates=tuple(float(rate) for rate in _list(rates, f"{where}: {method}: lr_search", empty=True)),
                )
            )
    methods = {cell.method for cell in cells}
    for cell in cells:
        if cell.against is not None and cell.against not in methods:
            raise ConfigError(f"{where}: method {cell.method}: against {cell.against!r} is no method of this file.")
        for rate in cell.rates or (None,):
            cell.config(cell.seeds[0], rate)
    return Experiment(
        name=str(values["name"]),
        description=str(values.get("description", "")),
        cells=tuple(cells),
        search_seeds=tuple(int(seed) for seed in _list(search.get("seeds", [0]), f"{where}: lr_search: seeds")),
        keep_adapters=bool(values.get("keep_adapters", False)),
    )


def layout_of(experiment: Experiment) -> dict[str, Any]:
    """What a report needs to know besides the records: which cells there are, and in which order."""
    return {
        "name": experiment.name,
        "description": experiment.description,
        "cells": [
            {"task": cell.task, "method": cell.label, "seeds": list(cell.seeds), "against": cell.opponent}
            for cell in experiment.cells
        ],
    }


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What a run's result depends on: everything but where it is written and how many threads it has."""
    return {key: value for key, value in asdict(replace(config, out=None, threads=None)).items() if value is not None}


def _entries(raw: Any, kind: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    """The named entries of ``tasks`` or ``methods``; tasks may be a plain list of names."""
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = dict.fromkeys(map(str, raw))
    named = _mapping(raw, f"{where}: {kind}s")
    return [(str(name), _settings(entry or {}, _OWN[kind], f"{where}: {kind} {name}")) for name, entry in named.items()]


def _settings(raw: Any, own: tuple[str, ...], where: str) -> dict[str, Any]:
    """Settings by their names in ``TrainConfig``, with keys of the entry's own."""
    values = {str(key).replace("-", "_"): value for key, value in _mapping(raw, where).items()}
    allowed = [one.name for one in fields(TrainConfig) if one.name not in _RUN_KEYS]
    if "lr" in values:
        allowed.append("lr")
    _check_keys(values, (*allowed, *own), where)
    return values


def _without(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _OWN[kind]}


def _task_settings(task: str, settings: dict[str, Any], data_root: Path | None) -> dict[str, Any]:
    """The settings with the task's name and, where the root has a folder of the entry's name, its data."""
    settings = {"task": task, **settings} if settings.get("data") is None else settings
    if data_root is not None and "data_dir" not in settings and (data_root / task).is_dir():
        settings["data_dir"] = str(data_root / task)
    return settings


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key {key!r}.{hint}")


def _mapping(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must map names to values, found {type(raw).__name__}.")
    return dict(raw)


def _list(raw: Any, where: str, *, empty: bool = False) -> list[Any]:
    if not isinstance(raw, list) or (not raw and not empty):
        raise ConfigError(f"{where} must be a list with at least one value, found {raw!r}.")
    return raw
