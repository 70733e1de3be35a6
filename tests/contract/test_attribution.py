"""Attribution accounts for the whole prediction, on both ways that a word has into the model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from promptwise import PromptedModel
from promptwise.errors import ConfigError
from promptwise.models.attribution import attribute
from tests.contract.common import TinyFolder, load, make_knowledge, make_prepared

TEXT = ("The movie was great and the music was great too.", "It was a good film.")
METHODS: dict[str, dict[str, Any]] = {
    "shared": {"strategy": "shared"},
    "random": {"strategy": "random"},
    "encoder": {"strategy": "encoder", "encoder": "mlp"},
    "encoder with a table": {"strategy": "encoder", "encoder": "cnn", "knowledge": "some"},
}


def log_odds(model: PromptedModel, row: dict[str, Any], label: str) -> float:
    """The log-odds of a label."""
    probabilities = model.logits([row]).double().softmax(-1)[0]
    return float(torch.logit(probabilities[model.spec.labels.index(label)]))


@pytest.mark.parametrize("head", ["classifier", "cloze"])
@pytest.mark.parametrize("base", ["prompt", "prefix"])
@pytest.mark.parametrize("method", METHODS)
def test_scores_add_up(method: str, base: str, head: str, tiny_folder: TinyFolder, tmp_path: Any) -> None:
    """The sum of the scores is the log-odds less those of an input without words; words are those of the text."""
    backbone = load(tiny_folder("bert"), lm_head=head == "cloze")
    options = dict(METHODS[method])
    if "knowledge" in options:
        options["knowledge"] = str(make_knowledge(backbone, tmp_path / "knowledge"))
    model = make_prepared(backbone, base=base, head=head, **options)
    said = attribute(model, TEXT, steps=600)
    assert said.label == model.predict([TEXT])[0].label
    assert " ".join(said.words) == " ".join(TEXT).lower().replace(".", " .")
    assert abs(said.error) < 0.02 * sum(map(abs, said.scores))
    assert max(map(abs, said.scores)) > 1e-3
    if method == "shared":
        # Its prompt does not read, so an input without words can be made of mask tokens by hand.
        rows = model.input_format.encode([TEXT])
        mask = backbone.tokenizer.mask_token_id
        ids = [mask if own else token for token, own in zip(rows[0]["input_ids"], rows[0]["text_mask"], strict=True)]
        full, empty = (log_odds(model, one, said.label) for one in (rows[0], {**rows[0], "input_ids": ids}))
        assert sum(said.scores) == pytest.approx(full - empty, abs=0.02 * sum(map(abs, said.scores)))


def test_a_word_counts_through_the_table_too(tiny_folder: TinyFolder) -> None:
    """With large table rows the scores are others than with rows that all equal the unknown token's."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="random")
    strategy: Any = model.strategy
    moved = attribute(model, TEXT, steps=100)
    with torch.no_grad():
        strategy.table.rows.copy_(strategy.table.rows.mean(0).expand_as(strategy.table.rows))
    still = attribute(model, TEXT, steps=100)
    assert moved.words == still.words
    assert any(abs(one - other) > 0.01 for one, other in zip(moved.scores, still.scores, strict=True))


def test_the_model_is_left_as_it_was(tiny_folder: TinyFolder) -> None:
    """Predictions before and after are the same, and no gradient stays on a parameter."""
    model = make_prepared(load(tiny_folder("roberta"), lm_head=False), base="prefix", strategy="random")
    before = model.predict([TEXT])
    said = attribute(model, TEXT, steps=8)
    assert said.words == tuple(" ".join(TEXT).split()), "also where one text ends and the other begins"
    assert model.predict([TEXT]) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_text_that_the_task_does_not_read_is_refused(tiny_folder: TinyFolder) -> None:
    """One text of a task on pairs is refused as ``predict`` refuses it, not read with an empty second one."""
    model = make_prepared(load(tiny_folder("bert"), lm_head=False), base="prompt", strategy="shared")
    for text in (TEXT[0], (TEXT[0], None), None, 5):
        with pytest.raises(ConfigError) as predicted:
            model.predict([text])  # type: ignore[list-item]
        with pytest.raises(ConfigError, match=re.escape(str(predicted.value))):
            attribute(model, text)  # type: ignore[arg-type]
