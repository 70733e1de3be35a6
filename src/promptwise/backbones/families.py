"""What a model's configuration says about its kind."""

from __future__ import annotations

from typing import Any, Literal

from promptwise.errors import BackboneError

Kind = Literal["encoder", "decoder", "encoder-decoder"]


def kind_of(config: Any) -> Kind:
    """The kind of a model, from its configuration.

    Raises:
        BackboneError: The model is no language model over tokens.
    """
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    raise BackboneError(f"Models of type {config.model_type!r} are no language models over tokens.")


def lm_class(config: Any) -> Any:
    """The class of transformers that loads a model with its language-model head."""
    import transformers

    return {
        "encoder": transformers.AutoModelForMaskedLM,
        "decoder": transformers.AutoModelForCausalLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }[kind_of(config)]
