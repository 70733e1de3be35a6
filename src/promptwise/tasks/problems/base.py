"""What a kind of problem must say of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from promptwise.errors import ConfigError
from promptwise.tasks.metrics import Groups, compute
from promptwise.tasks.predictions import Prediction

if TYPE_CHECKING:
    from torch import Tensor

Label = Any
"""What is true of a row: a class index, the sorted class indices of a set, a number, or a class index for each word."""


@dataclass(frozen=True)
class Decoding:
    """What turns a model's scores into answers beside its weights; an adapter's configuration holds it.

    Attributes:
        temperature: Single label: what logits are divided by before they become probabilities.
        thresholds: Multi-label ``[C]``: the probability from which on a label is given.
        mean: Regression: the mean of the training rows' numbers, at which the head starts.
        scale: Regression: their standard deviation, by which errors are divided in the loss.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    mean: float = 0.0
    scale: float = 1.0


class Problem(ABC):
    """One kind of problem; it has no state, so one object of each serves all tasks.

    Attributes:
        name: Its name, where transformers has one for ``problem_type`` that one.
        per_token: Whether the head gives scores for each token, and a label those of each word.
        has_classes: Whether there are class names.
        calibrated: Whether probabilities of one class of several are made, which a temperature can correct.
        chosen_after: Whether validation chooses anything after training: a temperature, or what :meth:`fitted` does.
        row_score: What :meth:`row_scores` gives, in words.
        row_score_in_units: Whether that is in the units of the labels, and not a share of one.
        constant: The answer that :meth:`constant_answers` gives, in words.
    """

    name: ClassVar[str]
    per_token: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    chosen_after: ClassVar[bool] = False
    has_classes: ClassVar[bool] = True
    row_score: ClassVar[str]
    row_score_in_units: ClassVar[bool] = False
    constant: ClassVar[str]

    # What a task and its files hold.

    @abstractmethod
    def usual_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The metrics of a task that names none; the first one chooses checkpoints."""

    def spec_problems(self, data: Mapping[str, Any]) -> Iterable[str]:
        """What is wrong with a task's plain spec, as sentences."""
        if "labels" not in data:
            yield "labels is missing"
        elif len(data["labels"]) < 2:
            yield f"labels needs at least 2 classes, found {len(data['labels'])}"

    @abstractmethod
    def names_in(self, values: Iterable[tuple[Any, str]]) -> tuple[str, ...]:
        """The class names of a file without a spec, in order.

        Args:
            values: The label column of each row, and the words that name the row.

        Raises:
            DataError: A value is no label.
        """

    @abstractmethod
    def parse(self, labels: Sequence[str], value: Any, where: str, text: str) -> Label:
        """What is true of a row.

        Args:
            labels: The task's class names.
            value: The label column.
            where: The words that name the row.
            text: The row's text.

        Raises:
            DataError: The value does not fit; says what would.
        """

    def answers_in(self, truths: Sequence[Label]) -> int:
        """How many different answers some rows have: classes, labels or numbers."""
        return len(set(truths))

    @abstractmethod
    def strata(self, truths: Sequence[Label]) -> list[int]:
        """The stratum of each row, over which rows are spread when some are held out."""

    # What a model does.

    def outputs(self, labels: Sequence[str]) -> int:
        """How many scores a head gives."""
        return len(labels)

    @abstractmethod
    def target(self, truth: Label, labels: Sequence[str], features: Mapping[str, Any]) -> Any:
        """What is true of a row as numbers of one length for each row, or for each of its tokens.

        Args:
            truth: What is true of it.
            labels: The task's class names.
            features: Its tokens.
        """

    def start(self, truths: Sequence[Label]) -> Decoding:
        """What is known before training, from the training rows."""
        return Decoding()

    def finished(self, scores: Tensor, decoding: Decoding) -> Tensor:
        """Scores as a model gives them, from those of its head."""
        return scores

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, decoding: Decoding) -> Tensor:
        """The mean loss of a batch; ``weights`` are those of :meth:`class_weights`."""

    def class_weights(self, truths: Sequence[Label], classes: int) -> list[float]:
        """What a row counts by its class ``[C]``, so that all classes count alike.

        Raises:
            ConfigError: The problem has no classes.
        """
        raise ConfigError(f"--class-weights is for problems with classes; {self.name} has none. Leave it out.")

    def fitted(self, logits: Any, truths: Sequence[Label], decoding: Decoding) -> Decoding:
        """What is chosen on validation rows, of logits in a tensor or an array."""
        return decoding

    @abstractmethod
    def decode(self, logits: Any, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding) -> Any:
        """The answers to rows, in the form of what is true of them.

        Args:
            logits: What the model gives, ``[N, C]`` or ``[N, T, C]``, a tensor or an array.
            rows: Their features.
            labels: The task's class names.
            decoding: Of the model.
        """

    @abstractmethod
    def predictions(
        self, logits: Tensor, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Prediction]:
        """The answers to rows, in the form that people get; arguments as of :meth:`decode`."""

    # How good answers are.

    def shown(self, answers: Sequence[Label], labels: Sequence[str]) -> Sequence[Any]:
        """Answers as the metrics read them."""
        return answers

    def scores(
        self, metrics: Sequence[str], answers: Sequence[Label], truths: Sequence[Label], labels: Sequence[str],
        groups: Groups,
    ) -> dict[str, float]:  # fmt: skip
        """Metrics of answers, by name."""
        return compute(metrics, self.shown(answers, labels), self.shown(truths, labels), groups, len(labels))

    @abstractmethod
    def row_scores(self, answers: Sequence[Label], truths: Sequence[Label]) -> list[float]:
        """A score of each row, whose mean over rows says how good answers are; higher is better."""

    @abstractmethod
    def constant_answers(self, train: Sequence[Label], truths: Sequence[Label], classes: int) -> list[Label]:
        """The best answer that looks at no text, learnt from training rows, for each of some rows."""


def as_tensor(logits: Any) -> Tensor:
    """Logits as a tensor, which ``Trainer`` gives as an array."""
    import torch

    return torch.as_tensor(logits)


def rarest(truths: Sequence[Iterable[int]]) -> list[int]:
    """Of the classes that each row has the one that fewest rows have; -1 where it has none."""
    counts = Counter(label for row in truths for label in set(row))
    return [min(set(row), key=lambda label: (counts[label], label), default=-1) for row in truths]


def balanced(counts: Sequence[int]) -> list[float]:
    """scikit-learn's rule over the classes that occur: rows / (classes x rows of the class); 1 for all others."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 1.0 for count in counts]
