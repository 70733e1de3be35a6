"""Entities that tags mark, and their F1: the numbers of seqeval's default mode, which are those of CoNLL's script.

Source: Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419/ (an entity is right where its kind and
both of its ends are); https://github.com/chakki-works/seqeval. Tags may be IOB1, IOB2, IOE or IOBES,
with the prefix first.
"""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""The kind, the place of the first word, and of the word behind the last one."""

PREFIXES = "BIESO"


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one text, in order.

    A tag without a prefix, such as ``NOUN``, is read as seqeval does: its first letter is the prefix, and the kind is
    ``_`` where no hyphen follows.
    """
    found: list[Entity] = []
    before, kind_before, start = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix = tag[:1]
        kind = tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(before, prefix, kind_before, kind):
            found.append((kind_before, start, place))
        if _starts(before, prefix, kind_before, kind):
            start = place
        before, kind_before = prefix, kind
    return found


def _ends(before: str, now: str, kind_before: str, kind: str) -> bool:
    """Whether an entity ended with the tag before."""
    if before in "ES":
        return True
    if before in "BI" and now in "BSO":
        return True
    return before not in "O." and kind_before != kind


def _starts(before: str, now: str, kind_before: str, kind: str) -> bool:
    """Whether an entity starts with this tag."""
    if now in "BS":
        return True
    if before in "ESO" and now in "EI":
        return True
    return now not in "O." and kind_before != kind


def entity_scores(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Precision, recall and F1 over the entities of all texts together; 0 where there are none to divide by."""
    found, true = (
        {(row, *entity) for row, tags in enumerate(texts) for entity in entities(tags)}
        for texts in (predictions, labels)
    )
    both = len(found & true)
    precision = both / len(found) if found else 0.0
    recall = both / len(true) if true else 0.0
    return precision, recall, 2 * both / (len(found) + len(true)) if found or true else 0.0
