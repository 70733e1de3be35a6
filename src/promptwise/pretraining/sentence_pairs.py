"""Pairs of sentences from text without labels, to pre-train a prompt on (PPT; Gu et al. 2022, section 3.2).

The prompt learns next-sentence prediction as a cloze with three answers, in the shape of inference tasks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from promptwise.config import PairsConfig
from promptwise.errors import DataError
from promptwise.pretraining.corpus import read_corpus
from promptwise.tasks.data import TaskData, task_data
from promptwise.tasks.examples import Example
from promptwise.tasks.spec import TaskSpec

SPEC = TaskSpec(
    name="sentence_pairs",
    description="Does the second sentence follow the first, is it of the same paragraph, or of another one?",
    text="{first}",
    text_pair="{second}",
    label="label",
    labels=("next", "same paragraph", "other paragraph"),
    template='{text} Does this go on with "{text_pair}"? Answer: {mask}.',
    label_words={"next": ("yes",), "same paragraph": ("maybe",), "other paragraph": ("no",)},
)

MIN_WORDS = 4
"""Sentences with fewer words are left out: most are pieces of abbreviations and headings."""

_APART = 2
"""Sentences between which at least one other stands; they are of the same paragraph, but not next to each other."""
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


def load_pairs(config: PairsConfig) -> TaskData:
    """The pairs of a configuration's corpus; those of held-out paragraphs are validation and test.

    Raises:
        DataError: The corpus cannot be read, or has too few paragraphs of several sentences.
    """
    corpus = read_corpus(config.corpus, config.text_column, config.held_out)
    half = len(corpus.held_out) // 2
    # The same pairs for every seed: the seed draws the prompt's first values and the order.
    splits = {
        "train": sentence_pairs(corpus.train, config.pairs),
        "validation": sentence_pairs(corpus.held_out[:half], half),
        "test": sentence_pairs(corpus.held_out[half:], half),
    }
    return task_data(SPEC, splits, ", ".join(config.corpus))


def sentence_pairs(paragraphs: Sequence[str], count: int) -> list[Example]:
    """Pairs of sentences, a third of each kind, the same at every call.

    Args:
        paragraphs: Text.
        count: How many pairs.

    Raises:
        DataError: Too few paragraphs have enough sentences.
    """
    parts = [part for part in map(split_sentences, paragraphs) if len(part) > _APART and _neighbours(part)]
    if len(parts) < 10:
        raise DataError(
            f"Only {len(parts)} of {len(paragraphs):,} paragraphs have more than {_APART} sentences of at least "
            f"{MIN_WORDS} words, two of them next to each other; pairs take 10. Add text to --corpus, or raise "
            "--held-out."
        )
    draw = random.Random(0)
    pairs = []
    for number in range(count):
        kind, part = number % len(SPEC.labels), draw.choice(parts)
        if kind == 0:
            first, second = draw.choice(_neighbours(part))
        elif kind == 1:
            place = draw.randrange(len(part) - _APART)
            first, second = part[place], draw.choice(part[place + _APART :])
        else:
            other = draw.choice([one for one in draw.sample(parts, 2) if one is not part])
            first, second = draw.choice(part), draw.choice(other)
        pairs.append(Example(first.text, second.text, kind))
    return pairs


class Sentence(NamedTuple):
    """A sentence, and its number in its paragraph."""

    place: int
    text: str


def split_sentences(paragraph: str) -> list[Sentence]:
    """The sentences of a paragraph of at least :data:`MIN_WORDS` words, numbered with the shorter ones."""
    return [Sentence(place, text) for place, text in enumerate(_END.split(paragraph)) if len(text.split()) >= MIN_WORDS]


def _neighbours(part: Sequence[Sentence]) -> list[tuple[Sentence, Sentence]]:
    """The pairs of sentences between which none was left out."""
    return [(first, second) for first, second in pairwise(part) if second.place == first.place + 1]
