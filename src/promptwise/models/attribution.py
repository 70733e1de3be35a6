"""How much each word of an input moves a prediction: integrated gradients (Sundararajan et al. 2017) with captum.

The path of the integral starts at an input whose text is absent and ends at the input itself. An absent token has the
embedding of the mask token (or of the unknown token), and in strategies that look vectors up by token, the vector of an
unknown token. A word reaches the model as input and through the prompt, and its score counts both; the path is the same
for both, so the score is the sum of the two. Special tokens and template words are present along the whole path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from promptwise.backbones.backbone import Backbone
from promptwise.core.instance import Instance
from promptwise.errors import ConfigError
from promptwise.models.input_format import SPACE_MARKS
from promptwise.models.prompted import PromptedModel
from promptwise.tasks.problems import require_single
from promptwise.tasks.template import Texts
from promptwise.training.calibration import probabilities


@dataclass(frozen=True)
class Attribution:
    """What the words of an input do to a prediction.

    Attributes:
        label: The predicted label.
        probability: Its probability.
        words: The words of the text, in order, as the tokenizer has them.
        scores: For each word how far it moves the log-odds of that label; positive is towards it.
        error: How far the sum of the scores is from the change of the log-odds, because the integral is approximated.
        through_prompt: The part of each score that comes of the word's way through the prompt; the rest is the input's.
    """

    label: str
    probability: float
    words: tuple[str, ...]
    scores: tuple[float, ...]
    error: float
    through_prompt: tuple[float, ...] = ()


def require_captum() -> None:
    """Refuse to begin what needs captum.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import captum  # noqa: F401 (only whether it is there)
    except ImportError as missing:
        raise ConfigError("Attribution needs captum: pip install 'promptwise[figures]'.") from missing


def attribute(model: PromptedModel, text: str | Texts, steps: int = 64) -> Attribution:
    """Attribute a prediction to the words of its text.

    Args:
        model: A trained model.
        text: The text, or a pair of texts.
        steps: Points of the integral.

    Raises:
        ConfigError: captum is not installed, or the text is one where the task has two, or two where it has one.
    """
    require_single(model.spec, "An explanation")
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

    def logits(many: Instance, read: Instance) -> Tensor:
        return model.scores(
            many, model.hidden_read_as(many, read), None if position is None else position.expand(len(many.ids))
        )

    return attribute_logits(
        model.backbone, model.spec.labels, instance, logits, steps, min(steps, 16), model.temperature
    )


def attribute_logits(
    backbone: Backbone,
    labels: Sequence[str],
    instance: Instance,
    logits: Callable[[Instance, Instance], Tensor],
    steps: int,
    together: int,
    temperature: float,
) -> Attribution:
    """Attribute what a function says of one input to the words of its text.

    Args:
        backbone: The frozen model, whose embeddings and tokens these are.
        labels: The ``C`` labels.
        instance: The one input.
        logits: Logits ``[N, C]`` of ``N`` inputs that differ in how far their words are there, as the model sees them
            and as the strategy reads them; keeps gradients.
        steps: Points of the integral.
        together: The most inputs that ``logits`` is asked about at once.
        temperature: What logits are divided by before they are made probabilities.

    Raises:
        ConfigError: captum is not installed.
    """
    require_captum()
    from captum.attr import IntegratedGradients

    tokenizer = backbone.tokenizer
    absent = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.unk_token_id or 0
    nothing = backbone.embed(torch.full_like(instance.ids, absent))

    def faded(presence: Tensor) -> Instance:
        """The input with its text tokens there by ``presence`` ``[N, T]``."""
        count = len(presence)
        return replace(
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

    ones = torch.ones_like(instance.ids, dtype=torch.float32)
    with torch.no_grad():
        scores = logits(faded(ones), faded(ones))[0]
        predicted = int(scores.argmax())

    def log_odds(presence: Tensor, read: Tensor) -> Tensor:
        said = logits(faded(presence), faded(read)).log_softmax(-1)
        # A prompt that reads nothing has no gradient, which captum takes for a mistake.
        used = 0.0 * read.sum(-1)
        return said[:, predicted] - torch.log1p(-said[:, predicted].exp().clamp(max=1 - 1e-6)) + used

    baseline = torch.where(instance.text, 0.0, 1.0)
    (as_input, as_prompt), error = IntegratedGradients(log_odds).attribute(
        (ones, ones), (baseline, baseline), n_steps=steps, internal_batch_size=together, return_convergence_delta=True
    )
    places = torch.nonzero(instance.text[0]).squeeze(1).tolist()
    tokens = tokenizer.convert_ids_to_tokens(instance.ids[0, places].tolist())
    words, of_words = _merged(tokens, (as_input + as_prompt)[0, places].tolist(), places)
    _, of_prompt = _merged(tokens, as_prompt[0, places].tolist(), places)
    return Attribution(
        labels[predicted],
        float(probabilities(scores, temperature)[predicted]),
        tuple(words),
        tuple(of_words),
        -float(error[0]),
        tuple(of_prompt),
    )


def _merged(tokens: list[str], scores: list[float], places: list[int]) -> tuple[list[str], list[float]]:
    """Tokens put together to words, as ``##`` or a mark of the space tells, and their sums."""
    marked = any(token.startswith(SPACE_MARKS) for token in tokens)
    words: list[str] = []
    sums: list[float] = []
    for token, score, place, before in zip(tokens, scores, places, [-2, *places], strict=False):
        # A second text begins a word, whatever its first token looks like.
        goes_on = place == before + 1 and (token.startswith("##") or (marked and not token.startswith(SPACE_MARKS)))
        bare = token.removeprefix("##").lstrip("".join(SPACE_MARKS))
        if goes_on and words:
            words[-1] += bare
            sums[-1] += score
        else:
            words.append(bare)
            sums.append(score)
    return words, sums
