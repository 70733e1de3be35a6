"""``read_tokens``: how much of a text the strategy reads, apart from how long the prompt is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from promptwise import PromptConfig, PromptedModel
from promptwise.backbones.backbone import Backbone
from promptwise.errors import ConfigError
from promptwise.tasks.examples import Example
from promptwise.tasks.spec import TaskSpec
from tests.contract.common import TinyFolder, instance_of, load, make_prepared

SINGLE = TaskSpec(
    name="single",
    description="One text.",
    text="{text}",
    label="label",
    labels=("good", "bad"),
    template="{text} {mask}.",
)
START = "the film was"
TEXTS = [Example(f"{START} great and the music was good", None, 0), Example(f"{START} bad", None, 1)]
OTHER = Example("a film was great and the music was good", None, 0)
STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "random"},
    {"strategy": "encoder", "encoder": "cnn"},
    {"strategy": "encoder", "encoder": "rnn"},
    {"strategy": "encoder", "encoder": "mlp", "train_table": True},
]


@pytest.fixture(scope="module")
def backbone(tiny_folder: TinyFolder) -> Backbone:
    """A tiny BERT."""
    return load(tiny_folder("bert"), lm_head=False)


def model_of(backbone: Backbone, read_tokens: float | None, **options: Any) -> PromptedModel:
    """A prepared model whose strategy reads so many tokens."""
    return make_prepared(
        backbone, spec=SINGLE, examples=[*TEXTS, OTHER], read_tokens=read_tokens, base="prompt", **options
    )


@torch.no_grad()
def prompts(model: PromptedModel) -> tuple[Tensor, Tensor]:
    """Vectors and masks of the three texts."""
    prompt = model.prompt(instance_of(model, model.features([*TEXTS, OTHER])))
    whole = torch.ones(prompt.vectors.shape[:2], dtype=torch.bool)
    return prompt.vectors, whole if prompt.mask is None else prompt.mask


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_what_is_not_read_does_not_matter(backbone: Backbone, options: dict[str, Any]) -> None:
    """Texts with the same first three tokens have the same prompt when three are read; another start has another."""
    read, mask = prompts(model_of(backbone, 3, **options))
    assert torch.equal(mask[0], mask[1])
    torch.testing.assert_close(read[0][mask[0]], read[1][mask[1]])
    assert not torch.allclose(read[0][mask[0]], read[2][mask[2]], atol=1e-3)
    whole, full = prompts(model_of(backbone, None, **options))
    differ = full[0] & full[1]
    assert not torch.allclose(whole[0][differ], whole[1][differ], atol=1e-3) or not torch.equal(full[0], full[1])


def test_the_backbone_reads_the_whole_text(backbone: Backbone) -> None:
    """The limit is the strategy's: texts with the same prompt still have other logits."""
    model = model_of(backbone, 3, strategy="encoder", encoder="mlp")
    logits = model.logits(model.features(TEXTS))
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_a_table_has_rows_for_what_is_read(backbone: Backbone) -> None:
    """Random IPT that reads two tokens has rows for the first two tokens of the texts, and two vectors."""
    model = model_of(backbone, 2, strategy="random")
    tokenizer = backbone.tokenizer
    first = {
        token for text in (*TEXTS, OTHER) for token in tokenizer(text.text, add_special_tokens=False)["input_ids"][:2]
    }
    assert set(model.strategy.table.ids.tolist()) == first
    assert prompts(model)[1].sum(1).tolist() == [2, 2, 2]


def test_a_share_is_of_the_maximum_length() -> None:
    """The paper's columns: with a maximum length of 384 these rates are these numbers of tokens."""
    rates = {0.002: 1, 0.013: 5, 0.03: 12, 0.05: 19, 0.1: 38, 0.21: 81, 0.26: 100, 0.3: 115}
    assert {rate: PromptConfig(strategy="encoder", read_tokens=rate, max_length=384).reading for rate in rates} == rates
    assert PromptConfig(strategy="encoder", read_tokens=20).reading == 20
    assert PromptConfig().reading is None
    with pytest.raises(ConfigError, match="--read-tokens is 0"):
        PromptConfig(strategy="encoder", read_tokens=0)


def test_a_prompt_that_reads_no_text_has_nothing_to_read(tiny_folder: TinyFolder) -> None:
    """``--read-tokens`` beside one prompt for all would be left out of account, so it is refused."""
    with pytest.raises(ConfigError, match="--read-tokens would change nothing beside --strategy shared"):
        model_of(load(tiny_folder("bert"), lm_head=False), 3, strategy="shared")
