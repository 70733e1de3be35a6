"""What comes of a text: a label, several labels, a number, or a tag for each word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input: the best label, and the probability of each label in the task's order."""

    label: str
    probabilities: dict[str, float]

    @classmethod
    def of(cls, labels: Sequence[str], probabilities: Sequence[float], best: int | None = None) -> Prediction:
        """The prediction of a task with these labels.

        Args:
            labels: The task's labels.
            probabilities: One for each.
            best: Which of them has the largest logit; by default the first of the most probable ones, which rounding
                may have made equal.
        """
        by_label = dict(zip(labels, probabilities, strict=True))
        return cls(max(by_label, key=by_label.__getitem__) if best is None else labels[best], by_label)

    def answer(self) -> dict[str, Any]:
        """What JSON output has of it."""
        return {"label": self.label, "probabilities": _rounded(self.probabilities)}

    def cells(self) -> list[str]:
        """What a row of CSV output has of it."""
        return [self.label, *(f"{value:.6f}" for value in self.probabilities.values())]


@dataclass(frozen=True)
class LabelsPrediction(Prediction):
    """All labels whose probability reaches their threshold; ``label`` is the most probable one, whether or not it does.

    Attributes:
        labels: They, in the task's order; there may be none.
    """

    labels: tuple[str, ...]

    def answer(self) -> dict[str, Any]:
        """See :meth:`Prediction.answer`."""
        return {"labels": list(self.labels), "probabilities": _rounded(self.probabilities)}

    def cells(self) -> list[str]:
        """See :meth:`Prediction.cells`; labels are separated as in the files that are read."""
        return ["|".join(self.labels), *(f"{value:.6f}" for value in self.probabilities.values())]


@dataclass(frozen=True)
class NumberPrediction(Prediction):
    """A number; ``label`` is the number as text, and there are no probabilities."""

    value: float

    def answer(self) -> dict[str, Any]:
        """See :meth:`Prediction.answer`."""
        return {"value": round(self.value, 6)}

    def cells(self) -> list[str]:
        """See :meth:`Prediction.cells`."""
        return [f"{self.value:.6f}"]


@dataclass(frozen=True)
class Span:
    """An entity: its kind, its words joined by spaces, and the places of the first one and of the one behind it."""

    label: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class TagsPrediction(Prediction):
    """A tag for each word; ``label`` is all of them with spaces between, and there are no probabilities of the text.

    Attributes:
        words: The words of the text, which are what stands between spaces.
        tags: The best tag of each; of a word that was cut off ``O``, or the task's first label where it has no ``O``.
        shares: The probability of that tag; 0 of a word that was cut off.
        spans: The entities that the tags mark, as seqeval reads them.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    shares: tuple[float, ...]
    spans: tuple[Span, ...]

    def answer(self) -> dict[str, Any]:
        """See :meth:`Prediction.answer`."""
        return {
            "words": list(self.words),
            "tags": list(self.tags),
            "probabilities": [round(share, 6) for share in self.shares],
            "spans": [{"label": s.label, "text": s.text, "start": s.start, "stop": s.stop} for s in self.spans],
        }

    def cells(self) -> list[str]:
        """See :meth:`Prediction.cells`; words and tags are separated by spaces as in the files that are read."""
        return [" ".join(self.tags), " ".join(self.words)]


def _rounded(probabilities: dict[str, float]) -> dict[str, float]:
    return {label: round(value, 6) for label, value in probabilities.items()}
