"""Fingerprints of weights: two models with the same one give the same numbers."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def head_weights(model: nn.Module, body: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The weights of a model that are not in its body: those of its language-model head."""
    known = {id(weight) for weight in body.values()}
    return {key: weight for key, weight in model.named_parameters() if id(weight) not in known and "pooler." not in key}


def fingerprint(weights: dict[str, nn.Parameter]) -> str:
    """sha256 over names, shapes, dtypes and bytes of weights."""
    digest = hashlib.sha256()
    for key, weight in sorted(weights.items()):
        digest.update(f"{key} {tuple(weight.shape)} {weight.dtype}\n".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
