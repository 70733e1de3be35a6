"""A tag for each word: named entities, parts of speech."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from promptwise.errors import DataError
from promptwise.tasks.entities import PREFIXES, entities
from promptwise.tasks.fields import shorten
from promptwise.tasks.labels import label_index, label_name, sorted_names
from promptwise.tasks.predictions import Prediction, Span, TagsPrediction
from promptwise.tasks.problems.base import Decoding, Problem, balanced, rarest

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The target of a token that begins no word."""

OUTSIDE = "O"

Tags = tuple[int, ...]


class TokenTags(Problem):
    """What is true of a row is a class index for each word; the loss is cross-entropy over words.

    Words are what stands between spaces. A word is read at its first token, and one that ``--max-length`` cuts off is
    answered with ``O``, right or wrong, so that scores are those of whole texts.
    """

    name: ClassVar[str] = "token_classification"
    per_token: ClassVar[bool] = True
    row_score: ClassVar[str] = "share of each row's words that are right"
    constant: ClassVar[str] = "majority tag"

    def usual_metrics(self, labels: Sequence[str]) -> tuple[str, ...]:
        """See :meth:`Problem.usual_metrics`."""
        return ("entity_f1", "word_accuracy") if marks_entities(labels) else ("word_accuracy",)

    def spec_problems(self, data: Mapping[str, Any]) -> Iterable[str]:
        """See :meth:`Problem.spec_problems`."""
        yield from super().spec_problems(data)
        if data.get("text_pair") is not None:
            yield "text_pair is a second text, and token_classification has one alone; leave it out"

    def names_in(self, values: Iterable[tuple[Any, str]]) -> tuple[str, ...]:
        """See :meth:`Problem.names_in`; ``O`` comes first."""
        names = sorted_names({label_name(one, where) for value, where in values for one in _listed(value, where)})
        return tuple(sorted(names, key=lambda name: name != OUTSIDE))

    def parse(self, labels: Sequence[str], value: Any, where: str, text: str) -> Tags:
        """See :meth:`Problem.parse`."""
        tags, words = _listed(value, where), text.split()
        if len(tags) != len(words):
            raise DataError(
                f"{where}: {len(tags)} tags for {len(words)} words ({shorten(text)}); each word needs one. Words are "
                "what stands between spaces."
            )
        return tuple(label_index(labels, tag, f"{where}, word {place}") for place, tag in enumerate(tags, start=1))

    def answers_in(self, truths: Sequence[Tags]) -> int:
        """See :meth:`Problem.answers_in`: the tags that any word has."""
        return len({label for row in truths for label in row})

    def strata(self, truths: Sequence[Tags]) -> list[int]:
        """See :meth:`Problem.strata`: the rarest tag of a row."""
        return rarest(truths)

    def target(self, truth: Tags, labels: Sequence[str], features: Mapping[str, Any]) -> list[int]:
        """See :meth:`Problem.target`: the tag at the first token of each word."""
        targets = [IGNORED] * len(features["input_ids"])
        for place, tag in zip(features["word_starts"], truth, strict=True):
            if place >= 0:
                targets[place] = tag
        return targets

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None, decoding: Decoding) -> Tensor:
        """See :meth:`Problem.loss`; a batch without words has none."""
        from torch.nn import functional

        flat = targets.flatten()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), flat, weight=weights, ignore_index=IGNORED, reduction="none"
        )
        # Over words, not over their weights: in a batch of one word its weight would cancel.
        return losses.sum() / (flat != IGNORED).sum().clamp(min=1)

    def class_weights(self, truths: Sequence[Tags], classes: int) -> list[float]:
        """See :meth:`Problem.class_weights`; what counts are words."""
        counts = Counter(tag for row in truths for tag in row)
        return balanced([counts[tag] for tag in range(classes)])

    def decode(
        self, logits: Any, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Tags]:
        """See :meth:`Problem.decode`."""
        outside = _outside(labels)
        found = []
        for best, row in zip(logits.argmax(-1).tolist(), rows, strict=True):
            found.append(tuple(best[place] if place >= 0 else outside for place in row["word_starts"]))
        return found

    def predictions(
        self, logits: Tensor, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], decoding: Decoding
    ) -> list[Prediction]:
        """See :meth:`Problem.predictions`."""
        marked = marks_entities(labels)
        found: list[Prediction] = []
        shares = logits.softmax(-1).max(-1).values.tolist()
        for chosen, of_row, row in zip(self.decode(logits, rows, labels, decoding), shares, rows, strict=True):
            tags, words = tuple(labels[tag] for tag in chosen), tuple(row["words"])
            spans = tuple(
                Span(kind, " ".join(words[start:stop]), start, stop)
                for kind, start, stop in (entities(tags) if marked else ())
            )
            certain = tuple(of_row[place] if place >= 0 else 0.0 for place in row["word_starts"])
            found.append(TagsPrediction(" ".join(tags), {}, words, tags, certain, spans))
        return found

    def shown(self, answers: Sequence[Tags], labels: Sequence[str]) -> Sequence[list[str]]:
        """See :meth:`Problem.shown`: the names of the tags."""
        return [[labels[tag] for tag in row] for row in answers]

    def row_scores(self, answers: Sequence[Tags], truths: Sequence[Tags]) -> list[float]:
        """See :meth:`Problem.row_scores`; a row without words is right."""
        return [
            sum(one == true for one, true in zip(answer, truth, strict=True)) / len(truth) if truth else 1.0
            for answer, truth in zip(answers, truths, strict=True)
        ]

    def constant_answers(self, train: Sequence[Tags], truths: Sequence[Tags], classes: int) -> list[Tags]:
        """See :meth:`Problem.constant_answers`: the most frequent tag for every word."""
        counts = Counter(tag for row in train for tag in row)
        most = max(range(classes), key=lambda tag: counts[tag])
        return [(most,) * len(row) for row in truths]


def marks_entities(labels: Sequence[str]) -> bool:
    """Whether tags are those of entities: ``O``, and such as ``B-PER``."""
    return all(label == OUTSIDE or (label[:1] in PREFIXES and label[1:2] == "-") for label in labels)


def _outside(labels: Sequence[str]) -> int:
    return labels.index(OUTSIDE) if OUTSIDE in labels else 0


def _listed(value: Any, where: str) -> list[Any]:
    """The tags of a row as a list.

    Raises:
        DataError: It is none.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(
                f"{where}: the tags {shorten(value)} are no JSON list. Write them with spaces between them, as in "
                '"O B-PER", or a list such as ["O", "B-PER"].'
            ) from error
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list | tuple):
        return list(value)
    raise DataError(
        f"{where}: the tags must be a list, or a text with spaces between them; found {shorten(value)}. Each word of "
        "the text needs one."
    )
