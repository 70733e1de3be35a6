"""Gradient checkpointing of a frozen model's layers."""

from __future__ import annotations

from typing import Any

from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError


def enable_checkpointing(backbone: Backbone, options: dict[str, Any] | None, **more: Any) -> None:
    """Let a backbone's layers make their activations again in the backward pass while they are in training mode.

    Args:
        backbone: The frozen model.
        options: Arguments of ``torch.utils.checkpoint.checkpoint``.
        more: Further arguments of transformers' method.

    Raises:
        BackboneError: Its class in transformers cannot do that, or the checkpoints are reentrant.
    """
    if (options or {}).get("use_reentrant"):
        # No input of a layer wants a gradient then, and such a checkpoint drops that of the prefix.
        raise BackboneError("Checkpoints with use_reentrant=True give a prefix no gradient. Leave use_reentrant out.")
    model = backbone.model
    newer = hasattr(model, "activation_checkpointing_enable")
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    try:
        enable(options, **more)
    except ValueError as error:
        raise BackboneError(f"{backbone.name}: {error} Leave --gradient-checkpointing out.") from error
    # transformers lets the word embeddings want gradients, for checkpoints of another kind; nothing here needs them.
    model.disable_input_require_grads()
    backbone.checkpointed = tuple(
        module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True
    )
    for module in backbone.checkpointed:
        checkpointed: Any = module
        if hasattr(checkpointed, "_gradient_checkpointing_func"):
            function = checkpointed._gradient_checkpointing_func
            checkpointed._gradient_checkpointing_func = backbone.current.in_checkpoint(function)
