"""What a training run measured, as ``metrics.json`` holds it. Needs no torch."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


@dataclass(frozen=True)
class ParameterCounts:
    """How many numbers were trained, how many the backbone has, and the first divided by the second."""

    tuned: int
    backbone: int
    share: float


@dataclass(frozen=True)
class DataSummary:
    """Where the data came from, its fingerprint, and the rows of each split."""

    origin: str
    fingerprint: str
    rows: dict[str, int]


@dataclass(frozen=True)
class RunTime:
    """Seconds of training and of the whole run, and whether it went on from a checkpoint."""

    train_s: float
    total_s: float
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The scores of a run, with the settings, data and versions that they were reached with.

    Attributes:
        task: Name of the task.
        test: Metrics on the test split by name; empty where it was not looked at.
        test_choices: The predicted class of each test row, one character each.
        test_labels: The true class of each, likewise.
        test_groups: The group of each, where the task has groups.
        validation: Metrics of the chosen checkpoint on the validation split.
        majority: Accuracy on test of the class that is most frequent there.
        seed: The run's seed.
        steps: Optimizer steps.
        best_step: The step of the checkpoint that was chosen.
        parameters: Trained and frozen numbers.
        data: The data.
        backbone: Its ``name`` and ``fingerprint``.
        config: All settings, with the learning rate that was used.
        optimizer: Its name, schedule and rates.
        time: Seconds.
        memory: Peaks in MiB.
        versions: Of packages, and the device.
        history: What the trainer logged.
    """

    task: str = ""
    test: dict[str, float]
    test_choices: str = ""
    test_labels: str = ""
    test_groups: list[int] = field(default_factory=list)
    validation: dict[str, float]
    majority: float
    seed: int
    steps: int = 0
    best_step: int | None = None
    parameters: ParameterCounts
    data: DataSummary
    backbone: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    time: RunTime
    memory: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The record as ``metrics.json`` holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> RunMetrics:
        """A record from what ``metrics.json`` holds; keys that are not known here are left out.

        Raises:
            ValueError: A value is missing or of another type; names its key.
        """
        return _record(cls, values, "")


def _record(kind: type[_T], values: Any, key: str) -> _T:
    """A dataclass from an object of JSON."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{key or 'the whole'} must be an object, found {values!r:.60}")
    types_of, found = get_type_hints(kind), {}
    for part in fields(kind):  # type: ignore[arg-type]
        name = f"{key}.{part.name}" if key else part.name
        if part.name in values:
            found[part.name] = _value(types_of[part.name], values[part.name], name)
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**found)


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _value(kind: Any, value: Any, key: str) -> Any:
    """A value of JSON, checked against a type hint."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _record(kind, value, key)  # type: ignore[arg-type]
    if isinstance(kind, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
        return None if value is None else _value(kind, value, key)
    outer, inner = get_origin(kind) or kind, get_args(kind)
    accepted: Any = (int, float) if outer is float else outer
    fits = isinstance(value, accepted) and (outer is bool or not isinstance(value, bool))
    if not fits:
        raise ValueError(f"{key} must be {_KINDS[outer]}, found {value!r:.60}")
    if outer is dict:
        return {name: _value(inner[1], part, f"{key}.{name}") for name, part in value.items()}
    if outer is list:
        return [_value(inner[0], part, key) for part in value]
    return value
