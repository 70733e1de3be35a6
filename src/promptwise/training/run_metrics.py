"""What a training run measured, as ``metrics.json`` holds it. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from promptwise.reading import fitted, listed

_OTHER_PROBLEMS = ("test_scores", "constant", "problem", "thresholds")
"""What runs of a single label do not have."""

TEMPERATURES = (0.05, 20.0)
"""The least and the greatest temperature that logits are divided by."""


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


@dataclass(frozen=True)
class Stopped:
    """How many epochs were run, and why no more: ``epochs`` where all were done, ``patience`` or ``max_minutes``."""

    epochs: float
    reason: str


@dataclass(frozen=True)
class Baseline:
    """A method that a run is compared with.

    Attributes:
        name: Its name.
        validation: Metrics on the validation split by name.
        test: Metrics on the test split.
        chosen: What was chosen for it: a learning rate, the strength ``C``, or the class.
        parameters: How many numbers were fitted.
        seconds: How long it took.
    """

    name: str
    validation: dict[str, float]
    test: dict[str, float]
    chosen: str
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Constant:
    """The best answer that looks at no text, learnt from the training rows, of problems other than a single label.

    Attributes:
        answer: What it is, in words.
        validation: Metrics on the validation split by name.
        test: Metrics on the test split; empty where it was not looked at.
        test_scores: The score of each test row.
    """

    answer: str
    validation: dict[str, float]
    test: dict[str, float]
    test_scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ReliabilityBins:
    """Rows by their confidence, in bins of equal width from 0 to 1: how many, their mean confidence and accuracy."""

    rows: list[int]
    confidence: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class CalibrationScores:
    """How well probabilities fit what is true; lower is better.

    Attributes:
        ece: Expected calibration error over 15 bins of equal width: the mean distance of confidence and accuracy.
        brier: Brier score: the mean over rows of the squared differences summed over all classes, from 0 to 2.
        nll: Mean negative log-likelihood of the true class.
        bins: What the reliability plot shows, of the test split.
    """

    ece: float
    brier: float
    nll: float
    bins: ReliabilityBins | None = None


@dataclass(frozen=True)
class Calibration:
    """The temperature that was fitted on validation, and what it did to probabilities.

    Attributes:
        temperature: What logits are divided by before they become probabilities.
        validation: ``before`` (at temperature 1) and ``after``, on the rows that it was fitted on.
        test: Likewise on the test split; empty where it was not looked at.
    """

    temperature: float
    validation: dict[str, CalibrationScores]
    test: dict[str, CalibrationScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The scores of a run, with the settings, data and versions that they were reached with.

    Attributes:
        task: Name of the task.
        test: Metrics on the test split by name; empty where it was not looked at.
        test_choices: The predicted class of each test row, one character each; empty where there are too many classes.
        test_labels: The true class of each, likewise.
        test_groups: The group of each, where the task has groups.
        validation: Metrics of the chosen checkpoint on the validation split.
        test_scores: The score of each test row in place of these, of problems other than a single label; higher is
            better.
        majority: The first metric, on test, of the class that is most frequent there; of other problems that of the
            constant answer.
        constant: The constant answer; not for a single label.
        problem: The kind of problem; empty for a single label.
        thresholds: Of several labels the probability from which on each is given.
        calibration: How far probabilities can be trusted; runs of earlier versions and of a search have none.
        seed: The run's seed.
        steps: Optimizer steps.
        best_step: The step of the checkpoint that was chosen.
        stopped: When and why training ended; runs of earlier versions did all epochs and have none.
        baselines: What ``train --baselines`` compares it with.
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
    test_scores: list[float] = field(default_factory=list)
    validation: dict[str, float]
    majority: float
    constant: Constant | None = None
    problem: str = ""
    thresholds: list[float] = field(default_factory=list)
    calibration: Calibration | None = None
    seed: int
    steps: int = 0
    best_step: int | None = None
    stopped: Stopped | None = None
    baselines: list[Baseline] = field(default_factory=list)
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
        values = asdict(self)
        # Files of a single label stay as earlier versions wrote them.
        return {key: value for key, value in values.items() if key not in _OTHER_PROBLEMS or value}

    @classmethod
    def from_dict(cls, values: Any) -> RunMetrics:
        """A record from what ``metrics.json`` holds; keys that are not known here are left out.

        Raises:
            ValueError: Values are missing or of another type; names their keys.
        """
        found, problems = fitted(cls, values, written=True)
        if problems:
            raise ValueError(listed(problem.sentence for problem in problems))
        return cls(**found)
