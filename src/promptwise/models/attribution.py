"""How much each word of an input moves a prediction: integrated gradients (Sundararajan et al. 2017) with captum.

The path of the integral starts at an input whose text is absent and ends at the input itself. An absent token has the
embedding of the mask token (or of the unknown token), and in strategies that look vectors up by token, the vector of an
unknown token. A word reaches the model as input and through the prompt, and its score counts both. Special tokens and
template words are present along the whole path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance
from promptwise.errors import ConfigError
from promptwise.models.prompted import PromptedModel
from promptwise.tasks.template import Texts


@dataclass(frozen=True)
class Attribution:
    """What the words of an input do to a prediction.

    Attributes:
        label: The predicted label.
        probability: Its probability.
        words: The words of the text, in order, as the tokenizer has them.
        scores: For each word how far it moves the log-odds of that label; positive is towards it.
        error: How far the sum of the scores is from the change of the log-odds, because the integral is approximated.
    """

    label: str
    probability: float
    words: tuple[str, ...]
    scores: tuple[float, ...]
    error: float


def attribute(model: PromptedModel, text: str | Texts, steps: int = 64) -> Attribution:
    """Attribute a prediction to the words of its text.

    Args:
        model: A trained model.
        text: The text, or a pair of texts.
        steps: Points of the integral.

    Raises:
        ConfigError: captum is not installed; the text is one where the task has two, or two where it has one; or the
            strategy reads hidden states, which keep no gradient.
    """
    check_attributable("The model", model.strategy.reads_layer)
    model.eval()
    rows = model.input_format.encode([model.checked(text)])
    batch = {key: value.to(model.device) for key, value in model.collate(rows).items()}
    instance, position = model.aligned(
        batch["input_ids"],
        batch["attention_mask"],
        batch["text_mask"],
        batch.get("token_type_ids"),
        batch.get("mask_position"),
    )

    def logits(many: Instance) -> Tensor:
        asked = None if position is None else position.expand(len(many.ids))
        return model.scores(many, model.hidden(many), asked)

    return attribute_logits(model.backbone, model.spec.labels, instance, logits, steps, min(steps, 16))


def check_attributable(what: str, reads_layer: int | None) -> None:
    """Refuse what cannot be attributed to words.

    Args:
        what: The model or the adapter, for the message.
        reads_layer: The layer whose states its strategy reads; ``None`` for none.

    Raises:
        ConfigError: It reads one.
    """
    if reads_layer is not None:
        raise ConfigError(
            f"{what} reads the hidden states of layer {reads_layer}, which keep no gradient, so which words moved it "
            "cannot be told. Train one without --reads-layer for that."
        )


def attribute_logits(
    backbone: Backbone,
    labels: Sequence[str],
    instance: Instance,
    logits: Callable[[Instance], Tensor],
    steps: int,
    together: int,
) -> Attribution:
    """Attribute what a function says of one input to the words of its text.

    Args:
        backbone: The frozen model, whose embeddings and tokens these are.
        labels: The ``C`` labels.
        instance: The one input.
        logits: Logits ``[N, C]`` of ``N`` inputs that differ in how far their words are there; keeps gradients.
        steps: Points of the integral.
        together: The most inputs that ``logits`` is asked about at once.

    Raises:
        ConfigError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as missing:
        raise ConfigError("Attribution needs captum: pip install 'promptwise[figures]'.") from missing
    tokenizer = backbone.tokenizer
    absent = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.unk_token_id or 0
    nothing = backbone.embed(torch.full_like(instance.ids, absent))

    def faded(presence: Tensor) -> Tensor:
        """Logits ``[N, C]`` of the input with its text tokens there by ``presence`` ``[N, T]``."""
        count = len(presence)
        many = replace(
            instance,
            **{
                name: getattr(instance, name).expand(count, *getattr(instance, name).shape[1:])
                for name in ("ids", "mask", "text", "token_types")
                if getattr(instance, name) is not None
            },
            embeddings=nothing + presence.unsqueeze(-1) * (instance.embeddings - nothing),
            presence=presence,
            absent=nothing[0, 0],
        )
        return logits(many)

    ones = torch.ones_like(instance.ids, dtype=torch.float32)
    with torch.no_grad():
        scores = faded(ones)[0]
        predicted = int(scores.argmax())

    def log_odds(presence: Tensor) -> Tensor:
        said = faded(presence).log_softmax(-1)
        return said[:, predicted] - torch.log1p(-said[:, predicted].exp().clamp(max=1 - 1e-6))

    baseline = torch.where(instance.text, 0.0, 1.0)
    values, error = IntegratedGradients(log_odds).attribute(
        ones, baseline, n_steps=steps, internal_batch_size=together, return_convergence_delta=True
    )
    places = torch.nonzero(instance.text[0]).squeeze(1).tolist()
    tokens = tokenizer.convert_ids_to_tokens(instance.ids[0, places].tolist())
    words, of_words = _merged(tokens, values[0, places].tolist(), places)
    return Attribution(
        labels[predicted],
        float(scores.softmax(-1)[predicted]),
        tuple(words),
        tuple(of_words),
        -float(error[0]),
    )


def _merged(tokens: list[str], scores: list[float], places: list[int]) -> tuple[list[str], list[float]]:
    """Tokens put together to words, as ``##`` or a mark of the space (``Ġ``, ``▁``) tells, and their sums."""
    marks = ("Ġ", "▁")
    marked = any(token.startswith(marks) for token in tokens)
    words: list[str] = []
    sums: list[float] = []
    for token, score, place, before in zip(tokens, scores, places, [-2, *places], strict=False):
        # A second text begins a word, whatever its first token looks like.
        goes_on = place == before + 1 and (token.startswith("##") or (marked and not token.startswith(marks)))
        bare = token.removeprefix("##").lstrip("".join(marks))
        if goes_on and words:
            words[-1] += bare
            sums[-1] += score
        else:
            words.append(bare)
            sums.append(score)
    return words, sums
