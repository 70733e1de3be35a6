"""How well a model fills masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.pretraining.blocks import IGNORED, Blocks, Masking, ordinary_tokens
from promptwise.tasks.batching import chunks

HELD_OUT_SEED = 0


@torch.inference_mode()
def held_out_accuracy(
    backbone: Backbone, blocks: Blocks, mask_rate: float = 0.15, batch_size: int = 32, *, whole_words: bool = True
) -> dict[str, float]:
    """The share of predicted tokens that are right, on the masks that ``promptwise pretrain cloze`` scores.

    Args:
        backbone: An encoder with its language-model head.
        blocks: Held-out text, packed.
        mask_rate: Share of the tokens that are predicted.
        batch_size: Blocks at a time; it decides the masks too.
        whole_words: Mask whole words, as in training; otherwise each token for itself.

    Returns:
        See :func:`shares`.
    """
    if not whole_words:
        blocks = replace(blocks, word_starts=torch.ones_like(blocks.word_starts))
    tokenizer = backbone.tokenizer
    mask = Masking(blocks, tokenizer.mask_token_id, ordinary_tokens(tokenizer), mask_rate, HELD_OUT_SEED)
    total = torch.zeros(4)
    for rows in chunks([{"index": index, "block": index} for index in range(len(blocks))], batch_size):
        batch = {key: value.to(backbone.device) for key, value in mask(rows).items()}
        logits = mask_logits(backbone, batch["input_ids"], batch["positions"])
        total += (
            counts(logits, batch["labels"], batch["positions"], batch["input_ids"], tokenizer.mask_token_id)
            .sum(0)
            .cpu()
        )
    return shares(total.tolist())


def mask_logits(
    backbone: Backbone, input_ids: Tensor, positions: Tensor, output_matrix: Tensor | None = None
) -> Tensor:
    """Logits ``[P, V]`` in float32 at some positions alone.

    Args:
        backbone: An encoder with its language-model head.
        input_ids: ``[B, T]`` without padding.
        positions: ``[P]`` in the flattened batch.
        output_matrix: ``[V, .]`` in the compute dtype, to spare its cast; by default the head's own.
    """
    transform, matrix, bias = backbone.lm_head_parts()
    with backbone.autocast():
        hidden = backbone.base(input_ids=input_ids).last_hidden_state.flatten(0, 1)[positions]
        logits = torch.nn.functional.linear(transform(hidden), matrix if output_matrix is None else output_matrix)
    return logits.float() if bias is None else logits.float() + bias


def counts(logits: Tensor, labels: Tensor, positions: Tensor, input_ids: Tensor, mask_token_id: int) -> Tensor:
    """Of each block ``[B, 4]`` the right and all predictions, and the right and all at the mask token.

    Args:
        logits: ``[P, V]``.
        labels: ``[P]``.
        positions: ``[P]`` in the flattened batch.
        input_ids: ``[B, T]``.
        mask_token_id: The mask token.
    """
    predicted = labels != IGNORED
    right = (logits.argmax(-1) == labels) & predicted
    at_mask = (input_ids.flatten()[positions] == mask_token_id) & predicted
    each = torch.stack([right, predicted, right & at_mask, at_mask], dim=1).float()
    blocks = torch.zeros(input_ids.shape[0], 4, device=logits.device)
    return blocks.index_add_(0, positions // input_ids.shape[1], each)


def shares(total: Sequence[float]) -> dict[str, float]:
    """The accuracy of all predicted tokens and of those at the mask token, and how many were predicted."""
    right, predicted, right_at_mask, at_mask = total
    return {
        "accuracy": right / max(1.0, predicted),
        "accuracy_mask_token": right_at_mask / max(1.0, at_mask),
        "predicted_tokens": predicted,
    }
