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

In place of ``lr_search`` a study may find any settings of each method, with as many trials for each; a method may have
a space of its own, or none (``search: {}``)::

    search: {trials: 30, seed: 0, space: {lr: "loguniform:1e-3:1e-1", length: [8, 16, 32]}}

A setting that would change nothing beside a method's strategy, base or head is refused where it stands in the method or
the task; one of ``settings`` or of the grid is meant for the methods that have it, and is left out of the others.

Methods may start from what is pre-trained once, before any run: ``knowledge: topics`` names an entry of::

    pretrain:
      topics: {what: knowledge, corpus: wiki_topic13, otherwise: topics13}
      pairs: {what: prompt, corpus: [wiki.txt.gz]}

``figure`` asks the report for a figure, ``published`` holds a paper's figures in percent, and ``full`` holds what
``--full`` puts in place of other keys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from promptwise.config import TrainConfig
from promptwise.config.composition import settings_with_plugins, useless
from promptwise.errors import ConfigError, UnknownNameError
from promptwise.experiments.pretrained import USED_BY, Pretraining, read_pretraining
from promptwise.experiments.spec import Cell, Experiment
from promptwise.reading import listed, parsed, unknown_key, yaml_of
from promptwise.search.space import Space, read_space

FIGURES = ("lines", "bars", "topics map", "case study")
_RUN_KEYS = ("seed", "out", "lr")


@dataclass(frozen=True)
class _File:
    """The form of an experiment's file."""

    name: str = ""
    description: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any] | None] | tuple[str, ...] = ()
    methods: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    lr_search: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    keep_adapters: bool = False
    pretrain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    figure: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, int | float]] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Search:
    """The form of ``lr_search``."""

    values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Study:
    """The form of ``search``."""

    trials: int = 30
    seed: int = 0
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Figure:
    """The form of ``figure``."""

    kind: str
    x: str | None = None
    x_label: str | None = None
    x_percent: bool = False
    panel: str | None = None
    knowledge: str | None = None
    examples: int | None = None


@dataclass(frozen=True)
class _Task:
    """The keys of a task's entry that are no settings."""

    seeds: tuple[int, ...] | None = None
    otherwise: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Method:
    """The keys of a method's entry that are no settings."""

    lr_search: tuple[float, ...] | None = None
    search: Mapping[str, Any] | None = None
    against: str | tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Entry:
    """An entry of ``tasks`` or ``methods``: its settings, and its own keys."""

    name: str
    settings: Mapping[str, Any]
    own: Mapping[str, Any]


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
    raw = yaml_of(_text(name), str(name))
    return experiment_from(raw, str(name), data_root=data_root, overrides=overrides or {}, full=full)


def preset_names() -> tuple[str, ...]:
    """The experiments that the package describes, sorted."""
    names = (entry.name for entry in _presets().iterdir())
    return tuple(sorted(f"paper/{name.removesuffix('.yaml')}" for name in names if name.endswith(".yaml")))


def names_in(value: Any) -> tuple[str, ...]:
    """The names in a value: none, one or a list of them."""
    return () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))


def _text(name: str | Path) -> str | Path:
    """The file of an experiment, or the content of a preset."""
    file = Path(name)
    if file.is_file():
        return file
    if file.suffix in (".yaml", ".yml"):
        raise ConfigError(
            f"{file} does not exist. Name an experiment's file, or a preset: {', '.join(preset_names())}."
        )
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
    file = _file(raw, where, full)
    search = _Search(**parsed(_Search, file.lr_search, f"{where}: lr_search"))
    common = {**_named(file.settings, (), f"{where}: settings"), **(overrides or {})}
    pretrained = {
        name: read_pretraining(name, entry, common, data_root, f"{where}: pretrain {name}")
        for name, entry in file.pretrain.items()
    }
    for key, choices in file.grid.items():
        _named({key: choices}, (), f"{where}: grid")
        _some(choices, f"{where}: grid: {key}")
    study = _study(file, f"{where}: search")
    cells = tuple(_cells(file, search, study, common, data_root, overrides or {}, where))
    _check_cells(cells, pretrained, where)
    _check_figure(file, pretrained, f"{where}: figure")
    if cells:
        _check_keys(file.published, tuple(dict.fromkeys(cell.label for cell in cells)), f"{where}: published")
    return Experiment(
        # The same experiment at another size is another one.
        name=f"{file.name}-full" if full else file.name,
        description=file.description,
        cells=cells,
        search_seeds=_seeds(search.seeds, f"{where}: lr_search: seeds"),
        search_tasks=_search_tasks(search, cells, f"{where}: lr_search: tasks"),
        keep_adapters=file.keep_adapters,
        pretrained=pretrained,
        figure=file.figure,
        published=file.published,
    )


def _file(raw: Any, where: str, full: bool) -> _File:
    """The values of a file, at the size that is asked for."""
    values = _given(raw)
    read = parsed(_File, values, where)
    larger = _given(values.pop("full", {}))
    if full:
        if not larger:
            raise ConfigError(f"{where} has no full size: the key `full` is missing. Leave --full out.")
        parsed(_File, larger, f"{where}: full")
        merged = {key: {**values.get(key, {}), **larger[key]} for key in ("settings", "pretrain") if key in larger}
        read = parsed(_File, {**values, **larger, **merged}, f"{where}: full")
    file = _File(**read)
    for needed in ("name",) if file.figure and file.pretrain else ("name", "tasks", "methods"):
        if not getattr(file, needed):
            raise ConfigError(f"{where}: {needed} is missing.")
    _seeds(file.seeds, f"{where}: seeds")
    return file


def _given(raw: Any) -> Any:
    """A map without the keys that say nothing."""
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, Mapping) else raw


def _cells(
    file: _File,
    search: _Search,
    study: _Study,
    common: Mapping[str, Any],
    data_root: Path | None,
    overrides: Mapping[str, Any],
    where: str,
) -> Iterator[Cell]:
    """Every place of the table: tasks, then methods, then the grid."""
    for task, method in itertools.product(
        _entries(file.tasks, _Task, f"{where}: task"), _entries(file.methods, _Method, f"{where}: method")
    ):
        for choice in itertools.product(*file.grid.values()):
            chosen = dict(zip(file.grid, choice, strict=True))
            of_task = _with_files(task, data_root)
            settings = _task_settings(task.name, {**common, **of_task, **method.settings, **chosen}, data_root)
            settings = {**settings, **overrides}
            for_all = {*common, *chosen} - {*of_task, *method.settings}
            # A rate of the method's own is not searched for.
            usual = () if "lr" in method.settings else search.values
            fixed = {*of_task, *method.settings, *chosen, *overrides}
            space, settings = _searched(study, method, settings, fixed, for_all, f"{where}: {task.name}, {method.name}")
            if space is None:
                unused = tuple(name for name in useless(TrainConfig, settings) if name in for_all)
            else:
                unused = tuple(name for name in settings if name in for_all and name not in space.fixed)
            yield Cell(
                task=task.name,
                method=method.name,
                grid=tuple(chosen.items()),
                settings=settings,
                unused=unused,
                seeds=_seeds(_own_or(task, "seeds", file.seeds), f"{where}: {task.name}: seeds"),
                against=names_in(method.own.get("against")),
                rates=_own_or(method, "lr_search", usual),
                space=() if space is None else tuple(f"{one.name}={one.text}" for one in space.dimensions),
                search_trials=study.trials,
                search_seed=study.seed,
            )


def _study(file: _File, where: str) -> _Study:
    """The values of ``search``."""
    study = _Study(**parsed(_Study, file.search, where))
    if file.search and file.lr_search:
        raise ConfigError(f"{where}: lr_search is given too. The learning rate is a setting of `space`; leave one out.")
    if study.trials < 1:
        raise ConfigError(f"{where}: trials is {study.trials}; the least is 1.")
    return study


def _searched(
    study: _Study,
    method: _Entry,
    settings: Mapping[str, Any],
    fixed: Collection[str],
    for_all: Collection[str],
    where: str,
) -> tuple[Space | None, dict[str, Any]]:
    """What a cell searches for, if anything, and its settings without that.

    Args:
        study: The experiment's search; what it searches for is left out of a cell that has its own value for it.
        method: The method, which may have a space of its own.
        settings: Those of the cell.
        fixed: Settings that are of its task, its method or the grid.
        for_all: Settings that are meant for other methods too.
        where: Its place, for messages.

    Raises:
        ConfigError: It cannot work.
    """
    own = method.own.get("search")
    given = {str(key).replace("-", "_"): values for key, values in (study.space if own is None else own).items()}
    wanted = {name: values for name, values in given.items() if own is not None or name not in fixed}
    if not wanted:
        return None, dict(settings)
    if method.own.get("lr_search"):
        raise ConfigError(f"{where}: it has an lr_search of its own beside the search; add `search: {{}}` to it.")
    rest = {name: value for name, value in settings.items() if name not in wanted or name in fixed}
    written = [
        f"{name}={','.join(map(str, values)) if isinstance(values, list | tuple) else values}"
        for name, values in wanted.items()
    ]
    lenient = {*for_all, *wanted} if own is None else {*for_all} - {*wanted}
    try:
        space = read_space({**rest, "seed": study.seed}, written, lenient)
    except ConfigError as error:
        raise ConfigError(f"{where}: search: {error}") from error
    return (space, rest) if space.dimensions else (None, dict(settings))


def _own_or(entry: _Entry, key: str, usual: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values that an entry has for itself, or the usual ones."""
    own = entry.own.get(key)
    return usual if own is None else own


def _check_cells(cells: Sequence[Cell], pretrained: Mapping[str, Pretraining], where: str) -> None:
    """Find out before the runs what would keep one of them from working."""
    methods = {cell.method for cell in cells}
    for cell in cells:
        for other in cell.against:
            if other not in methods:
                raise ConfigError(f"{where}: method {cell.method}: against {other!r} is no method of this file.")
        for setting in USED_BY.values():
            _check_start(cell.settings.get(setting), pretrained, f"{where}: {cell.method}: {setting}")
        for setting in USED_BY.values() if cell.space else ():
            if cell.settings.get(setting) in pretrained:
                raise ConfigError(
                    f"{where}: {cell.method}: a search cannot start from an entry of pretrain, which is not made yet. "
                    "Give the folder of a finished one, or leave the search out with `search: {}`."
                )
        for rate in cell.rates or (None,):
            cell.config(cell.seeds[0], rate)


def _check_start(name: Any, pretrained: Mapping[str, Any], where: str) -> None:
    """Make sure that what runs start from is an entry of ``pretrain``, a folder, or may be on the Hub."""
    if name is None or name in pretrained or "/" in str(name) or Path(str(name)).is_dir():
        return
    near = get_close_matches(str(name), pretrained, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Entries of pretrain: {', '.join(pretrained) or 'none'}."
    raise ConfigError(f"{where}: {name!r} is no entry of pretrain and no folder.{hint}")


def _check_figure(file: _File, pretrained: Mapping[str, Any], where: str) -> None:
    """Find out before the runs what would keep the report from drawing its figure after them."""
    if not file.figure:
        return
    figure = _Figure(**parsed(_Figure, file.figure, where))
    if figure.kind not in FIGURES:
        raise ConfigError(f"{where}: kind is {figure.kind!r}; there are {', '.join(FIGURES)}.")
    if figure.kind == "lines" and figure.x not in file.grid:
        known = ", ".join(file.grid) or "none"
        raise ConfigError(f"{where}: x is {figure.x!r}, which is no key of grid ({known}).")
    if figure.kind == "lines":
        words = [value for value in file.grid[str(figure.x)] if not _is_number(value)]
        if words:
            raise ConfigError(f"{where}: x is {figure.x!r}, of which {words[0]!r} is no number. Use kind: bars.")
    if figure.kind == "topics map" and figure.knowledge not in pretrained:
        raise ConfigError(f"{where}: knowledge is {figure.knowledge!r}; it must name an entry of pretrain.")
    if figure.kind == "case study" and not file.keep_adapters:
        raise ConfigError(f"{where}: a case study needs keep_adapters: true.")


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _search_tasks(search: _Search, cells: Sequence[Cell], where: str) -> tuple[str, ...]:
    known = {cell.task for cell in cells}
    for task in search.tasks:
        if task not in known:
            raise ConfigError(f"{where}: {task!r} is no task of this file; there are {', '.join(sorted(known))}.")
    return search.tasks


def _entries(raw: Mapping[str, Any] | tuple[str, ...], form: type[Any], where: str) -> list[_Entry]:
    """The named entries of ``tasks`` or ``methods``; tasks may be a plain list of names."""
    named = raw if isinstance(raw, Mapping) else dict.fromkeys(raw)
    return [_entry(name, entry or {}, form, f"{where} {name}") for name, entry in named.items()]


def _entry(name: str, raw: Mapping[str, Any], form: type[Any], where: str) -> _Entry:
    keys = tuple(one.name for one in fields(form))
    values = _named(raw, keys, where)
    own = parsed(form, {key: value for key, value in values.items() if key in keys}, where)
    return _Entry(name, {key: value for key, value in values.items() if key not in keys}, own)


def _named(raw: Mapping[str, Any], own: tuple[str, ...], where: str) -> dict[str, Any]:
    """Settings by their names in ``TrainConfig``, with keys of the entry's own."""
    values = {str(key).replace("-", "_"): value for key, value in raw.items()}
    allowed = [name for name in settings_with_plugins(TrainConfig) if name not in _RUN_KEYS]
    if "lr" in values:
        allowed.append("lr")
    _check_keys(values, (*allowed, *own), where)
    return values


def _with_files(task: _Entry, data_root: Path | None) -> dict[str, Any]:
    """A task's settings with its files found in the data folder, or with what ``otherwise`` says in their place."""
    names = [name for name in ("train_file", "validation_file") if name in task.settings]
    found: dict[str, Any] = {
        name: task.settings[name] if data_root is None else str(data_root / task.settings[name]) for name in names
    }
    if "otherwise" in task.own and not all(Path(file).is_file() for file in found.values()):
        rest = {key: value for key, value in task.settings.items() if key not in names}
        return {**rest, **(task.own["otherwise"] or {})}
    return {**task.settings, **found}


def _task_settings(task: str, settings: dict[str, Any], data_root: Path | None) -> dict[str, Any]:
    """The settings with the task's name and, where the root has a folder of the entry's name, its data."""
    own = settings.get("data") is not None or settings.get("task_spec") is not None
    settings = settings if own else {"task": task, **settings}
    if data_root is not None and "data_dir" not in settings and (data_root / task).is_dir():
        settings["data_dir"] = str(data_root / task)
    return settings


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    wrong = [unknown_key(key, known) for key in values if key not in known]
    if wrong:
        raise ConfigError(f"{where}: {listed(wrong)}")


def _seeds(values: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Seeds; one that is there twice would pass for two runs."""
    if len(set(values)) < len(values):
        raise ConfigError(f"{where}: {list(values)!r} has a seed twice. Name each once.")
    return _some(values, where)


def _some(values: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not values:
        raise ConfigError(f"{where} must be a list with at least one value, found {list(values)!r}.")
    return values
