"""What an injector asks of a strategy, and what a strategy makes. Letters as in ``docs/notation.md``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PromptShape:
    """What an injector asks of a strategy.

    Attributes:
        length: ``K``, vectors per instance.
        width: ``W``, the width of each.
        embedding_size: ``E``, the width of the frozen word embeddings that a strategy may read.
        init_scale: New vectors are drawn from U(-init_scale, init_scale).
    """

    length: int
    width: int
    embedding_size: int
    init_scale: float


@dataclass(frozen=True)
class Prompt:
    """The prompt of each instance.

    Attributes:
        vectors: ``[B, K, W]``, or ``[1, K, W]`` where all instances have the same.
        mask: ``[B, K]``, ``False`` where the instance has no vector for that slot (its text is too short); ``None``
            where every instance has all ``K``, so that there are no gaps to close.
    """

    vectors: Tensor
    mask: Tensor | None = None
