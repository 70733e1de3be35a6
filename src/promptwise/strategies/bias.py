"""Biases of each token in each layer: small low-rank maps make what is added to the hidden states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from promptwise.core.injection import Edit, Place, Site
from promptwise.core.instance import Instance
from promptwise.core.prompt import Prompt, PromptShape
from promptwise.errors import ConfigError
from promptwise.strategies.base import Strategy
from promptwise.strategies.settings import ContextBiasSettings, TokenBiasSettings
from promptwise.strategies.text_vectors import normalised


class _LayerBias(Strategy):
    """What both strategies are made of: ``D_l`` ``[r, size]``, which starts at N(0, 1/size), and ``U_l`` ``[H, r]``.

    ``U`` starts at zero, so that training starts from the model as it is.
    """

    makes_edits: ClassVar[bool] = True
    lr_scale: ClassVar[float] = 0.3
    stacks = True

    def __init__(self, shape: PromptShape, rank: int, size: int) -> None:
        super().__init__(shape)
        count = len(shape.layers)
        self.down = nn.Parameter(torch.randn(count, rank, size) * size**-0.5)
        self.up = nn.Parameter(torch.zeros(count, shape.hidden_size, rank))

    def from_vectors(self, vectors: Tensor, activation: Callable[[Tensor], Tensor], place: Place) -> dict[Site, Edit]:
        """Edits of all layers that are made of the same vectors ``[B, T, size]`` of the tokens."""
        return {
            (layer, place): partial(_from_codes, own, up)
            for layer, own, up in zip(self.shape.layers, self.codes(vectors, activation), self.up, strict=True)
        }

    def codes(self, vectors: Tensor, activation: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """For each layer ``phi(D_l LN(v))`` ``[..., r]`` of vectors ``[..., size]``."""
        # One product for all layers: [..., size] with [L*r, size].
        codes: Tensor = activation(nn.functional.linear(normalised(vectors), self.down.flatten(0, 1)))
        by_layer: tuple[Tensor, ...] = codes.unflatten(-1, self.down.shape[:2]).unbind(-2)
        return by_layer


class TokenBias(_LayerBias):
    """A bias of each token for each layer, made from its frozen word embedding.

    ``h_l <- h_l + U_l phi(D_l LN(e_t))`` with ``e_t`` the embedding of the token, ``D_l`` ``[r, E]`` and ``U_l``
    ``[H, r]`` (AoT P-tuning, Gavrilov and Balagansky 2023, equation 3, with a low-rank map in place of its table). What
    a token gets depends on the token alone, not on its place or its neighbours. ``D`` starts at N(0, 1/E), ``U`` at
    zero, so that training starts from the model as it is.

    For inference :meth:`fold` makes the bias of every token of the vocabulary once: ``[L, V, H]`` in float16, which
    rounds what is added by at most 2^-11 of it. It is used where no token is faded. It belongs to the weights of that
    moment and is not saved; training, loading and a pass that keeps gradients drop it.

    Args:
        shape: What the injector asks for.
        bias_rank: ``r``.
        bias_activation: ``phi``: ``gelu`` or ``none``.
    """

    settings: ClassVar[type] = TokenBiasSettings
    folds: ClassVar[bool] = True
    folded: Tensor | None

    def __init__(
        self,
        shape: PromptShape,
        bias_rank: int = TokenBiasSettings.bias_rank,
        bias_activation: str = TokenBiasSettings.bias_activation,
    ) -> None:
        super().__init__(shape, bias_rank, shape.embedding_size)
        self.activation = ACTIVATIONS[bias_activation]
        self.register_buffer("folded", None, persistent=False)

    def folded_bytes(self, vocabulary: int) -> int:
        """See :meth:`Strategy.folded_bytes`."""
        return len(self.shape.layers) * vocabulary * self.shape.hidden_size * _FOLDED.itemsize

    @torch.no_grad()
    def fold(self, embedding: nn.Module) -> None:
        """See :meth:`Strategy.fold`.

        Raises:
            ConfigError: A bias is too large for float16.
        """
        weight = embedding.get_parameter("weight")
        ids = torch.arange(len(weight), device=weight.device)
        folded = torch.empty(
            len(self.shape.layers), len(ids), self.shape.hidden_size, dtype=_FOLDED, device=self.up.device
        )
        for some in ids.split(_FOLDED_AT_A_TIME):
            for rows, codes, up in zip(folded, self.codes(embedding(some), self.activation), self.up, strict=True):
                rows[some] = nn.functional.linear(codes, up).to(_FOLDED)
        if not bool(folded.isfinite().all()):
            raise ConfigError("A bias is too large for float16, so that this model cannot be folded: leave --fold out.")
        self.folded = folded

    def train(self, mode: bool = True) -> TokenBias:
        """Switch the mode; what was folded is of weights that training changes, and is dropped."""
        if mode:
            self.folded = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Drop what was folded of the weights before."""
        self.folded = None
        super()._load_from_state_dict(*args)

    def forward(self, instance: Instance) -> Prompt:
        """Edits of what enters each layer."""
        if self.folded is not None and instance.presence is None:
            if not torch.is_grad_enabled():
                edits: dict[Site, Edit] = {
                    (layer, "input"): partial(_looked_up, rows, instance.ids)
                    for layer, rows in zip(self.shape.layers, self.folded, strict=True)
                }
                return edits_of(edits, instance)
            # A gradient is wanted, so the weights are about to change.
            self.folded = None
        return edits_of(self.from_vectors(instance.embeddings, self.activation, "input"), instance)


class ContextBias(_LayerBias):
    """A bias of each token for each layer, made from its hidden state: beside the feed-forward network of the layer.

    ``FFN_l(.) <- FFN_l(.) + U_l GELU(D_l LN(h))`` with ``D_l`` ``[r, H]`` and ``U_l`` ``[H, r]``, where ``h`` is what
    the network reads (a parallel adapter, He et al. 2022, table 1) or, with ``reads_layer``, the state of the same
    token that enters one layer below all edits, which is then the same for all of them. Both start as
    :class:`TokenBias`.

    Args:
        shape: What the injector asks for.
        bias_rank: ``r``.
        reads_layer: The layer whose incoming states are read; by default each layer reads its own.
    """

    settings: ClassVar[type] = ContextBiasSettings

    def __init__(
        self,
        shape: PromptShape,
        bias_rank: int = ContextBiasSettings.bias_rank,
        reads_layer: int | None = ContextBiasSettings.reads_layer,
    ) -> None:
        super().__init__(shape, bias_rank, shape.hidden_size)
        self.reads_layer = reads_layer

    def forward(self, instance: Instance) -> Prompt:
        """Edits beside each feed-forward network."""
        if self.reads_layer is not None:
            assert instance.states is not None
            return edits_of(self.from_vectors(instance.states, nn.functional.gelu, "feed-forward"), instance)
        edits: dict[Site, Edit] = {
            (layer, "feed-forward"): partial(_from_states, down, up)
            for layer, down, up in zip(self.shape.layers, self.down, self.up, strict=True)
        }
        return edits_of(edits, instance)


def edits_of(edits: dict[Site, Edit], instance: Instance) -> Prompt:
    """A prompt of edits alone."""
    return Prompt(instance.embeddings.new_zeros(1, 0, 0), edits=edits)


def _from_codes(codes: Tensor, up: Tensor, hidden: Tensor) -> Tensor:
    """``U c`` of codes ``[B, T, r]``, whatever the states are."""
    return nn.functional.linear(codes, up)


def _looked_up(rows: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:
    """The rows ``[B, T, H]`` of tokens ``[B, T]`` in a folded bias ``[V, H]``, whatever the states are."""
    return nn.functional.embedding(ids, rows)


def _from_states(down: Tensor, up: Tensor, hidden: Tensor) -> Tensor:
    """``U GELU(D LN(h))`` of states ``[B, T, H]``."""
    return nn.functional.linear(nn.functional.gelu(nn.functional.linear(normalised(hidden), down)), up)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": nn.functional.gelu, "none": nn.Identity()}
"""By the names of ``--bias-activation``."""

_FOLDED, _FOLDED_AT_A_TIME = torch.float16, 4096
"""What folded biases are kept in, and of how many tokens they are made together."""
