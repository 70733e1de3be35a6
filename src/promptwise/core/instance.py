"""What a strategy sees and what it makes. Letters as in ``docs/notation.md``.

``B`` batch, ``T`` tokens of the instance, ``K`` prompt vectors, ``E`` width of the input embeddings
(``H`` for most backbones), ``W`` width that the injector asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Instance:
    """A batch of tokenised inputs. Masks are boolean, ``True`` = real.

    Attributes:
        ids: ``[B, T]`` token ids.
        mask: ``[B, T]`` real tokens, ``False`` = padding.
        text: ``[B, T]`` tokens of the input's own text: no padding, no special token, no template word.
        embeddings: ``[B, T, E]`` frozen word embeddings of ``ids``.
        cloze: Whether the inputs ask for a word at a mask; ``[B]`` where rows of several heads share a batch.
        token_types: ``[B, T]`` which text of a pair a token belongs to, for models that tell them apart.
        states: ``[B, T, H]`` the hidden states that enter the layer which the strategy reads; with ``reads_layer``
            alone.
        entering: ``[B, T, H]`` the hidden states that enter the layer at which prompts enter, where they are at hand;
            with ``from_layer`` alone.
        presence: ``[B, T]`` from 0 to 1, how far each token has been faded in, for attribution; ``None`` for all there.
            ``embeddings`` are faded already; a strategy that looks vectors up by token fades those.
        absent: ``[E]`` the embedding that stands for an absent token; with ``presence`` alone.
    """

    ids: Tensor
    mask: Tensor
    text: Tensor
    embeddings: Tensor
    cloze: bool | Tensor = False
    token_types: Tensor | None = None
    states: Tensor | None = None
    entering: Tensor | None = None
    presence: Tensor | None = None
    absent: Tensor | None = None

    def first_text(self, count: int) -> Instance:
        """The first ``count`` tokens of the text of each row, moved to the left.

        Args:
            count: How many tokens to keep, at least 1.

        Returns:
            An instance of ``[B, count]``; rows with a shorter text end in positions whose mask is ``False``.
        """
        # Widened and then cut, without a branch on the texts' length: an exported graph has one way.
        order = left_order(self.text)
        mask = torch.nn.functional.pad(self.text.gather(1, order), (0, count))[:, :count]
        order = torch.nn.functional.pad(order, (0, count))[:, :count]
        return replace(
            self,
            ids=self.ids.gather(1, order),
            mask=mask,
            text=mask,
            embeddings=gather_rows(self.embeddings, order),
            token_types=None if self.token_types is None else self.token_types.gather(1, order),
            states=None if self.states is None else gather_rows(self.states, order),
            entering=None if self.entering is None else gather_rows(self.entering, order),
            presence=None if self.presence is None else self.presence.gather(1, order),
        )

    def faded(self, vectors: Tensor, absent: Tensor | None) -> Tensor:
        """Vectors ``[B, T, W]`` of the tokens, from that of their absence ``[W]`` as far as the tokens are there."""
        if self.presence is None or absent is None:
            return vectors
        return absent + self.presence.unsqueeze(-1) * (vectors - absent)

    def reading(self, count: int) -> Instance:
        """The same rows, of whose texts a strategy may read the first ``count`` tokens alone."""
        return replace(self, text=self.text & (self.text.long().cumsum(1) <= count))

    def rows(self, chosen: slice | Tensor) -> Instance:
        """Some of the rows, by a slice or by their numbers, which may repeat."""
        names = ("ids", "mask", "text", "embeddings", "token_types", "states", "entering", "presence")
        parts: dict[str, Any] = {name: getattr(self, name) for name in names}
        chosen_parts = {name: part[chosen] for name, part in parts.items() if part is not None}
        cloze = self.cloze[chosen] if isinstance(self.cloze, Tensor) else self.cloze
        return replace(self, cloze=cloze, **chosen_parts)

    def cut(self, length: int) -> Instance:
        """The first ``length`` columns."""
        names = ("ids", "mask", "text", "embeddings", "token_types", "states", "entering", "presence")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[:, :length] for name, part in parts.items() if part is not None})


def left_order(mask: Tensor) -> Tensor:
    """The ``[B, T]`` column order that puts the ``True`` columns of each row first and keeps their order."""
    # Counted and not sorted: ONNX has no stable sort.
    real = mask.long()
    places = torch.where(mask, real.cumsum(1), real.sum(1, keepdim=True) + (1 - real).cumsum(1)) - 1
    columns = torch.arange(mask.shape[1], device=mask.device).expand_as(places)
    return torch.empty_like(places).scatter(1, places, columns)


def gather_rows(values: Tensor, order: Tensor) -> Tensor:
    """``values[b, order[b, j]]`` for ``values`` ``[B, T, E]`` and ``order`` ``[B, J]``, as ``[B, J, E]``."""
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` ``[B, T, E]`` over the ``True`` columns of ``mask`` ``[B, T]``; zeros where there is none."""
    weight = mask.unsqueeze(-1).to(values.dtype)
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)
