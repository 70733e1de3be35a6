"""What enters the frozen model for the rows of a batch, as data: injectors make it, the backbone runs it once.

Letters as in ``docs/notation.md``: ``B`` rows, ``T`` tokens of the input, ``K`` prompt vectors, ``E`` width of the
input embeddings, ``H`` of the hidden states, ``L`` layers, ``A`` key/value heads of size ``D``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

Place = Literal["input", "feed-forward"]
"""Where a layer's hidden states can be changed: as they enter it, or beside its feed-forward network, whose input is
read and to whose output is added."""

Site = tuple[int, Place]
"""A place in a layer; layers are counted from 0."""

Edit = Callable[[Tensor], Tensor]
"""From the hidden states ``[B, T, H]`` of the rows' own tokens to what is added to them, ``[B, T, H]`` or ``[B, 1,
H]``."""


@dataclass(frozen=True)
class Injection:
    """What enters the frozen model for ``B`` rows; every part is optional.

    Attributes:
        rows: ``B``.
        prompt: ``[B or 1, K, E]`` vectors before the input embeddings; ``[B or 1, K, H]`` where they enter above
            layer 0.
        prompt_mask: ``[B, K]``, ``False`` where a row has no vector; ``None`` where every row has all.
        prefix: For each of ``L`` layers keys and values ``[2, B or 1, A, K, D]`` before those of the sequence; none
            (``K`` is 0) in layers below the one at which they enter.
        prefix_mask: ``[B, K]``, ``False`` where a row has no keys and values; ``None`` where every row has all.
        edits: What is added to hidden states, by layer and place.
    """

    rows: int
    prompt: Tensor | None = None
    prompt_mask: Tensor | None = None
    prefix: tuple[Tensor, ...] | None = None
    prefix_mask: Tensor | None = None
    edits: Mapping[Site, Edit] = field(default_factory=dict)

    @property
    def lowest_layer(self) -> int | None:
        """The first layer that is touched; ``None`` where nothing is. Prefixes are taken to touch all layers."""
        if self.prompt is not None or self.prefix is not None:
            return 0
        layers = [layer for layer, _ in self.edits]
        return min(layers) if layers else None


def merge(injections: Sequence[Injection]) -> Injection:
    """The injection of one batch that holds the rows of several, in their order.

    Rows may differ in everything: a row without a part that another has gets an empty place for it, which a mask hides.

    Args:
        injections: Made for the same backbone and layer.
    """
    prompt, prompt_mask = _merged_prompts(injections)
    prefix, prefix_mask = _merged_prefixes(injections)
    return Injection(
        rows=sum(injection.rows for injection in injections),
        prompt=prompt,
        prompt_mask=prompt_mask,
        prefix=prefix,
        prefix_mask=prefix_mask,
        edits=_merged_edits(injections),
    )


def _merged_prompts(injections: Sequence[Injection]) -> tuple[Tensor | None, Tensor | None]:
    like = next((injection.prompt for injection in injections if injection.prompt is not None), None)
    if like is None:
        return None, None
    prompts = [like[:1, :0] if injection.prompt is None else injection.prompt for injection in injections]
    lengths = [prompt.shape[1] for prompt in prompts]
    padded = [
        _padded(prompt.expand(injection.rows, -1, -1), max(lengths), dim=1)
        for injection, prompt in zip(injections, prompts, strict=True)
    ]
    masks = [injection.prompt_mask for injection in injections]
    return torch.cat(padded), _merged_mask(injections, lengths, masks, like.device)


def _merged_prefixes(injections: Sequence[Injection]) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
    like = next((injection.prefix for injection in injections if injection.prefix is not None), None)
    if like is None:
        return None, None
    none = tuple(layer[:, :1, :, :0] for layer in like)
    prefixes = [none if injection.prefix is None else injection.prefix for injection in injections]
    # The last layer has all of them; those below the entry have none.
    lengths = [prefix[-1].shape[3] for prefix in prefixes]
    layers = tuple(
        torch.cat(
            [
                _padded(prefix[layer].expand(-1, injection.rows, -1, -1, -1), max(lengths), dim=3)
                for injection, prefix in zip(injections, prefixes, strict=True)
            ],
            dim=1,
        )
        for layer in range(len(like))
    )
    masks = [injection.prefix_mask for injection in injections]
    return layers, _merged_mask(injections, lengths, masks, like[0].device)


def _merged_mask(
    injections: Sequence[Injection], lengths: Sequence[int], masks: Sequence[Tensor | None], device: torch.device
) -> Tensor | None:
    """Which slots are real ``[B, K]``; ``None`` where all are.

    Args:
        injections: The parts of the batch.
        lengths: How many slots each part has.
        masks: Of each part, ``None`` where all of its slots are real.
        device: Where the slots are.
    """
    longest = max(lengths)
    if all(mask is None and length == longest for mask, length in zip(masks, lengths, strict=True)):
        return None
    whole = [
        torch.ones(injection.rows, length, dtype=torch.bool, device=device) if mask is None else mask
        for injection, length, mask in zip(injections, lengths, masks, strict=True)
    ]
    return torch.cat([_padded(mask, longest, dim=1) for mask in whole])


def _padded(values: Tensor, length: int, dim: int) -> Tensor:
    """Values with zeros at the end of a dimension."""
    after = values.dim() - 1 - dim
    return nn.functional.pad(values, (0, 0) * after + (0, length - values.shape[dim]))


def _merged_edits(injections: Sequence[Injection]) -> dict[Site, Edit]:
    ends = list(accumulate(injection.rows for injection in injections))
    parts: dict[Site, list[tuple[int, int, Edit]]] = {}
    for injection, end in zip(injections, ends, strict=True):
        for site, edit in injection.edits.items():
            parts.setdefault(site, []).append((end - injection.rows, end, edit))
    return {site: EditOfRows(tuple(of_site)) for site, of_site in parts.items()}


@dataclass(frozen=True)
class EditOfRows:
    """Edits of some rows of a batch; the other rows stay as they are.

    Attributes:
        parts: First row, end and edit of neighbouring rows, in order.
    """

    parts: tuple[tuple[int, int, Edit], ...]

    def __call__(self, hidden: Tensor) -> Tensor:
        """What is added to ``hidden`` ``[B, T, H]``."""
        pieces, done = [], 0
        for start, end, edit in self.parts:
            pieces.append(torch.zeros_like(hidden[done:start]))
            pieces.append(edit(hidden[start:end]).to(hidden.dtype).expand_as(hidden[start:end]))
            done = end
        pieces.append(torch.zeros_like(hidden[done:]))
        return torch.cat(pieces)
