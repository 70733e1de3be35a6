"""What is known of strategies and comes with the package: size, time per training step, and accuracy.

``benchmarks/measured.py`` writes the file out of an experiment's records and the output of ``benchmarks/step_time.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

FILE = "measured.json"


@dataclass(frozen=True)
class Accuracy:
    """Where accuracies are from, and they themselves.

    Attributes:
        experiment: Name of the experiment.
        date: Day on which its records were committed.
        model: The backbone.
        train_rows: The most training rows of a run.
        tasks: Names of the tasks, over which means are taken, each with its number of test rows.
        seeds: Runs of each method on each task.
        mean: By :func:`key_of`, the mean over the tasks of the mean over the seeds.
    """

    experiment: str
    date: str
    model: str
    train_rows: int
    tasks: Mapping[str, int]
    seeds: int
    mean: Mapping[str, float]


@dataclass(frozen=True)
class StepTime:
    """Where times are from, and they themselves.

    Attributes:
        file: The benchmark's output.
        date: Day on which it was committed.
        setup: The benchmark's setup.
        dtype: What the frozen model computed in.
        processor: The processor.
        threads: How many threads.
        to_frozen: By :func:`key_of`, a step's time by that of the frozen model's forward and backward pass on the text.
    """

    file: str
    date: str
    setup: str
    dtype: str
    processor: str
    threads: int
    to_frozen: Mapping[str, float]


@dataclass(frozen=True)
class Size:
    """A strategy on a base with default settings.

    Attributes:
        strategy: The method, with its network or tuning.
        base: The base; empty where there is no prompt.
        tuned_share: Tuned numbers, those of a head of two classes too, by the backbone's; ``None`` where they depend
            on the texts or the knowledge, or a package is missing.
        positions: Positions that are added to the sequence.
        keys: Keys and values that are added in each layer, at no position.
    """

    strategy: str
    base: str
    tuned_share: float | None
    positions: int
    keys: int


@dataclass(frozen=True)
class Sizes:
    """What follows from the settings.

    Attributes:
        model: The backbone.
        strategies: Every strategy on every base that serves it.
    """

    model: str
    strategies: tuple[Size, ...]


@dataclass(frozen=True)
class Measured:
    """The file's content."""

    sizes: Sizes
    accuracy: Accuracy
    time: StepTime


def key_of(base: str, method: str) -> str:
    """By what figures are kept: the base and the method, and the method alone where there is no prompt."""
    return f"{base}, {method}" if base else method


def read_measured() -> Measured:
    """What comes with the package."""
    values: dict[str, Any] = json.loads(files("promptwise.reports").joinpath(FILE).read_text(encoding="utf-8"))
    sizes = Sizes(values["sizes"]["model"], tuple(Size(**one) for one in values["sizes"]["strategies"]))
    return Measured(sizes, Accuracy(**values["accuracy"]), StepTime(**values["time"]))
