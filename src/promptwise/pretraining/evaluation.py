"""How well a loaded model fills masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from promptwise.backbone import Backbone
from promptwise.batching import chunks
from promptwise.heads.cloze import lm_head_parts
from promptwise.pretraining.blocks import IGNORED, Masking, ordinary_tokens, pack

HELD_OUT_SEED = 0


@torch.inference_mode()
def held_out_accuracy(
    backbone: Backbone,
    texts: Sequence[str],
    *,
    whole_words: bool = True,
    mask_rate: float = 0.15,
    block_length: int = 128,
    batch_size: int = 32,
) -> dict[str, float]:
    """The share of predicted tokens that are right, on the masks that ``promptwise pretrain cloze`` scores.

    Args:
        backbone: An encoder with its language-model head.
        texts: Held-out paragraphs.
        whole_words: Mask whole words, as in training; otherwise each token for itself, which is easier.
        mask_rate: Share of the tokens that are predicted.
        block_length: Tokens of a block.
        batch_size: Blocks at a time; it decides the masks too.

    Returns:
        ``accuracy`` of all predicted tokens, ``accuracy_mask_token`` of those at the mask token, and their number.
    """
    blocks = pack(backbone.tokenizer, texts, block_length)
    if not whole_words:
        blocks = replace(blocks, word_starts=torch.ones_like(blocks.word_starts))
    tokenizer = backbone.tokenizer
    mask = Masking(blocks, tokenizer.mask_token_id, ordinary_tokens(tokenizer), mask_rate, HELD_OUT_SEED)
    transform, matrix, bias = lm_head_parts(backbone)
    right, masked = [], []
    for rows in chunks([{"index": index, "block": index} for index in range(len(blocks))], batch_size):
        batch = {key: value.to(backbone.device) for key, value in mask(rows).items()}
        kept = batch["labels"] != IGNORED
        positions, labels = batch["positions"][kept], batch["labels"][kept]
        with backbone.autocast():
            hidden = backbone.base(input_ids=batch["input_ids"]).last_hidden_state.flatten(0, 1)[positions]
            logits = torch.nn.functional.linear(transform(hidden), matrix, bias)
        right.append(logits.argmax(-1) == labels)
        masked.append(batch["input_ids"].flatten()[positions] == tokenizer.mask_token_id)
    correct, at_mask = torch.cat(right), torch.cat(masked)
    return {
        "accuracy": correct.double().mean().item(),
        "accuracy_mask_token": correct[at_mask].double().mean().item(),
        "predicted_tokens": len(correct),
    }
