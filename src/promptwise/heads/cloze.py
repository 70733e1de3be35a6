"""The frozen language-model head scores label words at a mask; nothing of the head is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.families import FAMILIES
from promptwise.errors import BackboneError, ConfigError
from promptwise.heads.base import Head, take
from promptwise.heads.settings import ClozeSettings
from promptwise.tasks.spec import TaskSpec

Transform = Callable[[Tensor], Tensor]


class ClozeHead(Head):
    """Scores labels by their words (cloze prompts and verbalizers; paper, section 1).

    A word's score is the language-model logit at the mask, a word of several tokens has the mean of its tokens'
    logits, and a label has the mean over its words (as OpenPrompt's ManualVerbalizer). Only the logits of tokens of
    label words are computed: one row per mask against ``N`` rows of the output matrix, never ``V``.

    A decoder has no mask token: the text ends where the mask would stand, and its next-token logits are read.

    Args:
        backbone: The frozen model with its language-model head.
        spec: The task with its label words.

    Raises:
        BackboneError: The backbone's language-model head is not known here.
        ConfigError: A label word is unknown to the tokenizer, two labels have the same tokens, or an encoder has no
            mask token to ask at.
    """

    settings: ClassVar[type] = ClozeSettings
    cloze: ClassVar[bool] = True
    token_ids: Tensor
    shares: Tensor

    def __init__(self, backbone: Backbone, spec: TaskSpec) -> None:
        super().__init__(backbone, spec)
        backbone.lm_head_parts()
        if backbone.kind != "decoder" and backbone.mask_token_id is None:
            raise ConfigError(
                f"The tokenizer of {backbone.name} has no mask token, at which the cloze head asks. Use --head "
                "classifier."
            )
        words = label_word_tokens(backbone.tokenizer, spec)
        by_label = [token_shares(label) for label in words]
        ids = sorted({token for shares in by_label for token in shares})
        shares = torch.tensor([[float(label.get(token, 0)) for label in by_label] for token in ids])
        self.register_buffer("token_ids", torch.tensor(ids), persistent=False)
        self.register_buffer("shares", shares, persistent=False)
        if backbone.model_type not in FAMILIES and backbone.kind != "encoder-decoder":
            _check_logits(backbone, self.token_ids)

    def forward(self, backbone: Backbone, hidden: Tensor, mask: Tensor, mask_position: Tensor | None) -> Tensor:
        """See :meth:`Head.forward`."""
        position = mask.sum(1) - 1 if mask_position is None else mask_position
        return token_logits(backbone, take(hidden, position), self.token_ids) @ self.shares


def token_logits(backbone: Backbone, states: Tensor, token_ids: Tensor) -> Tensor:
    """Language-model logits ``[B, N]`` of tokens ``[N]`` at hidden states ``[B, H]``."""
    transform, matrix, bias = backbone.lm_head_parts()
    with backbone.autocast():
        logits = nn.functional.linear(transform(states), matrix[token_ids])
    if bias is not None:
        logits = logits + bias[token_ids]
    return _scaled(logits.float(), backbone.config)


@torch.no_grad()
def _check_logits(backbone: Backbone, token_ids: Tensor) -> None:
    """Make sure that the logits of tokens ``[N]`` are the model's own, for a family of which nothing is known here.

    Raises:
        BackboneError: Its language-model head does more than was supposed.
    """
    token_ids = token_ids.to(backbone.device)
    options = {"use_cache": False} if backbone.kind == "decoder" else {}
    with backbone.autocast():
        own = backbone.model(input_ids=token_ids[:1, None], **options).logits[:, -1, token_ids].float()
        states = backbone.base(input_ids=token_ids[:1, None], **options).last_hidden_state[:, -1]
    apart = (token_logits(backbone, states, token_ids) - own).abs().max()
    if not apart <= _TOLERANCE * own.abs().max():
        raise BackboneError(
            f"The language-model head of {backbone.model_type!r} is not known here, so its answers cannot be read. "
            "Choose another model, or train with --head classifier."
        )


_TOLERANCE = 0.05
"""What rounding to bfloat16 may make of logits; another head is apart by more."""


def label_word_tokens(tokenizer: Any, spec: TaskSpec) -> list[list[list[int]]]:
    """Token ids of every word of every label, in the order of the labels.

    Words carry a space in front where the template has one before its mask, as running text would.

    Raises:
        ConfigError: A word is unknown to the tokenizer, or two labels have the same tokens.
    """
    before = spec.template.partition("{mask}")[0]
    space = " " if before[-1:].isspace() else ""
    labels = []
    for label in spec.labels:
        words = []
        for word in spec.label_words[label]:
            ids = tokenizer(space + word, add_special_tokens=False)["input_ids"]
            if not ids or tokenizer.unk_token_id in ids:
                raise ConfigError(
                    f"The label word {word!r} of {label!r} is unknown to the tokenizer. Choose another word."
                )
            words.append(list(ids))
        labels.append(words)
    for index, words in enumerate(labels):
        for other in range(index):
            if token_shares(words) == token_shares(labels[other]):
                raise ConfigError(
                    f"The labels {spec.labels[other]!r} and {spec.labels[index]!r} have label words with the same "
                    "tokens, so they cannot be told apart. Choose other words."
                )
    return labels


def token_shares(words: Sequence[Sequence[int]]) -> dict[int, Fraction]:
    """The share that each token's logit has in the score of a label with words of these tokens; of sum 1."""
    shares: dict[int, Fraction] = defaultdict(Fraction)
    for word in words:
        for token in word:
            shares[token] += Fraction(1, len(word) * len(words))
    return dict(shares)


def _scaled(logits: Tensor, config: Any) -> Tensor:
    """What some decoders do to their logits last: Granite divides, Cohere multiplies, Gemma caps them."""
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0) * (getattr(config, "logit_scale", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
