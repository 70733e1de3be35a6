"""Heads of many adapters read one hidden state together.

Letters as in ``docs/notation.md``; ``N`` is the number of adapters that read a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.config import PromptConfig
from promptwise.core.seeding import seeded
from promptwise.errors import ConfigError
from promptwise.heads.base import Head, take
from promptwise.heads.classifier import ClassifierHead, pooled
from promptwise.heads.cloze import ClozeHead, token_logits
from promptwise.models.parts import check_head, head_options
from promptwise.registry import HEADS
from promptwise.tasks.spec import TaskSpec
from promptwise.tasks.template import require_mask_last

_WEIGHT, _BIAS = "head.linear.weight", "head.linear.bias"


def make_head(backbone: Backbone, spec: TaskSpec, config: PromptConfig, device: torch.device) -> Head:
    """A head, as :class:`~promptwise.models.prompted.PromptedModel` makes it, on a device.

    Raises:
        ConfigError: The task or the backbone cannot serve it.
    """
    check_head(config, spec)
    kind = HEADS.get(config.head)
    if kind.cloze and not backbone.has_lm_head:
        raise ConfigError("The cloze head needs a backbone that was loaded with lm_head=True.")
    if kind.cloze and backbone.kind == "decoder":
        require_mask_last(spec, backbone.name)
    with seeded(0), device:
        head: Head = kind(backbone, spec, **head_options(config))
    return head.to(device).eval()


@dataclass(frozen=True, eq=False)
class Reader:
    """What reads the scores of one adapter.

    Attributes:
        head: The head; those of classifiers are shared by adapters, and their numbers are not.
        tensors: The adapter's own numbers, by the names of a saved adapter.
        prior: ``[C]`` what is taken off the scores; ``None`` for nothing.
    """

    head: Head
    tensors: Mapping[str, Tensor]
    prior: Tensor | None = None


ReaderPart = tuple[Reader, list[int]]
"""A reader and its rows of a batch."""


def scores(
    parts: Sequence[ReaderPart], backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor
) -> list[Tensor]:
    """The logits ``[C]`` of each row, of words ``[T, C]``, on the CPU; rows differ in ``C``.

    Args:
        parts: Who reads which rows; together they read all.
        backbone: The frozen model.
        hidden: ``[B, T, H]``, real tokens first.
        mask: ``[B, T]``.
        mask_position: ``[B]`` where a mask token stands; the last real token for rows without.
    """
    found: list[Tensor | None] = [None] * len(hidden)
    classifiers = [part for part in parts if type(part[0].head) is ClassifierHead]
    clozes = [part for part in parts if type(part[0].head) is ClozeHead]
    for rows, logits in (
        *_classified(classifiers, hidden, mask),
        *_answered(clozes, backbone, hidden, mask_position),
        *_each(parts, backbone, hidden, mask, mask_position),
    ):
        for row, of_row in zip(rows, logits.float().cpu(), strict=True):
            found[row] = of_row
    return [logits for logits in found if logits is not None]


def _classified(parts: Sequence[ReaderPart], hidden: Tensor, mask: Tensor) -> list[tuple[list[int], Tensor]]:
    """Classifiers: one product with the weights of all of them, of which each row takes its own columns."""
    by_pooling: dict[str, list[ReaderPart]] = {}
    for part in parts:
        head = part[0].head
        assert isinstance(head, ClassifierHead)
        by_pooling.setdefault(head.pooling, []).append(part)
    results: list[tuple[list[int], Tensor]] = []
    for pooling, own in by_pooling.items():
        rows = [row for _, of_part in own for row in of_part]
        chosen = torch.tensor(rows, device=hidden.device)
        states = pooled(pooling, hidden[chosen], mask[chosen])
        weight = torch.cat([reader.tensors[_WEIGHT].float() for reader, _ in own])
        bias = torch.cat([reader.tensors[_BIAS].float() for reader, _ in own])
        every = nn.functional.linear(states, weight, bias).cpu()
        first = done = 0
        for reader, of_part in own:
            count = len(reader.tensors[_BIAS])
            results.append((of_part, every[done : done + len(of_part), first : first + count]))
            first, done = first + count, done + len(of_part)
    return results


def _answered(
    parts: Sequence[ReaderPart], backbone: Backbone, hidden: Tensor, mask_position: Tensor
) -> list[tuple[list[int], Tensor]]:
    """Cloze questions: one product with the rows of the output matrix that any of them needs."""
    if not parts:
        return []
    rows = [row for _, of_part in parts for row in of_part]
    chosen = torch.tensor(rows, device=hidden.device)
    heads: dict[int, tuple[ClozeHead, int]] = {}
    first = 0
    for reader, _ in parts:
        head = reader.head
        assert isinstance(head, ClozeHead)
        if id(head) not in heads:
            heads[id(head)] = (head, first)
            first += len(head.token_ids)
    ids = torch.cat([head.token_ids for head, _ in heads.values()])
    logits = token_logits(backbone, take(hidden[chosen], mask_position[chosen]), ids)
    results, done = [], 0
    for reader, of_part in parts:
        head, first = heads[id(reader.head)]
        own = logits[done : done + len(of_part), first : first + len(head.token_ids)] @ head.shares
        results.append((of_part, own if reader.prior is None else own - reader.prior))
        done += len(of_part)
    return results


def _each(
    parts: Sequence[ReaderPart], backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor
) -> list[tuple[list[int], Tensor]]:
    """Any other head, one adapter after the other."""
    results = []
    for reader, rows in parts:
        if type(reader.head) not in (ClassifierHead, ClozeHead):
            chosen = torch.tensor(rows, device=hidden.device)
            asked = mask_position[chosen] if reader.head.cloze else None
            results.append((rows, reader.head(backbone, hidden[chosen], mask[chosen], asked)))
    return results
