"""Reading an experiment: a YAML file or a preset of the package, checked whole.

A file looks like this; every setting is one of ``promptwise train``::

    name: heads
    description: The cloze head against the classifier head.
    settings: {model: minilm-cloze, epochs: 5}
    tasks:
      sst2_sentence: {task: sst2, train_rows: 2000}
      cb: {seeds: [0, 1, 2, 3, 4]}
    methods:
      prompt tuning: {base: prompt, strategy: shared}
      random IPT: {base: prompt, strategy: random, against: prompt tuning}  # or a list of methods
      fine-tuning: {strategy: none, tune_backbone: true, lr_search: [2e-5, 5e-5, 1e-4]}
    grid: {head: [classifier, cloze]}
    seeds: [0, 1, 2]
    lr_search: {values: [3e-3, 1e-2, 3e-2], seeds: [0]}

A setting that would change nothing beside a method's strategy, base or head is refused where it stands in the method,
the task or the grid; one of ``settings`` holds for the methods that have it, and is left out of the others.

Methods may start from what is pre-trained once, before any run: ``knowledge: topics`` names an entry of::

    pretrain:
      topics: {what: knowledge, corpus: wiki_topic13, otherwise: topics13}
      pairs: {what: prompt, corpus: [wiki.txt.gz]}

``figure`` asks the report for a figure, ``published`` holds a paper's figures in percent, and ``full`` holds what
``--full`` puts in place of other keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from promptwise.config import TrainConfig
from promptwise.config.composition import settings_with_plugins, useless
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.experiments.pretrained import USED_BY, read_pretraining
from promptwise.experiments.spec import Cell, Experiment

_KEYS = (
    *("name", "description", "settings", "tasks", "methods", "grid", "seeds", "lr_search", "keep_adapters"),
    *("pretrain", "figure", "published", "full"),
)
FIGURES = ("lines", "bars", "topics map", "case study")
_OWN = {"task": ("seeds", "otherwise"), "method": ("lr_search", "against")}
_RUN_KEYS = ("seed", "out", "lr")


def read_experiment(
    name: str | Path, *, data_root: Path | None = None, overrides: Mapping[str, Any] | None = None, full: bool = False
) -> Experiment:
    """Read an experiment and check every run of it.

    Args:
        name: A YAML file, or a preset such as ``paper/pt-v``.
        data_root: Folder with a folder for each task; a task without one comes from the Hub or the package.
        overrides: Settings that win over those of the file.
        full: Put the values of the file's ``full`` in place of others.

    Raises:
        ConfigError: The file is missing or malformed, or a run could not work; names the place.
        UnknownNameError: There is no such preset.
    """
    try:
        raw = yaml.safe_load(_text(name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    return experiment_from(raw, str(name), data_root=data_root, overrides=overrides or {}, full=full)


def preset_names() -> tuple[str, ...]:
    """The experiments that the package describes, sorted."""
    names = (entry.name for entry in _presets().iterdir())
    return tuple(sorted(f"paper/{name.removesuffix('.yaml')}" for name in names if name.endswith(".yaml")))


def names_in(value: Any) -> tuple[str, ...]:
    """The names in a value: none, one or a list of them."""
    return () if value is None else tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _text(name: str | Path) -> str:
    """The content of a file or a preset."""
    file = Path(name)
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if file.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{file} does not exist.")
    if str(name) not in preset_names():
        raise UnknownNameError("experiment", str(name), preset_names())
    return _presets().joinpath(f"{str(name).partition('/')[2]}.yaml").read_text(encoding="utf-8")


def _presets() -> Traversable:
    return files("promptwise.experiments").joinpath("paper")


def experiment_from(
    raw: Any,
    where: str,
    *,
    data_root: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    full: bool = False,
) -> Experiment:
    """An experiment from the values of a file; see :func:`read_experiment`."""
    values = _mapping(raw, where)
    _check_keys(values, _KEYS, where)
    if full and not values.get("full"):
        raise ConfigError(f"{where} has no full size: the key `full` is missing. Leave --full out.")
    larger = _mapping(values.pop("full", None) or {}, f"{where}: full")
    if full:
        _check_keys(larger, _KEYS, f"{where}: full")
        merged: dict[str, Any] = {
            key: {**values.get(key, {}), **larger[key]} for key in ("settings", "pretrain") if key in larger
        }
        values = {**values, **larger, **merged}
    for needed in ("name",) if values.get("figure") and values.get("pretrain") else ("name", "tasks", "methods"):
        if not values.get(needed):
            raise ConfigError(f"{where}: {needed} is missing.")
    search = _mapping(values.get("lr_search") or {}, f"{where}: lr_search")
    _check_keys(search, ("values", "seeds", "tasks"), f"{where}: lr_search")
    common = {**_settings(values.get("settings") or {}, (), f"{where}: settings"), **(overrides or {})}
    pretrained = {
        str(name): read_pretraining(
            str(name), _mapping(entry, f"{where}: pretrain {name}"), common, data_root, f"{where}: pretrain {name}"
        )
        for name, entry in _mapping(values.get("pretrain") or {}, f"{where}: pretrain").items()
    }
    grid = _mapping(values.get("grid") or {}, f"{where}: grid")
    for key, choices in grid.items():
        _settings({key: choices}, (), f"{where}: grid")
        _list(choices, f"{where}: grid: {key}")
    seeds = _list(values.get("seeds", [0]), f"{where}: seeds")
    cells = []
    for (task, of_task), (method, of_method) in itertools.product(
        _entries(values.get("tasks") or {}, "task", where), _entries(values.get("methods") or {}, "method", where)
    ):
        for choice in itertools.product(*grid.values()):
            chosen = dict(zip(grid, choice, strict=True))
            of_place = _with_files(of_task, data_root)
            settings = {**common, **_without(of_place, "task"), **_without(of_method, "method"), **chosen}
            settings = {**_task_settings(task, settings, data_root), **(overrides or {})}
            for_all = common.keys() - {*of_place, *of_method, *chosen}
            # A rate of the method's own is not searched for.
            rates = of_method.get("lr_search", [] if "lr" in of_method else search.get("values", []))
            cells.append(
                Cell(
                    task=task,
                    method=method,
                    grid=tuple(chosen.items()),
                    settings=settings,
                    unused=tuple(name for name in useless(TrainConfig, settings) if name in for_all),
                    seeds=tuple(int(seed) for seed in _list(of_task.get("seeds", seeds), f"{where}: {task}: seeds")),
                    against=names_in(of_method.get("against")),
                    rates=tuple(float(rate) for rate in _list(rates, f"{where}: {method}: lr_search", empty=True)),
                )
            )
    methods = {cell.method for cell in cells}
    for cell in cells:
        for other in cell.against:
            if other not in methods:
                raise ConfigError(f"{where}: method {cell.method}: against {other!r} is no method of this file.")
        for setting in USED_BY.values():
            _check_start(cell.settings.get(setting), pretrained, f"{where}: {cell.method}: {setting}")
        for rate in cell.rates or (None,):
            cell.config(cell.seeds[0], rate)
    figure = _mapping(values.get("figure") or {}, f"{where}: figure")
    _check_figure(figure, grid, bool(values.get("keep_adapters")), pretrained, f"{where}: figure")
    published = _mapping(values.get("published") or {}, f"{where}: published")
    if cells:
        _check_keys(published, tuple(dict.fromkeys(cell.label for cell in cells)), f"{where}: published")
    return Experiment(
        # The same experiment at another size is another one.
        name=f"{values['name']}-full" if full else str(values["name"]),
        description=str(values.get("description", "")),
        cells=tuple(cells),
        search_seeds=tuple(int(seed) for seed in _list(search.get("seeds", [0]), f"{where}: lr_search: seeds")),
        search_tasks=_search_tasks(search, cells, f"{where}: lr_search: tasks"),
        keep_adapters=bool(values.get("keep_adapters", False)),
        pretrained=pretrained,
        figure=figure,
        published=published,
    )


def _check_start(name: Any, pretrained: Mapping[str, Any], where: str) -> None:
    """Make sure that what runs start from is an entry of ``pretrain``, a folder, or may be on the Hub."""
    if name is None or name in pretrained or "/" in str(name) or Path(str(name)).is_dir():
        return
    near = get_close_matches(str(name), pretrained, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Entries of pretrain: {', '.join(pretrained) or 'none'}."
    raise ConfigError(f"{where}: {name!r} is no entry of pretrain and no folder.{hint}")


def _check_figure(
    figure: Mapping[str, Any], grid: Mapping[str, Any], keeps: bool, pretrained: Mapping[str, Any], where: str
) -> None:
    """Find out before the runs what would keep the report from drawing its figure after them."""
    if not figure:
        return
    _check_keys(figure, ("kind", "x", "x_label", "x_percent", "panel", "knowledge", "examples"), where)
    kind = figure.get("kind")
    if kind not in FIGURES:
        raise ConfigError(f"{where}: kind is {kind!r}; there are {', '.join(FIGURES)}.")
    if kind == "lines" and figure.get("x") not in grid:
        raise ConfigError(f"{where}: x is {figure.get('x')!r}, which is no key of grid ({', '.join(grid) or 'none'}).")
    if kind == "topics map" and figure.get("knowledge") not in pretrained:
        raise ConfigError(f"{where}: knowledge is {figure.get('knowledge')!r}; it must name an entry of pretrain.")
    if kind == "case study" and not keeps:
        raise ConfigError(f"{where}: a case study needs keep_adapters: true.")


def _search_tasks(search: Mapping[str, Any], cells: Sequence[Cell], where: str) -> tuple[str, ...]:
    tasks = tuple(map(str, _list(search.get("tasks", []), where, empty=True)))
    known = {cell.task for cell in cells}
    for task in tasks:
        if task not in known:
            raise ConfigError(f"{where}: {task!r} is no task of this file; there are {', '.join(sorted(known))}.")
    return tasks


def _entries(raw: Any, kind: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    """The named entries of ``tasks`` or ``methods``; tasks may be a plain list of names."""
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = dict.fromkeys(map(str, raw))
    named = _mapping(raw, f"{where}: {kind}s")
    return [(str(name), _settings(entry or {}, _OWN[kind], f"{where}: {kind} {name}")) for name, entry in named.items()]


def _settings(raw: Any, own: tuple[str, ...], where: str) -> dict[str, Any]:
    """Settings by their names in ``TrainConfig``, with keys of the entry's own."""
    values = {str(key).replace("-", "_"): value for key, value in _mapping(raw, where).items()}
    allowed = [name for name in settings_with_plugins(TrainConfig) if name not in _RUN_KEYS]
    if "lr" in values:
        allowed.append("lr")
    _check_keys(values, (*allowed, *own), where)
    return values


def _with_files(task: dict[str, Any], data_root: Path | None) -> dict[str, Any]:
    """A task's entry with its files found in the data folder, or with what ``otherwise`` says in their place."""
    names = [name for name in ("train_file", "validation_file") if name in task]
    found: dict[str, Any] = {name: task[name] if data_root is None else str(data_root / task[name]) for name in names}
    if "otherwise" in task and not all(Path(file).is_file() for file in found.values()):
        return {**{key: value for key, value in task.items() if key not in names}, **(task["otherwise"] or {})}
    return {**task, **found}


def _without(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _OWN[kind]}


def _task_settings(task: str, settings: dict[str, Any], data_root: Path | None) -> dict[str, Any]:
    """The settings with the task's name and, where the root has a folder of the entry's name, its data."""
    own = settings.get("data") is not None or settings.get("task_spec") is not None
    settings = settings if own else {"task": task, **settings}
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
