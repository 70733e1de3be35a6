"""What a search tries: settings of ``train``, each with a range or with values to choose from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptwise.config import TrainConfig
from promptwise.config.composition import (
    at_default,
    config_from_mapping,
    known_settings,
    settings_for,
    settings_with_plugins,
    unknown_setting,
    useless,
    without_useless,
)
from promptwise.config.settings import Setting, converted, flag_name
from promptwise.config.usual_training import usual_epochs
from promptwise.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

RANGES = {"uniform": False, "loguniform": True}
"""The kinds of ranges, and whether all orders of magnitude in them are equally likely."""

_OTHER_ROWS = (
    *("task", "task_spec", "data", "data_dir", "label_column", "train_file", "validation_file"),
    *("validation_fraction", "validation_rows", "test_rows", "shots"),
)
_NO_MATTER = ("out", "threads", "report_to")

_EXAMPLE = "--space lr=loguniform:1e-4:1e-1 or --space strategy=shared,encoder"


@dataclass(frozen=True)
class Dimension:
    """A setting that is searched for.

    Attributes:
        name: Its name.
        text: What was written for it.
        choices: The values to choose from; empty for a range.
        low: The least value of a range.
        high: The greatest one.
        log: Whether a range is sampled by its logarithm.
    """

    name: str
    text: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def samples(self) -> tuple[Any, ...]:
        """Its choices, or the ends of its range."""
        return self.choices or (self.low, self.high)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether it would change anything beside what is chosen in ``values``."""
        known = settings_for(TrainConfig, values)
        if self.name not in known:
            return False
        probe = next(value for value in self.samples if value != known[self.name].default)
        return self.name not in useless(TrainConfig, {**values, self.name: probe})

    def suggested(self, trial: BaseTrial) -> Any:
        """Optuna's value of it for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """The settings of all trials of a study, and those that differ.

    A setting of a strategy, base, head or network takes part in the trials that have chosen it, as Optuna's
    define-by-run spaces do.

    Attributes:
        fixed: The settings of all trials; a trial leaves out those that would change nothing beside what it has chosen.
        dimensions: The settings that are searched for, those before others that decide which others there are.
    """

    fixed: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]

    def sampled(self, trial: BaseTrial) -> TrainConfig:
        """The configuration of a trial.

        Raises:
            ConfigError: What was chosen does not work together.
        """
        values = dict(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(values):
                values[dimension.name] = dimension.suggested(trial)
        return self._config(values, f"trial {trial.number}")

    @property
    def first(self) -> TrainConfig:
        """The configuration of the first choices and of the least values."""
        return self._config(next(self._combinations()), "--space")

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings of all trials that are not at their default."""
        return {name: value for name, value in self.fixed.items() if not at_default(_known()[name], self.fixed)}

    @property
    def most_epochs(self) -> int:
        """The most epochs that a trial may have, of a space that says it."""
        return math.ceil(max(float(epochs) for epochs in self.values_of("epochs")))

    def values_of(self, name: str) -> tuple[Any, ...]:
        """The values that a setting may have; the ends of its range where it has one."""
        found = [dimension.samples for dimension in self.dimensions if dimension.name == name]
        return found[0] if found else (getattr(self.first, name),)

    @property
    def idle(self) -> dict[str, str]:
        """The settings that would change nothing in any trial, each with a sentence that says so."""
        combinations = list(self._combinations())
        useless_in = [useless(TrainConfig, values) for values in combinations]
        found = {
            name: f"{flag_name(name)} would change nothing beside {useless_in[0][name]}; leave it out."
            for name in self.fixed
            if all(name in one for one in useless_in)
        }
        for dimension in self.dimensions:
            if not any(dimension.name in values for values in combinations):
                found[dimension.name] = (
                    f"--space {dimension.name}={dimension.text} would change nothing in any trial: no strategy, base, "
                    "head or network that is tried has that setting. Leave it out, or try one that has."
                )
        return found

    def with_usual_epochs(self, rows: int) -> Space:
        """The same with the passes that so many training rows usually get, where nothing says how many.

        Hyperband's largest budget is the most epochs, which it must know before the first trial.
        """
        if self.values_of("epochs") != (None,):
            return self
        return Space({**self.fixed, "epochs": usual_epochs(rows)}, self.dimensions)

    def without(self, names: Collection[str]) -> Space:
        """The same without some settings."""
        return Space(
            {name: value for name, value in self.fixed.items() if name not in names},
            tuple(dimension for dimension in self.dimensions if dimension.name not in names),
        )

    def check(self) -> None:
        """Refuse what cannot work before the first trial.

        Raises:
            ConfigError: Names the setting.
        """
        for values in self._combinations():
            self._config(values, "--space")

    def _combinations(self) -> Iterator[dict[str, Any]]:
        """Settings for each combination of the choices that decide which other settings there are."""
        axes = [one for one in self.dimensions if isinstance(_known()[one.name].choices, str)]
        for chosen in itertools.product(*(one.choices for one in axes)):
            picked = dict(zip([one.name for one in axes], chosen, strict=True))
            values = dict(self.fixed)
            for dimension in self.dimensions:
                if dimension.applies(values):
                    values[dimension.name] = picked.get(dimension.name, dimension.samples[0])
            yield values

    @staticmethod
    def _config(values: Mapping[str, Any], where: str) -> TrainConfig:
        return config_from_mapping(TrainConfig, without_useless(TrainConfig, values), where)


def read_space(fixed: Mapping[str, Any], written: Sequence[str], for_all: Collection[str] = ()) -> Space:
    """The space of a search, checked.

    Args:
        fixed: The settings of all trials, as a file or a person wrote them.
        written: ``NAME=VALUE,VALUE``, ``NAME=uniform:LOW:HIGH`` or ``NAME=loguniform:LOW:HIGH`` for each setting to
            search for.
        for_all: Settings that are meant for other searches too, and are left out where they would change nothing.

    Raises:
        UnknownNameError: A value is not among those of its setting.
        ConfigError: A setting is unknown, is no setting to search for or is given twice, or a value cannot work.
    """
    if not written:
        raise ConfigError(f"--space is missing: name what to search for, as in {_EXAMPLE}.")
    values = {str(key).replace("-", "_"): value for key, value in fixed.items()}
    dimensions: dict[str, Dimension] = {}
    for text in written:
        one = _dimension(text)
        if one.name in dimensions:
            raise ConfigError(f"--space {one.name} is given twice; write all its values in one.")
        if one.name in values:
            raise ConfigError(
                f"{flag_name(one.name)} {values[one.name]} is given, and --space {text} searches for it; leave one out."
            )
        dimensions[one.name] = one
    if "seed" in dimensions and "shots" in values:
        raise ConfigError("--space seed beside --shots would try other rows in each trial. Leave one of them out.")
    for name in values:
        _setting(name, flag_name(name))
    given, problems = converted(_known(), values, flag_name)
    if problems:
        raise ConfigError(" ".join(f"{problem}." for problem in problems))
    order = list(_known())
    ordered = sorted(
        dimensions.values(),
        key=lambda one: (not isinstance(_known()[one.name].choices, str), order.index(one.name)),
    )
    space = Space(given, tuple(ordered))
    idle = space.idle
    for name, problem in idle.items():
        if name not in for_all:
            raise ConfigError(problem)
    space = space.without(idle)
    space.check()
    return space


def _known() -> Mapping[str, Setting]:
    """Every setting that there may be."""
    known = known_settings(TrainConfig)
    return {**settings_with_plugins(TrainConfig), **known}


def _setting(name: str, where: str) -> Setting:
    """A setting by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in _known():
        raise ConfigError(f"{where}: {unknown_setting(name, _known())}")
    return _known()[name]


def _dimension(text: str) -> Dimension:
    name, equals, values = (part.strip() for part in text.partition("="))
    name = name.removeprefix("--").replace("-", "_")
    if not equals or not name or not values:
        raise ConfigError(f"--space {text!r} is no setting with its values; write it as in {_EXAMPLE}.")
    setting = _setting(name, f"--space {text}")
    if name in _OTHER_ROWS:
        raise ConfigError(
            f"--space {text}: trials with other rows or labels cannot be compared. Give {setting.flag} one value."
        )
    if name in _NO_MATTER:
        raise ConfigError(f"--space {text}: {setting.flag} changes no score. Give it one value.")
    kind, colon, ends = values.partition(":")
    if colon and kind in RANGES:
        return _range(setting, text, values, ends.split(":"), log=RANGES[kind])
    if colon and setting.type in (int, float):
        raise ConfigError(f"--space {text}: there is no range {kind!r}; there are {' and '.join(RANGES)}.")
    choices = tuple(_value(setting, one.strip(), text) for one in values.split(","))
    if len(set(choices)) < len(choices):
        raise ConfigError(f"--space {text} has a value twice.")
    if len(choices) == 1:
        raise ConfigError(
            f"--space {text} has one value, which leaves nothing to search for. Give more, or {setting.flag} {values}."
        )
    return Dimension(name, values, choices)


def _range(setting: Setting, text: str, values: str, ends: Sequence[str], log: bool) -> Dimension:
    if setting.type not in (int, float):
        raise ConfigError(f"--space {text}: {setting.flag} is no number; write its values as in {setting.name}=a,b.")
    if len(ends) != 2:
        raise ConfigError(f"--space {text}: a range has two ends, as in {_EXAMPLE.partition(' or ')[0]}.")
    low, high = (_value(setting, end.strip(), text) for end in ends)
    if not low < high:
        raise ConfigError(f"--space {text}: the range must rise, and {low} is not below {high}.")
    if log and low <= 0:
        raise ConfigError(f"--space {text}: a loguniform range starts above 0, found {low}. Use uniform.")
    return Dimension(setting.name, values, (), low, high, log)


def _value(setting: Setting, text: str, where: str) -> Any:
    """A value of a setting.

    Raises:
        UnknownNameError: It is not among its choices.
        ConfigError: It is none, or out of its range.
    """
    try:
        value = setting.value(text)
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"--space {where}: {setting.flag} must {setting.expected()}, found {text!r}.")
    problem = setting.problem(value)
    if problem:
        raise ConfigError(f"--space {where}: {problem}")
    return value
