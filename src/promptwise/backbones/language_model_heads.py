"""The parts of a frozen language-model head, so that single rows of its output can be computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from promptwise.backbones.backbone import Backbone
from promptwise.errors import BackboneError

Transform = Callable[[Tensor], Tensor]


def lm_head_parts(backbone: Backbone) -> tuple[Transform, Tensor, Tensor | None]:
    """What the language-model head does to a hidden state: a transform, the output matrix ``[V, .]``, a bias ``[V]``.

    Raises:
        BackboneError: The head of this model type is not known here.
    """
    model: Any = backbone.model
    output = model.get_output_embeddings()
    matrix, bias = output.weight, getattr(output, "bias", None)
    match backbone.model_type:
        case "bert":
            return model.cls.predictions.transform, matrix, bias
        case "deberta-v2" if model.legacy:
            return model.cls.predictions.transform, matrix, bias
        case "deberta-v2":
            head = model.lm_predictions.lm_head
            steps = _chain(head.dense, head.transform_act_fn, head.LayerNorm)
            return steps, backbone.base.get_input_embeddings().weight, head.bias
        case "roberta" | "xlm-roberta" | "camembert":
            head = model.lm_head
            return _chain(head.dense, nn.functional.gelu, head.layer_norm), matrix, bias
        case "electra":
            return model.generator_predictions, matrix, bias
        case "distilbert":
            return _chain(model.vocab_transform, model.activation, model.vocab_layer_norm), matrix, bias
        case "modernbert":
            return model.head, matrix, bias
        case "t5":
            scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0
            return lambda state: state * scale, matrix, bias
        case "bart":
            return _chain(), matrix, model.final_logits_bias[0]
        case _ if backbone.kind == "decoder":
            return _chain(), matrix, bias
    for part in model.children():
        # ALBERT, MPNet and others have one module for the head, whose decoder is the output matrix.
        if getattr(part, "decoder", None) is output:
            transform = copy.copy(part)
            transform._modules = {**part._modules, "decoder": nn.Identity()}
            return transform, matrix, bias
    raise BackboneError(
        f"The language-model head of {backbone.model_type!r} ({backbone.name}) is not known here, so its masks cannot "
        "be read. Choose another model, or train with --head classifier."
    )


def _chain(*steps: Transform) -> Transform:
    def run(state: Tensor) -> Tensor:
        for step in steps:
            state = step(state)
        return state

    return run
