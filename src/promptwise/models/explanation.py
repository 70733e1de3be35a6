"""Why a model predicts what it predicts for a text: its words, and what the prompt that is made of them changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from promptwise.models.attribution import Attribution, attribute
from promptwise.models.prompted import PromptedModel
from promptwise.tasks.predictions import Prediction
from promptwise.tasks.template import Texts
from promptwise.training.calibration import probabilities


@dataclass(frozen=True)
class Explanation:
    """A prediction with its reasons.

    Attributes:
        texts: The text, and the second one of a pair.
        attribution: The prediction and what each word does to it.
        task_level: The prediction with the prompt that the strategy makes of an empty text, which is the same for every
            input; ``None`` where the prompt does not depend on the input anyway, and for biases of tokens, which an
            empty text has none of.
        label: The true label, where it is known.
    """

    texts: Texts
    attribution: Attribution
    task_level: Prediction | None
    label: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether the prediction is known to be wrong."""
        return self.label is not None and self.label != self.attribution.label


def explain(model: PromptedModel, text: str | Texts, label: str | None = None, steps: int = 64) -> Explanation:
    """Explain a prediction.

    Args:
        model: A trained model.
        text: The text, or a pair of texts.
        label: The true label, if it is known.
        steps: Points of the integral that attributes it to words.

    Raises:
        ConfigError: captum is not installed, or the text is one where the task has two, or two where it has one.
    """
    texts = model.checked(text)
    return Explanation(texts, attribute(model, texts, steps), task_level(model, texts), label)


@torch.inference_mode()
def task_level(model: PromptedModel, texts: Texts) -> Prediction | None:
    """The prediction for a text with the prompt of an empty one.

    It is ``None`` where every text has the same prompt. It is so for biases of tokens too: what they add belongs to the
    tokens of the text itself, and nothing of it would be left for all texts alike.
    """
    if not model.strategy.instance_wise or model.strategy.makes_edits:
        return None
    model.eval()
    rows = model.input_format.encode([texts])
    batch = {key: value.to(model.device) for key, value in model.collate(rows).items()}
    instance, position = model.aligned(**batch)
    hidden = model.hidden_read_as(instance, replace(instance, text=torch.zeros_like(instance.text)))
    logits = model.scores(instance, hidden, position)[0].float().cpu()
    return Prediction.of(model.spec.labels, probabilities(logits, model.temperature).tolist(), int(logits.argmax()))
