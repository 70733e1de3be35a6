"""The parts of a frozen language-model head, so that single rows of its output can be computed.

A head turns a hidden state ``[..., H]`` by a transform into ``[..., .]``, multiplies it with the output matrix ``[V,
.]`` and adds a bias ``[V]``. Each function takes a model of transformers with its head;
:mod:`promptwise.backbones.families` says which one is for which family.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from promptwise.errors import BackboneError

Transform = Callable[[Tensor], Tensor]
Parts = tuple[Transform, Tensor, Tensor | None]
"""Transform, output matrix, bias."""

HeadParts = Callable[[Any], Parts]


def output_layer(model: Any) -> Parts:
    """No transform: decoders multiply the hidden state as it is."""
    return _chain(), *_output(model)


def bert(model: Any) -> Parts:
    """BERT's dense layer, activation and norm."""
    return model.cls.predictions.transform, *_output(model)


def roberta(model: Any) -> Parts:
    """RoBERTa's dense layer, GELU and norm."""
    head = model.lm_head
    return _chain(head.dense, nn.functional.gelu, head.layer_norm), *_output(model)


def electra(model: Any) -> Parts:
    """The head of ELECTRA's generator."""
    return model.generator_predictions, *_output(model)


def deberta_v2(model: Any) -> Parts:
    """DeBERTa's head, that of BERT in older checkpoints."""
    if model.legacy:
        return bert(model)
    head = model.lm_predictions.lm_head
    steps = _chain(head.dense, head.transform_act_fn, head.LayerNorm)
    return steps, model.base_model.get_input_embeddings().weight, head.bias


def distilbert(model: Any) -> Parts:
    """DistilBERT's dense layer, activation and norm."""
    return _chain(model.vocab_transform, model.activation, model.vocab_layer_norm), *_output(model)


def modernbert(model: Any) -> Parts:
    """ModernBERT's own head."""
    return model.head, *_output(model)


def modernbert_decoder(model: Any) -> Parts:
    """The head of ModernBERT's decoders, which stands before the output layer."""
    return model.lm_head, *_output(model)


def t5(model: Any) -> Parts:
    """T5's tied output matrix, for states that are scaled down."""
    scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else 1.0
    return lambda state: state * scale, *_output(model)


def bart(model: Any) -> Parts:
    """BART's output matrix with its separate bias."""
    return _chain(), _output(model)[0], model.final_logits_bias[0]


def known_by_decoder(model: Any) -> Parts:
    """One module for the head whose ``decoder`` is the output layer, as ALBERT and MPNet have it.

    Raises:
        BackboneError: The model has no such head.
    """
    output = model.get_output_embeddings()
    for part in model.children():
        if output is not None and getattr(part, "decoder", None) is output:
            transform = copy.copy(part)
            transform._modules = {**part._modules, "decoder": nn.Identity()}
            return transform, *_output(model)
    raise BackboneError(
        f"The language-model head of {model.config.model_type!r} is not known here, so its masks cannot be read. "
        "Choose another model, or train with --head classifier."
    )


def _output(model: Any) -> tuple[Tensor, Tensor | None]:
    output = model.get_output_embeddings()
    return output.weight, getattr(output, "bias", None)


def _chain(*steps: Transform) -> Transform:
    def run(state: Tensor) -> Tensor:
        for step in steps:
            state = step(state)
        return state

    return run
