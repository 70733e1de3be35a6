"""``transformers.pipeline`` on an adapter gives what ``predict`` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from promptwise import Prediction, PromptedModel, TaskSpec
from promptwise.errors import ConfigError
from tests.contract.common import draw_numbers

Folder = Callable[[str], Path]

SPEC = TaskSpec("moods", "", "{text}", "label", ("bad", "good", "okay"), hard_prompt=("film", "news"))
PAIRS = replace(SPEC, text_pair="{other}", template="{text} {text_pair} It was {mask}.")
TEXTS = ["a good film", "What a terrible, boring and awful book! " * 20, "", "zyzzyva 7"]


def model_of(folder: Path, spec: TaskSpec = SPEC, **options: Any) -> PromptedModel:
    """A model whose prompt matters, with a temperature that was fitted."""
    model = PromptedModel.from_backbone(str(folder), task=spec, dtype="fp32", device="cpu", length=3, **options)
    draw_numbers([model], 1)
    model.temperature = 2.5
    return model


def classify(model: PromptedModel, inputs: Any, **options: Any) -> Any:
    """What the pipeline says."""
    return pipeline("text-classification", model=model, tokenizer=model.tokenizer, device="cpu")(inputs, **options)


def agree(said: list[dict[str, Any]], predicted: Prediction) -> None:
    """All labels of an input, the best one first, with the probabilities of ``predict``."""
    assert said[0]["label"] == predicted.label
    found = {one["label"]: one["score"] for one in said}
    assert found == pytest.approx(predicted.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bert", {"base": "prefix", "strategy": "encoder"}),
        ("bert", {"base": "prompt", "strategy": "shared", "hard_prompt": True}),
        ("roberta", {"base": "prompt", "strategy": "attention", "head": "cloze"}),
        ("gpt2", {"base": "prefix", "strategy": "shared", "head": "cloze"}),
        ("t5", {"base": "prompt", "strategy": "shared"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pipeline_says_what_predict_says(
    tiny_folder: Folder, kind: str, options: dict[str, Any], batch_size: int
) -> None:
    """Templates, hard prompts, long and empty texts and the temperature are those of ``predict``, in batches too."""
    model = model_of(tiny_folder(kind), **options)
    for said, predicted in zip(
        classify(model, TEXTS, top_k=None, batch_size=batch_size), model.predict(TEXTS), strict=True
    ):
        agree(said, predicted)


def test_pairs_are_mappings(tiny_folder: Folder) -> None:
    """A pair is a mapping with ``text`` and ``text_pair``, as pipelines have it; one text of a pair is refused."""
    model = model_of(tiny_folder("bert"), PAIRS, base="prompt", strategy="shared")
    pairs = [("a good film", "the end was bad"), ("no", "Yes, it did. " * 60)]
    inputs = [{"text": text, "text_pair": other} for text, other in pairs]
    for said, predicted in zip(classify(model, inputs, top_k=None, batch_size=2), model.predict(pairs), strict=True):
        agree(said, predicted)
    with pytest.raises(ConfigError, match="pairs of texts"):
        classify(model, "one text")


def test_the_number_of_labels_is_the_callers(tiny_folder: Folder) -> None:
    """``top_k`` chooses the most probable labels, and without it there is one."""
    model = model_of(tiny_folder("bert"), base="prompt", strategy="shared")
    (predicted,) = model.predict(TEXTS[:1])
    assert [one["label"] for one in classify(model, TEXTS[0], top_k=2)] == sorted(
        predicted.probabilities, key=predicted.probabilities.__getitem__, reverse=True
    )[:2]
    (alone,) = classify(model, TEXTS[0])
    assert alone["label"] == predicted.label


def test_a_shorter_input_can_be_asked_for(tiny_folder: Folder) -> None:
    """``max_length`` cuts more, and a text that must not be cut is refused with its length."""
    model = model_of(tiny_folder("bert"), base="prompt", strategy="shared")
    long = TEXTS[1]
    assert model.tokenizer(long)["input_ids"].shape[1] == model.input_format.max_tokens
    assert model.tokenizer(long, max_length=10, truncation=True, padding=True)["input_ids"].shape[1] == 10
    assert classify(model, long, max_length=10, truncation=True) != classify(model, long)
    with pytest.raises(ConfigError, match=f"the most is {model.input_format.max_tokens}"):
        classify(model, long, truncation=False)
    with pytest.raises(ConfigError, match="leaves no room"):
        classify(model, long, max_length=2)
    with pytest.raises(ConfigError, match="'np'"):
        model.tokenizer(long, return_tensors="np")


def test_the_temperature_changes_no_loss(tiny_folder: Folder) -> None:
    """Logits are divided where that is asked for, and the loss is that of the undivided ones."""
    model = model_of(tiny_folder("bert"), base="prompt", strategy="shared")
    inputs = model.tokenizer("a good film")
    labels = torch.tensor([1])
    warm = model(**inputs, labels=labels)
    inputs.pop("temperature")
    plain = model(**inputs, labels=labels)
    assert torch.equal(warm.logits, plain.logits / 2.5)
    assert torch.equal(warm.loss, plain.loss)
