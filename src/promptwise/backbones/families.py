"""What promptwise knows of each family of models: one entry each, and nothing about a family anywhere else.

A family that has no entry is served as far as transformers describes it: prompts, and prefixes where its attention
takes keys and values from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from promptwise.backbones import language_model_heads as heads
from promptwise.errors import BackboneError

Kind = Literal["encoder", "decoder", "encoder-decoder"]
"""Whether tokens see both sides, only what is before them, or an encoder's output."""

PrefixRoute = Literal["interface", "mpnet", "deberta", "none"]
"""How keys and values enter the attention: through the attention function that transformers lets a model's
configuration name, through a call of our own, or not at all."""


@dataclass(frozen=True)
class Family:
    """A family of models, by what the injectors and heads need of it.

    Paths are attribute names with dots. Those of ``layers``, ``entry`` and ``final`` start at the prompted stack (the
    base model, or the encoder of an encoder-decoder), those of ``feed_forward`` at a layer.

    Attributes:
        kind: What a token sees.
        layers: The list of layers; ``None`` where it is not known.
        entry: Modules that make the first layer's input of embeddings; above layer 0 they are passed by.
        added: Modules whose output is added to the embeddings; above layer 0 they add nothing.
        final: Modules that come after the last layer.
        feed_forward: The module whose input the feed-forward network of a layer reads, and the one whose output it
            gives.
        positions: Whether there is a limit to the positions.
        prefix: How keys and values enter.
        rotary: Whether positions enter as rotations of queries and keys alone, so that only distances count and a text
            may stand before position 0.
        first_layer_makes_bias: Whether the first layer makes a position bias that all layers use.
        reads_answer: Whether the decoder is read at its answer position; else it reads the input shifted by one, and is
            read at the same token.
        layers_give_pairs: Whether a layer gives its states in a pair.
        after_first: Modules that run once, after layer 0, where the model has them.
        head: The parts of the language-model head, see :mod:`promptwise.backbones.language_model_heads`.
        why_no_prefix: The reason for ``prefix="none"``, as an error says it.
    """

    kind: Kind
    layers: str | None = None
    entry: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    final: tuple[str, ...] = ()
    feed_forward: tuple[str, str] | None = None
    positions: Literal["limited", "unlimited"] = "limited"
    prefix: PrefixRoute = "interface"
    rotary: bool = False
    first_layer_makes_bias: bool = False
    reads_answer: bool = False
    layers_give_pairs: bool = False
    after_first: tuple[str, ...] = ()
    head: heads.HeadParts = heads.known_by_decoder
    why_no_prefix: str = "attention takes no keys and values from outside"

    @property
    def has_own_attention(self) -> bool:
        """Whether its attention is a call of our own, which looks at the current run of a backbone."""
        return self.prefix not in ("interface", "none")


_POST_NORM_FEED_FORWARD = ("intermediate", "output.dense")


def _bert_like(head: heads.HeadParts, **differences: Any) -> Family:
    known: dict[str, Any] = {
        "layers": "encoder.layer",
        "entry": ("embeddings",),
        "feed_forward": _POST_NORM_FEED_FORWARD,
    }
    return Family("encoder", head=head, **{**known, **differences})


def _llama_like() -> Family:
    return Family(
        "decoder",
        "layers",
        final=("norm",),
        feed_forward=("mlp", "mlp"),
        rotary=True,
        head=heads.output_layer,
    )


FAMILIES: dict[str, Family] = {
    "bert": _bert_like(heads.bert),
    "roberta": _bert_like(heads.roberta),
    "xlm-roberta": _bert_like(heads.roberta),
    "camembert": _bert_like(heads.roberta),
    "electra": _bert_like(heads.electra, entry=("embeddings", "embeddings_project")),
    "mpnet": _bert_like(heads.known_by_decoder, prefix="mpnet"),
    "deberta-v2": _bert_like(heads.deberta_v2, prefix="deberta", layers_give_pairs=True, after_first=("encoder.conv",)),
    "distilbert": Family(
        "encoder", "transformer.layer", ("embeddings",), feed_forward=("ffn", "ffn"), head=heads.distilbert
    ),
    "albert": Family(
        "encoder", prefix="none", why_no_prefix="layers are one layer that runs several times, so none has its own"
    ),
    "modernbert": Family(
        "encoder",
        "layers",
        ("embeddings",),
        final=("final_norm",),
        feed_forward=("mlp", "mlp"),
        rotary=True,
        head=heads.modernbert,
    ),
    "modernbert-decoder": Family("decoder", rotary=True, head=heads.modernbert_decoder),
    "gpt2": Family(
        "decoder", "h", added=("wpe",), final=("ln_f",), feed_forward=("mlp", "mlp"), head=heads.output_layer
    ),
    "gpt_neox": Family(
        "decoder",
        "layers",
        final=("final_layer_norm",),
        feed_forward=("mlp", "mlp"),
        rotary=True,
        head=heads.output_layer,
    ),
    "llama": _llama_like(),
    "mistral": _llama_like(),
    "qwen2": _llama_like(),
    "qwen3": _llama_like(),
    "gemma3_text": _llama_like(),
    "t5": Family(
        "encoder-decoder",
        "block",
        final=("final_layer_norm",),
        feed_forward=("layer.1.DenseReluDense", "layer.1.DenseReluDense"),
        positions="unlimited",
        first_layer_makes_bias=True,
        reads_answer=True,
        head=heads.t5,
    ),
    "mt5": Family("encoder-decoder", positions="unlimited", reads_answer=True),
    "umt5": Family("encoder-decoder", positions="unlimited", reads_answer=True),
    "bart": Family(
        "encoder-decoder",
        "layers",
        ("layernorm_embedding",),
        ("embed_positions",),
        feed_forward=("fc1", "fc2"),
        head=heads.bart,
    ),
}
"""By the ``model_type`` of a configuration."""


def family_of(config: Any) -> Family:
    """The family of a model, from its configuration.

    Raises:
        BackboneError: The model is no language model over tokens.
    """
    from transformers.models.auto import modeling_auto as auto

    known = FAMILIES.get(config.model_type)
    if known is not None:
        return known
    if config.model_type in _MIXES_PADDING:
        raise BackboneError(
            f"Models of type {config.model_type!r} mix padding into their states, so that an answer would depend on "
            "the other texts of its batch. Choose another model."
        )
    if getattr(config, "is_encoder_decoder", False):
        return Family("encoder-decoder")
    if config.get_text_config() is not config:
        raise BackboneError(
            f"Models of type {config.model_type!r} read more than text. Name a model of type "
            f"{config.get_text_config().model_type!r}, which is their part for text."
        )
    if config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return Family("encoder")
    if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        rotary = bool(getattr(config, "rope_parameters", None))
        return Family("decoder", rotary=rotary, head=heads.output_layer)
    raise BackboneError(f"Models of type {config.model_type!r} are no language models over tokens.")


_MIXES_PADDING = ("convbert", "fnet", "mobilebert", "nystromformer", "yoso")
"""Types whose states of a text change with the padding beside it, whatever the mask says."""


def lm_class(config: Any) -> Any:
    """The class of transformers that loads a model with its language-model head."""
    import transformers

    return {
        "encoder": transformers.AutoModelForMaskedLM,
        "decoder": transformers.AutoModelForCausalLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }[family_of(config).kind]
