"""What an injector asks of a strategy, and what a strategy makes. Letters as in ``docs/notation.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from promptwise.core.injection import Edit, Site


@dataclass(frozen=True)
class PromptShape:
    """What an injector asks of a strategy.

    Attributes:
        length: ``K``, vectors per instance.
        width: ``W``, the width of each.
        embedding_size: ``E``, the width of the frozen word embeddings that a strategy may read.
        init_scale: New vectors are drawn from U(-init_scale, init_scale).
        hidden_size: ``H``, the width of the hidden states inside the layers, which a strategy may read or edit; 0 where
            there is no prompt.
        layers: Numbers of the layers whose hidden states can be edited; none where no edits are taken.
    """

    length: int
    width: int
    embedding_size: int
    init_scale: float
    hidden_size: int = 0
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """The prompt of each instance.

    Attributes:
        vectors: ``[B, K, W]``, or ``[1, K, W]`` where all instances have the same; none from a strategy that makes
            edits.
        mask: ``[B, K]``, ``False`` where the instance has no vector for that slot (its text is too short); ``None``
            where every instance has all ``K``, so that there are no gaps to close.
        edits: What is added to the hidden states of the instances' own tokens, from a strategy that makes edits.
    """

    vectors: Tensor
    mask: Tensor | None = None
    edits: Mapping[Site, Edit] = field(default_factory=dict)
