"""LoRA (Hu et al. 2021, 2106.09685): low-rank updates of the matrices inside a backbone's layers."""

from __future__ import annotations

import importlib.util
from typing import ClassVar

from torch import nn

from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError, ConfigError
from promptwise.tunings.base import Tuning
from promptwise.tunings.settings import LoraSettings


class LoRA(Tuning):
    """peft's LoRA on every matrix of the layers that prompts would reach.

    A matrix ``W`` ``[out, in]`` acts as ``W + (alpha / r) B A`` (equation 3) with ``A`` ``[r, in]`` and ``B``
    ``[out, r]``; ``alpha`` is ``r`` and there is no dropout. ``W`` stays frozen, in the dtype that it is multiplied in;
    ``A`` and ``B`` are float32, and ``B`` starts at zero.

    Args:
        lora_rank: ``r``.
    """

    settings: ClassVar[type] = LoraSettings

    def __init__(self, lora_rank: int) -> None:
        self.rank = lora_rank

    @staticmethod
    def check() -> None:
        """See :meth:`Tuning.check`."""
        if importlib.util.find_spec("peft") is None:
            raise ConfigError("`--tune lora` needs peft: pip install 'promptwise[pretrain]'.")

    def add_to(self, backbone: Backbone) -> None:
        """See :meth:`Tuning.add_to`."""
        self.check()
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        if backbone.family.layers is None:
            raise BackboneError(
                f"--tune lora changes the matrices of a model's layers, and those of {backbone.model_type} "
                f"({backbone.name}) cannot be told apart here. Use --tune-backbone, or another --model."
            )
        inside = {id(part) for layer in backbone.layers for part in layer.modules()}
        matrices = {
            name: part for name, part in backbone.stack.named_modules() if id(part) in inside and _is_matrix(part)
        }
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            lora_dropout=0.0,
            target_modules=list(matrices),
            # GPT-2 keeps its matrices the other way round.
            fan_in_fan_out=not any(isinstance(part, nn.Linear) for part in matrices.values()),
        )
        inject_adapter_in_model(config, backbone.stack)
        for part in backbone.stack.modules():
            if isinstance(part, LoraLayer):
                for weights in (part.lora_A, part.lora_B):
                    # peft stores them in the dtype of the frozen matrix, in which small steps would be lost.
                    weights.float()


def _is_matrix(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
