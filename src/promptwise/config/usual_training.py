"""How long and how fast a run trains where nobody says it: passes over the rows, and a learning rate.

The passes show about as many examples whatever the number of rows, so the steps are about the same: two hundred of
batches of 32. More gain little for ``token-bias`` on 2,000 sentences, and cost accuracy on 1,000 (LOG.md, 2026-11-29).
The rates are peaks that suit a few hundred steps. They were searched on held-out parts of train (LOG.md), but for those
of ``attention`` and ``topic``, which stay at 1e-2 until they are, and of ``lopa``, ``idpg`` and ``mixture``, which have
those of the encoder's MLP until they are. A strategy that depends on the input takes a fixed share of its rate
(``Strategy.lr_scale``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from promptwise.config import FitConfig, PromptConfig

EXAMPLES = 6_000
"""How many examples a run sees, each counted as often as it is seen."""

FEWEST_EPOCHS, MOST_EPOCHS = 2, 50

PROMPT_LR = 1e-2
"""For whatever is not named below: linear probing, and plug-ins."""

BACKBONE_LR = 5e-5
"""For a run that tunes the backbone."""

LORA_LR = 3e-3
"""For a run with LoRA, whatever its rank: the scale of its updates is 1."""

FOUND = {
    ("prompt", "shared"): 3e-2,
    ("prompt", "random"): 3e-2,
    ("prompt", "pretrained"): 3e-2,
    ("prompt", "encoder (mlp)"): 3e-2,
    ("prompt", "encoder (cnn)"): 1e-2,
    ("prompt", "encoder (rnn)"): 1e-2,
    ("prompt", "attention"): 1e-2,
    ("prompt", "lopa"): 3e-2,
    ("prompt", "idpg"): 3e-2,
    ("prompt", "mixture"): 3e-2,
    ("prompt", "topic"): 1e-2,
    ("prefix", "shared"): 3e-2,
    ("prefix", "random"): 1e-2,
    ("prefix", "pretrained"): 1e-2,
    ("prefix", "encoder (mlp)"): 1e-2,
    ("prefix", "encoder (cnn)"): 1e-2,
    ("prefix", "encoder (rnn)"): 1e-2,
    ("prefix", "attention"): 1e-2,
    ("prefix", "lopa"): 1e-2,
    ("prefix", "idpg"): 1e-2,
    ("prefix", "mixture"): 1e-2,
    ("prefix", "topic"): 1e-2,
    ("hidden", "shared"): 1e-2,
    ("hidden", "encoder (mlp)"): 1e-2,
    ("hidden", "encoder (cnn)"): 1e-2,
    ("hidden", "encoder (rnn)"): 1e-2,
    ("hidden", "attention"): 1e-2,
    ("hidden", "lopa"): 1e-2,
    ("hidden", "idpg"): 1e-2,
    ("hidden", "mixture"): 1e-2,
    ("hidden", "topic"): 1e-2,
    ("hidden", "token-bias"): 6e-3,
    ("hidden", "context-bias"): 3e-3,
}
"""By base and :attr:`~promptwise.config.PromptConfig.method`, for models of :data:`WIDTH`."""

WIDTH = 384
"""``H`` of MiniLM, with which the rates were searched."""

FALL_WITH_WIDTH = (("hidden", "token-bias"),)
"""Whose rate is as much lower as a model is wider, which was measured at ``H`` = 768 (LOG.md, 2026-11-29)."""


_Fit = TypeVar("_Fit", bound=FitConfig)


def with_usual(fit: _Fit, prompt: PromptConfig, rows: int, width: int = WIDTH) -> _Fit:
    """How a run is trained, with its passes and its learning rate filled in where nobody said them.

    Args:
        fit: What was asked for.
        prompt: What is trained.
        rows: How many training rows there are.
        width: ``H`` of the backbone's layers.
    """
    epochs = usual_epochs(rows) if fit.epochs is None else fit.epochs
    return replace(fit, epochs=epochs, lr=learning_rate(prompt, fit, width))


def usual_epochs(rows: int) -> float:
    """Passes over so many training rows by which :data:`EXAMPLES` are seen, between the fewest and the most."""
    return float(min(max(round(EXAMPLES / max(rows, 1)), FEWEST_EPOCHS), MOST_EPOCHS))


def learning_rate(prompt: PromptConfig, fit: FitConfig, width: int = WIDTH) -> float:
    """The peak learning rate of a run: what was asked for, or what suits its base, its strategy and the model's width.

    Args:
        prompt: What is trained.
        fit: What was asked for.
        width: ``H`` of the backbone's layers.
    """
    if fit.lr is not None:
        return fit.lr
    if prompt.tune_backbone:
        return BACKBONE_LR
    if prompt.tune == "lora":
        return LORA_LR
    kind = prompt.base, prompt.method
    rate = FOUND.get(kind, PROMPT_LR)
    return rate * min(1.0, WIDTH / width) if kind in FALL_WITH_WIDTH else rate
