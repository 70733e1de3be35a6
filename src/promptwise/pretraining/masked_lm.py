"""A frozen encoder with a language-model head and low-rank updates that are trained to fill masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.backbones.cloze_weights import ClozeWeights
from promptwise.errors import ConfigError
from promptwise.pretraining.blocks import IGNORED
from promptwise.pretraining.evaluation import counts, mask_logits

SCALE = 1.0


class MaskedLM(nn.Module):
    """What ``Trainer`` trains: the head, and peft's LoRA on every matrix of the encoder's layers (Hu et al. 2021).

    Only the rows of the masked positions reach the output matrix, which is the frozen word-embedding matrix.

    Args:
        backbone: An encoder with its language-model head; it is changed in place.
        rank: Rank ``r`` of the updates; they are scaled by :data:`SCALE`, ``alpha / r``.
    """

    # Otherwise Trainer multiplies the loss by the number of accumulation steps and processes.
    accepts_loss_kwargs = False
    output_matrix: Tensor

    def __init__(self, backbone: Backbone, rank: int) -> None:
        super().__init__()
        from peft import LoraConfig, inject_adapter_in_model

        self.backbone = backbone
        matrices = [name for name, part in backbone.base.named_modules() if isinstance(part, nn.Linear)]
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=matrices), backbone.base)
        tied = backbone.base.get_input_embeddings().weight
        encoder = {id(parameter) for parameter in backbone.base.parameters()}
        for name, parameter in backbone.model.named_parameters():
            # The output matrix is the word-embedding matrix, which is among the encoder's parameters and stays frozen.
            parameter.requires_grad_(id(parameter) not in encoder or "lora_" in name)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.register_buffer("output_matrix", tied.detach().to(backbone.compute_dtype), persistent=False)

    def forward(self, input_ids: Tensor, positions: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Fill the masks.

        Args:
            input_ids: ``[B, T]`` without padding.
            positions: ``[P]`` in the flattened batch.
            labels: ``[P]`` tokens, or -100.

        Returns:
            ``loss``, the mean cross-entropy, and outside training ``counts`` ``[B, 4]``: of each block the right and
            all predictions, and those two at the mask token.
        """
        logits = mask_logits(self.backbone, input_ids, positions, self.output_matrix)
        output = {"loss": nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED)}
        if not self.training:
            output["counts"] = counts(logits, labels, positions, input_ids, self.backbone.mask_token_id or 0)
        return output

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for the optimizer: vectors are not decayed."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        vectors = [parameter for parameter in trained if parameter.ndim < 2]
        matrices = [parameter for parameter in trained if parameter.ndim >= 2]
        return [{"params": matrices, "lr": lr}, {"params": vectors, "lr": lr, "weight_decay": 0.0}]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained tensors alone: the frozen ones are in the backbone's own files."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what :meth:`state_dict` gave."""
        if strict and (wrong := set(state_dict) ^ set(self.state_dict())):
            raise KeyError(f"not the tensors of this model: {', '.join(sorted(wrong)[:3])}")
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        # The frozen tensors are left out on purpose; Trainer would warn of each.
        result.missing_keys.clear()
        return result

    def start_from(self, weights: ClozeWeights) -> None:
        """Take the first values from an earlier run.

        Raises:
            ConfigError: It was on another encoder, or with another rank.
        """
        if weights.base_fingerprint != self.backbone.fingerprint:
            raise ConfigError(
                f"The weights to start from were made for {weights.base_model} (fingerprint "
                f"{weights.base_fingerprint[:16]}); {self.backbone.name} has {self.backbone.fingerprint[:16]}."
            )
        own = self.cloze_tensors()
        wrong = [
            name for name, value in own.items() if getattr(weights.tensors.get(name), "shape", None) != value.shape
        ]
        if wrong:
            raise ConfigError(
                f"The weights to start from do not fit: {wrong[0]} is {tuple(own[wrong[0]].shape)} here. Use the "
                "--rank that they were made with."
            )
        for name, value in own.items():
            value.copy_(weights.tensors[name])

    def cloze_tensors(self) -> dict[str, Tensor]:
        """The trained tensors by the names of :class:`~promptwise.backbones.cloze_weights.ClozeWeights`."""
        base, whole = self.backbone.base, self.backbone.model
        updates = {
            name.replace(".default.", "."): value for name, value in base.named_parameters() if value.requires_grad
        }
        head = {name: value for name, value in whole.named_parameters() if value.requires_grad and "lora_" not in name}
        return {name: value.detach() for name, value in {**updates, **head}.items()}
